"""Mutated files: refused, or read as an independent decode of the same bytes reads them; no crash, hang or memory."""

import os
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from conftest import CHECKOUT
from fuzz_reader import FORMATS, MUTATIONS

from benchmarks import campaigns

CASES = 21_000


def campaign(first, last):
    """Return (format, mutation, outcome) of every case; a process that dies costs its case alone."""
    found = []
    while first < last:
        command = [sys.executable, CHECKOUT / "tests" / "fuzz_reader.py", str(first), str(last)]
        path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
        )
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        found += [tuple(line[1:]) for line in lines if len(line) == 4 and line[3]]
        if lines and (len(lines[-1]) < 4 or not lines[-1][3]):
            found.append((*lines[-1][1:3], f"wrong: the process died ({done.returncode})"))
        assert lines, done.stderr[-2000:]
        first = int(lines[-1][0]) + 1
    return found


def test_mutated_files_are_refused_or_read_as_they_are():
    found = campaign(0, 420)
    assert not [line for line in found if line[2].startswith("wrong")]
    assert {line[0] for line in found} == set(FORMATS)
    assert {line[1] for line in found} > set(MUTATIONS[:4])
    assert sum(line[2].startswith("refused") for line in found) > 100


@pytest.mark.verify
def test_twenty_thousand_mutated_files():
    found = campaign(0, CASES)
    table = pd.DataFrame(Counter(found).items(), columns=["case", "files"])
    table[["format", "mutation", "outcome"]] = table.pop("case").tolist()
    table = table[["format", "mutation", "outcome", "files"]].sort_values(["format", "mutation", "outcome"])
    code = [str(CHECKOUT / "tests" / name) for name in ("fuzz_reader.py", "fuzz_images.py")]
    campaigns.write("fuzz_reader", table, ["covid3d.dicom.series", *code])
    assert table["files"].sum() == CASES
    assert not table["outcome"].str.startswith("wrong").any()
