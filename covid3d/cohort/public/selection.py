"""The public replication cohort: select it from the installed index of the Imaging Data Commons, fetch it, list it.

One CT series a chest study of RICORD 1a and 1b, COVID-19-NY-SBU and COVID-19-AR; `data/public_cohort.csv` is the selection
from release v25. Every file is checked against the size and MD5 that the archive announces before a scan is put in place.
"""

import contextlib
import fcntl
import importlib.metadata
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pandas as pd
import yaml

from covid3d.cohort.manifest import COLUMNS, read_manifest, write_manifest
from covid3d.cohort.public.archive import Archive, File, is_whole, missing_extra, s5cmd_program
from covid3d.cohort.public.stay import FILLED, read_clinical, remaining_stays, summary
from covid3d.run.errors import ConfigError, DownloadError, ManifestError, StorageError, nearest
from covid3d.run.files import (
    atomic_folder,
    progress,
    read_json,
    sha256_file,
    sha256_tree,
    storage_errors,
    write_csv,
    write_json,
    write_text,
)
from covid3d.run.profile import DATA

ENDPOINT = "https://s3.amazonaws.com"
INDEX_VERSION = "25.0.5"
SPARE_BYTES = 500_000_000
POOLED_AGE = 90
LAST_FAILURES = 3
LEAVE_OUT = "leave_one_site_out"
OWN = ("scans", "received", "manifest.csv", "selection.csv", "LICENCES.md", "stays.csv", "download.json", LEAVE_OUT)
Say = Callable[[str], None]


class Role(NamedTuple):
    """One part of the cohort, by the name that `--role` takes."""

    selected_as: str
    text: str


ROLES = {
    "A": Role("A_train_10fold", "RICORD site SITE2: development, ten folds"),
    "B": Role("B_external", "RICORD site 660042: external"),
    "C": Role("C_external", "RICORD site 440808: external"),
    "D": Role("D_external_extra", "RICORD site 419639: one more external site (JPEG Lossless)"),
    "F": Role("followup_ricord", "later scans of patients of A to D"),
    "SBU": Role("followup_prognosis", "NY-SBU, patients with 2 or more scans: trajectories and stay"),
    "SBU1": Role("prognosis_single_scan", "NY-SBU, patients with one scan: stay"),
    "AR": Role("positive_only_external", "AR: positives only"),
}
HOSPITALS = {"SITE2": "A", "660042": "B", "440808": "C", "419639": "D", "NYSBU": "SBU", "AR": "AR"}
RICORD = {hospital: site for site, hospital in HOSPITALS.items() if hospital in "ABCD"}
FEWEST_SITES = 3
CONFOUNDED = (
    "RICORD's negatives and the positives of SBU or AR come from different scanners: the manufacturer alone tells them apart "
    "(AUC 1.00). Use SBU and AR within positives only, and never pool the hospitals' ROC curves."
)

# --- selection -------------------------------------------------------------------------------------------------------


def cohort() -> pd.DataFrame:
    """Return the embedded selection, 599 series, all cells as text."""
    return _as_text((DATA / "public_cohort.csv").read_text(encoding="utf-8"))


def collections() -> pd.DataFrame:
    """Return licence, DOI and citation of the four collections."""
    return _as_text((DATA / "public_collections.csv").read_text(encoding="utf-8"))


def confounds() -> pd.DataFrame:
    """Return what can mislead in the cohort: at (hospital or contrast), what, auc (of that alone, where known), cure."""
    return _as_text((DATA / "public_confounds.csv").read_text(encoding="utf-8"))


def _as_text(csv: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)


def select() -> tuple[pd.DataFrame, str]:
    """Run the selection on the installed index; return the series, all cells as text, and the index's version.

    Raises ConfigError when the extra `public` is not installed.
    """
    try:
        import duckdb
        import idc_index_data
    except ImportError as error:
        raise missing_extra(str(error.name)) from None
    query = (DATA / "public_cohort.sql").read_text(encoding="utf-8")
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        connection.read_parquet(str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)).create_view("idc_index")
        found = connection.execute(query).df()
    return _as_text(found.to_csv(index=False)), importlib.metadata.version("idc-index-data")


def differences(found: pd.DataFrame, version: str) -> list[str]:
    """Return what a selection has otherwise than the embedded one, as lines; none when they are equal."""
    known, key = cohort(), "SeriesInstanceUID"
    lines = []
    old, new = known.set_index(key), found.set_index(key)
    for text, series, table in (
        ("gone from", old.index.difference(new.index), old),
        ("new in", new.index.difference(old.index), new),
    ):
        counts = table.loc[series, "proposed_role"].value_counts().sort_index()
        lines += [f"{count} series of {role} are {text} index {version}" for role, count in counts.items()]
    both = old.index.intersection(new.index)
    for column in old.columns:
        changed = int((old.loc[both, column] != new.loc[both, column]).sum()) if column in new else len(both)
        if changed:
            lines.append(f"column {column} differs in {changed} series of both")
    if not lines and list(found[key]) != list(known[key]):
        lines.append("the order of the series differs")
    return lines


def overview(table: pd.DataFrame) -> list[str]:
    """Return one line a role: studies, patients, COVID+ and -, size in GB."""
    lines = [f"{'role':6}{'studies':>8}{'patients':>9}{'COVID+':>7}{'COVID-':>7}{'GB':>7}  what"]
    for name, role in ROLES.items():
        part = table[table["proposed_role"] == role.selected_as]
        positive = int((part["label"] == "1").sum())
        lines.append(
            f"{name:6}{len(part):8}{part['PatientID'].nunique():9}{positive:7}{len(part) - positive:7}"
            f"{_megabytes(part) / 1000:7.1f}  {role.text}"
        )
    return lines


def _megabytes(table: pd.DataFrame) -> float:
    return float(table["series_size_MB"].astype(float).sum())


def of_roles(names: Sequence[str]) -> pd.DataFrame:
    """Return the series of some roles, in the order of the selection; with F, of the patients whose first scan is among them.

    Raises ConfigError for an unknown role, none, or F alone.
    """
    wanted = [name.strip().upper() for name in names if name.strip()]
    for name in wanted:
        if name not in ROLES:
            raise ConfigError(f"there is no role '{name}'", where="--role", cure=nearest(name, ROLES))
    table = cohort()
    first = table[table["proposed_role"].isin([ROLES[name].selected_as for name in wanted if name != "F"])]
    if first.empty:
        raise ConfigError(
            "no role is given that has first scans" if wanted else "no role is given",
            where="--role",
            cure=f"Give some of {', '.join(ROLES)}, e.g. --role A,B,C",
        )
    later = table[(table["proposed_role"] == ROLES["F"].selected_as) & table["PatientID"].isin(first["PatientID"])]
    return pd.concat([first, later if "F" in wanted else later[:0]]).sort_index().reset_index(drop=True)


def licences(table: pd.DataFrame) -> str:
    """Return the licences and citations of the collections in a selection, as Markdown."""
    lines = ["# Licences and citations", "", "Cite the collections you use; CC BY-NC 4.0 excludes commercial use.", ""]
    for row in collections().to_dict("records"):
        count = int((table["collection"] == row["collection"]).sum())
        if count:
            lines += [f"- **{row['collection']}**, {count} series, [{row['licence']}]({row['licence_url']}).", ""]
            lines += [f"  {row['citation']}", ""]
    return "\n".join(lines)


# --- download --------------------------------------------------------------------------------------------------------


def download(
    roles: Sequence[str], to: str | Path, *, endpoint: str = ENDPOINT, clinical: Path | None = None, say: Say = print
) -> Path:
    """Fetch the series of some roles into `to`/scans/<SeriesInstanceUID> and return the delivered manifest beside them.

    What is already there and unchanged is kept, half a series is completed; the same command goes on after a stop.
    `clinical`: the clinical CSV of COVID-19-NY-SBU, for the remaining stays of SBU and SBU1.
    Raises ConfigError (role, endpoint, foreign files, extra), StorageError (disk), DownloadError (archive).
    """
    table, to = of_roles(roles), Path(to)
    visits = None if clinical is None else read_clinical(clinical)
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(f"'{endpoint}' is no address", where="--endpoint", cure=f"Give one such as {ENDPOINT}")
    program = s5cmd_program()
    _refuse_foreign(to)
    say(licences(table))
    with storage_errors(to):
        to.mkdir(parents=True, exist_ok=True)
    with _alone(to):
        return _download(table, to, Archive(program, endpoint), visits, say)


@contextlib.contextmanager
def _alone(to: Path) -> Iterator[None]:
    """Hold the folder's lock; a ConfigError when another download holds it."""
    handle = os.open(to, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError("another download writes here", where=str(to), cure="Wait until it is done") from None
    finally:
        os.close(handle)


def _download(table: pd.DataFrame, to: Path, archive: Archive, visits: pd.DataFrame | None, say: Say) -> Path:
    """Fetch what is missing of a selection and write the manifest."""
    missing = [row for row in progress(table.to_dict("records"), "checking") if not _is_here(to, row)]
    _check_disk(to, table, missing, say)
    write_text(to / "LICENCES.md", licences(table))
    write_csv(to / "selection.csv", table)
    failures: list[DownloadError] = []
    for row in progress(missing, "downloading"):
        try:
            _fetch(archive, to, row)
        except DownloadError as error:
            failures.append(error)
            if error.code == "unreachable" or len(failures) >= LAST_FAILURES:
                break
    if failures:
        here = sum(_place(to, row).is_dir() for row in table.to_dict("records"))
        cure = f"{failures[0].cure}. {here} of {len(table)} series are here and stay"
        raise DownloadError(failures[0].what, where=failures[0].where, cure=cure, code=failures[0].code)
    manifest = _manifest(to, table, visits, say)
    files = [read_json(_record(to, row)) for row in table.to_dict("records")]
    unhashed = sum(noted["without_md5"] for noted in files)
    checked = "size and MD5" + (f" ({unhashed} by size alone: the archive tells no MD5)" if unhashed else "")
    say(f"{manifest}: {len(table)} scans, {sum(noted['files'] for noted in files)} files checked by {checked}")
    hospitals = set(table["site"].map(HOSPITALS))
    if hospitals & {"SBU", "AR"} and hospitals - {"SBU", "AR"}:
        say(CONFOUNDED)
    return manifest


def _refuse_foreign(to: Path) -> None:
    """Refuse a folder that holds what no download has written, or a manifest that was changed since."""
    if to.exists() and not to.is_dir():
        raise ConfigError("it is a file", where=str(to), cure="Give --to a folder")
    names = sorted(path.name for path in to.iterdir()) if to.is_dir() else []
    foreign = [name for name in names if name not in OWN and not name.startswith(tuple(f".{own}." for own in OWN))]
    if foreign:
        what = f"the folder holds {len(foreign)} files that are no download's ('{foreign[0]}' for one)"
        raise ConfigError(what, where=str(to), cure="Give --to a new folder, or that of an earlier download")
    if "manifest.csv" in names and sha256_file(to / "manifest.csv") not in _manifests(to):
        what = "the manifest was not written by a download, or was changed since"
        raise ConfigError(what, where=str(to / "manifest.csv"), cure="Move it away: it would be overwritten")


def _place(to: Path, row: dict[Any, Any]) -> Path:
    return to / "scans" / str(row["SeriesInstanceUID"])


def _record(to: Path, row: dict[Any, Any]) -> Path:
    return to / "received" / f"{row['SeriesInstanceUID']}.json"


def _is_here(to: Path, row: dict[Any, Any]) -> bool:
    """True when a series is in place, with the bytes that were checked when it came."""
    place, record = _place(to, row), _record(to, row)
    if not (place.is_dir() and record.is_file()):
        return False
    noted = read_json(record)
    return noted["crdc_series_uuid"] == row["crdc_series_uuid"] and noted["sha256"] == sha256_tree(place)


def _check_disk(to: Path, table: pd.DataFrame, missing: list[dict[Any, Any]], say: Say) -> None:
    """Say how much is still to come; a StorageError where the disk has less than that and a little spare."""
    here = sum(file.stat().st_size for row in missing for file in _partial(to, row).glob("*"))
    needed = max(0, int(sum(float(row["series_size_MB"]) for row in missing) * 1e6) - here)
    free = shutil.disk_usage(to).free
    say(
        f"{len(table)} series, {_megabytes(table) / 1000:.1f} GB; {len(table) - len(missing)} are here and unchanged; "
        f"to download {needed / 1e9:.1f} GB, free on this disk {free / 1e9:.1f} GB"
    )
    if missing and free < needed + SPARE_BYTES:
        what = f"the disk has {free / 1e9:.1f} GB free, {(needed + SPARE_BYTES) / 1e9:.1f} GB are needed"
        raise StorageError(what, where=str(to), cure="Free some space, choose another --to, or fewer roles")


def _partial(to: Path, row: dict[Any, Any]) -> Path:
    return to / "scans" / f".{row['SeriesInstanceUID']}.partial"


def _fetch(archive: Archive, to: Path, row: dict[Any, Any]) -> None:
    """Complete one series in a folder apart, check every file, and put it in place."""
    place, partial = _place(to, row), _partial(to, row)
    files = archive.announced(row)
    with storage_errors(place):
        if place.is_dir() and not partial.exists():  # changed since it came
            _refuse_extra(place, files)
            place.rename(partial)
        partial.mkdir(parents=True, exist_ok=True)
        for remains in {path.name for path in partial.iterdir()} - {file.name for file in files}:
            (partial / remains).unlink()  # what s5cmd had under way when it was stopped
    reason = ""
    for _ in range(2):
        faulty = [file for file in files if not is_whole(partial / file.name, file)]
        if not faulty:
            break
        for file in faulty:
            (partial / file.name).unlink(missing_ok=True)
        reason = archive.copy(faulty, partial) or reason
    faulty = [file for file in files if not is_whole(partial / file.name, file)]
    if faulty:
        if "no space" in reason:
            raise StorageError("the disk is full", where=str(to), cure="Free some space, then repeat the command")
        absent = sum(not (partial / file.name).is_file() for file in faulty)
        raise DownloadError(
            f"{absent} of {len(files)} files did not come, {len(faulty) - absent} have another size or MD5 than announced"
            + (f" ({reason})" if reason else ""),
            where=f"series {row['SeriesInstanceUID']}",
            cure="Repeat the command, and tell the archive if it stays so",
        )
    unhashed = sum(not file.md5 for file in files)
    record = {"crdc_series_uuid": row["crdc_series_uuid"], "files": len(files), "without_md5": unhashed}
    write_json(_record(to, row), {**record, "endpoint": archive.endpoint, "sha256": sha256_tree(partial)})
    with storage_errors(place):
        partial.replace(place)


def _refuse_extra(place: Path, files: Sequence[File]) -> None:
    extra = sorted({path.name for path in place.iterdir()} - {file.name for file in files})
    if extra:
        what = f"the folder holds {len(extra)} files that are not of the series ('{extra[0]}' for one)"
        raise ConfigError(what, where=str(place), cure="Move them away, then repeat the command")


# --- manifest --------------------------------------------------------------------------------------------------------


def _manifest(to: Path, table: pd.DataFrame, visits: pd.DataFrame | None, say: Say) -> Path:
    """Write the delivered manifest of a download, and stays.csv where there is a clinical table; return the manifest."""
    order = table["scan_order"].astype(int) - 1
    hospital = table["site"].map(HOSPITALS)
    first = hospital.map(lambda name: "development" if name == "A" else "external")
    rows = pd.DataFrame("", index=table.index, columns=list(COLUMNS)).assign(
        scan_id=table["PatientID"] + "-" + order.astype(str),
        patient_id=table["PatientID"],
        hospital=hospital,
        role=first.where(order == 0, "followup"),
        label=table["label"],
        scan_index=order.astype(str),
        day=table["day_from_first"],
        age=table["PatientAge"].map(_years),
        sex=table["PatientSex"].where(table["PatientSex"].isin(["F", "M"]), "U"),
        n_slices=table["instanceCount"],
        source="scans/" + table["SeriesInstanceUID"],
        licence=table["license_short_name"],
        sha256=[read_json(_record(to, row))["sha256"] for row in table.to_dict("records")],
    )
    if visits is not None:
        scans = rows.assign(date=table["StudyDate"])[hospital == "SBU"]
        if scans.empty:
            what = "a clinical table is given, but no scans of NY-SBU"
            raise ManifestError(what, where="--clinical", cure="Add --role SBU or SBU1, or leave it out")
        stays = remaining_stays(scans, visits)
        rows.loc[stays.index, list(FILLED)] = stays[list(FILLED)]
        write_csv(to / "stays.csv", stays)
        say("\n".join(summary(stays)))
    path = to / "manifest.csv"
    new = to / ".manifest.csv.new"
    write_manifest(new, rows)
    read_manifest(new, delivered=True)
    noted = sorted({*_manifests(to), sha256_file(new)})
    write_json(to / "download.json", {"manifests_sha256": noted, "index": INDEX_VERSION})
    new.replace(path)
    _write_leave_outs(to, leave_one_site_out(rows), say)
    return path


def leave_one_site_out(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return, for each RICORD site in a delivered manifest, the manifest that develops on all others and is tested on it.

    Hospital A is then the other sites together and the site left out has its own name: both classes come from every
    site, so its AUC holds no difference between sites. The folds of A do, and their AUC is no result. Sources lie one
    folder up. Fewer than `FEWEST_SITES` sites give none.
    """
    ricord = rows[rows["hospital"].isin(list(RICORD))]
    ricord = ricord.assign(source="../" + ricord["source"], site=ricord["hospital"].map(RICORD))
    sites = sorted(set(ricord["site"]))
    designs = {}
    for site in sites if len(sites) >= FEWEST_SITES else []:
        tested = ricord["site"] == site
        first = tested.map({True: "external", False: "development"})
        designs[site] = ricord.drop(columns="site").assign(
            hospital=ricord["site"].where(tested, "A"), role=ricord["role"].where(ricord["role"] == "followup", first)
        )
    return designs


def _write_leave_outs(to: Path, designs: dict[str, pd.DataFrame], say: Say) -> None:
    """Write the manifests of `leave_one_site_out` and the sweep that runs them all, into a folder of their own."""
    folder = to / LEAVE_OUT
    if not designs:
        shutil.rmtree(folder, ignore_errors=True)  # of a download that held more sites
        return
    sweep = {
        "name": "leave-out",
        "profile": ["standard"],
        "manifest": [str(folder / f"{site}.csv") for site in designs],
    }
    with atomic_folder(folder) as made:
        for site, table in designs.items():
            write_manifest(made / f"{site}.csv", table)
        write_text(made / "sweep.yaml", yaml.safe_dump(sweep, sort_keys=False))
    say(f"leave-one-site-out, {len(designs)} runs: make batch SWEEP={folder / 'sweep.yaml'}")


def _manifests(to: Path) -> list[str]:
    """Return the SHA-256 of every manifest that a download wrote into the folder."""
    noted = to / "download.json"
    return list(read_json(noted)["manifests_sha256"]) if noted.is_file() else []


def _years(text: str) -> str:
    """Return the age in years of a header such as '067Y', pooled at 90, or a blank."""
    match = re.fullmatch(r"(\d{3})Y", text)
    years = int(match[1]) if match else 0
    return str(min(years, POOLED_AGE)) if 0 < years <= 120 else ""
