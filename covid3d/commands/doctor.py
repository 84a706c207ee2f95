"""What this machine has and what each profile needs."""

import importlib.metadata
import platform
import shutil
import sys
from typing import Any

import psutil

from covid3d.run.files import cpu_count
from covid3d.run.profile import load_profile, profile_names, repository_root

GIB = 2**30
PYTHONS = ((3, 11), (3, 12), (3, 13))


def examine() -> dict[str, Any]:
    """Return the machine's Python, cores, memory and disk (GiB) and GPU, and for each profile what is short."""
    machine = {
        "python": platform.python_version(),
        "python_ok": PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[-1],
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / GIB, 1),
        "disk_free_gb": round(shutil.disk_usage(repository_root()).free / GIB, 1),
        "gpu": gpu_name(),
        "torch": importlib.metadata.version("torch"),
        "chromium": browser(),
    }
    return {**machine, "profiles": [needs(name, machine) for name in profile_names()]}


def gpu_name() -> str | None:
    """Return the name of the first CUDA device, or None."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def browser() -> str | None:
    """Return the file name of the system's Chromium, which only browser tests need, or None."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found.rsplit("/", 1)[-1] if found else None


def needs(name: str, machine: dict[str, Any]) -> dict[str, Any]:
    """Return what a profile needs and what this machine lacks for it."""
    profile = load_profile(name)
    short = [
        f"{what}: {profile_value:g} GB needed, {machine[key]:g} GB here"
        for what, key, profile_value in (
            ("disk", "disk_free_gb", profile.disk_gb),
            ("memory", "memory_gb", profile.memory_gb),
        )
        if machine[key] < profile_value
    ]
    if "GPU" in profile.reference_machine and "no GPU" not in profile.reference_machine and machine["gpu"] is None:
        short.append("a CUDA GPU: none here (it would run on the processor, for days)")
    return {
        "profile": name,
        "minutes": profile.minutes,
        "on": profile.reference_machine,
        "disk_gb": profile.disk_gb,
        "memory_gb": profile.memory_gb,
        "short": short,
    }


def as_text(report: dict[str, Any]) -> str:
    """Return the report of `examine` as lines for a terminal."""
    lines = [
        f"Python    {report['python']}" + ("" if report["python_ok"] else "  (3.11 to 3.13 are supported)"),
        f"System    {report['system']}"
        + ("" if report["system"] == "Linux x86_64" else "  (tested on Linux x86_64 only)"),
        f"Cores     {report['cores']}",
        f"Memory    {report['memory_gb']} GB",
        f"Disk      {report['disk_free_gb']} GB free (an installation takes about 8 GB)",
        f"GPU       {report['gpu'] or 'none (needed by the profile paper only)'}",
        f"torch     {report['torch']}",
        f"Chromium  {report['chromium'] or 'none (needed by browser tests only)'}",
    ]
    for row in report["profiles"]:
        state = "; ".join(row["short"]) or "ready"
        lines.append(
            f"{row['profile']:9} needs {row['memory_gb']:g} GB memory and {row['disk_gb']:g} GB disk; "
            f"{row['minutes']:g} min on a machine like: {row['on']}. Here: {state}"
        )
    return "\n".join(lines)
