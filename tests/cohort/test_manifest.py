"""The manifest's contract: what is accepted comes out typed, what is refused names file, row, column and cure."""

import codecs
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from covid3d.cohort.manifest import COLUMNS, locate, read_controls, read_manifest, write_manifest
from covid3d.run.errors import ManifestError

HEADER = ",".join(COLUMNS)
ROWS = [
    "001-0,001,A,development,1,0,0,5,12,discharged,0,0,44,F,2,200,scans/a,CC0-1.0,",
    "001-1,001,A,followup,1,1,6.5,11.5,5.5,discharged,0,0,44,,2,210,scans/b#3,CC0-1.0,",
    "002-0,002,A,development,0,0,,,,,,,,U,,,scans/c,,",
    "B1,B1,B,external,0,0,0,2,9,died,0,,71.5,M,2,180,scans/d,CC0-1.0," + "a" * 64,
]


def manifest(folder: Path, rows: list[str] = ROWS, header: str = HEADER, encoding: str = "utf-8") -> Path:
    path = folder / "manifest.csv"
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return path


def changed(row: int, **cells: str) -> list[str]:
    """Return the rows with some cells of one row replaced."""
    rows = list(ROWS)
    values = dict(zip(COLUMNS, rows[row].split(","), strict=True)) | cells
    rows[row] = ",".join(values.values())
    return rows


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)
    assert caught.value.cure, "every refusal says what to do"
    return str(caught.value)


def test_a_sound_manifest_is_typed_and_keeps_leading_zeros(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path))
    assert list(table.columns) == list(COLUMNS)
    assert table["patient_id"].tolist() == ["001", "001", "002", "B1"]
    assert str(table["label"].dtype) == "Int64"
    assert str(table["day"].dtype) == "Float64"
    assert table["day"].tolist()[:2] == [0.0, 6.5]
    assert table.loc[2, ["day", "age", "censored"]].isna().all()
    assert table.loc[2, "outcome"] == ""


def test_written_and_read_again_is_the_same(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path))
    write_manifest(tmp_path / "again.csv", table)
    assert (tmp_path / "again.csv").read_text().splitlines() == [HEADER, *ROWS]
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "again.csv"), table)


def test_a_manifest_with_other_columns_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="missing: \\['age'\\]"):
        write_manifest(tmp_path / "out.csv", read_manifest(manifest(tmp_path)).drop(columns="age"))
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "repair",
    [
        lambda raw: codecs.BOM_UTF8 + raw,
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.replace(b"001,A", b" 001 ,A"),
        lambda raw: raw + b",,,,,,,,,,,,,,,,,,\n\n",
    ],
    ids=["byte-order mark", "Windows line ends", "spaces", "empty rows"],
)
def test_harmless_traces_of_a_spreadsheet_are_repaired(tmp_path: Path, repair) -> None:
    path = manifest(tmp_path)
    wanted = read_manifest(path)
    path.write_bytes(repair(path.read_bytes()))
    pd.testing.assert_frame_equal(read_manifest(path), wanted)


def test_the_order_of_columns_is_free(tmp_path: Path) -> None:
    table = pd.read_csv(manifest(tmp_path), dtype=str, keep_default_na=False)
    table[table.columns[::-1]].to_csv(tmp_path / "turned.csv", index=False)
    assert list(read_manifest(tmp_path / "turned.csv").columns) == list(COLUMNS)


@pytest.mark.parametrize(
    ("row", "cells", "said"),
    [
        (1, {"scan_id": "001-0"}, ("row 3, column 'scan_id'", "'001-0' is already used in row 2")),
        (0, {"scan_id": "../up"}, ("row 2, column 'scan_id'", "'../up'")),
        (2, {"patient_id": "1.2E+05"}, ("row 4, column 'patient_id'", "'1.2E+05'", "spreadsheet", "as text")),
        (2, {"patient_id": "1"}, ("row 4, column 'patient_id'", "'1' differs from '001' (row 2)", "leading zeros")),
        (1, {"hospital": "B"}, ("row 3, column 'hospital'", "'B' here and 'A' in row 2")),
        (1, {"label": "0"}, ("row 3, column 'label'", "patient '001' has '0' here and '1' in row 2")),
        (1, {"sex": "M"}, ("row 3, column 'sex'", "'M' here and 'F' in row 2")),
        (3, {"label": "2"}, ("row 5, column 'label'", "'2'", "1 (COVID+) or 0")),
        (3, {"label": "positive"}, ("row 5, column 'label'", "'positive'")),
        (3, {"label": ""}, ("row 5, column 'label'", "the cell is empty")),
        (3, {"age": "045Y"}, ("row 5, column 'age'", "'045Y'", "e.g. 45")),
        (3, {"age": "0"}, ("row 5, column 'age'", "'0'", "empty when unknown")),
        (3, {"age": "121"}, ("row 5, column 'age'", "'121'", "up to 120")),
        (3, {"age": "nan"}, ("row 5, column 'age'", "'nan'")),
        (0, {"days_to_discharge": "-1"}, ("row 2, column 'days_to_discharge'", "'-1'", "0 or more")),
        (1, {"day": "-6"}, ("row 3, column 'day'", "'-6'", "0 or more")),
        (0, {"day": "3"}, ("row 2, column 'day'", "the first scan has day 3")),
        (1, {"scan_index": "2"}, ("row 3, column 'scan_index'", "scan_index 2 but no 1")),
        (1, {"scan_index": "0", "role": "development", "day": "0"}, ("row 3, column 'scan_index'", "index 0 in row 2")),
        (1, {"scan_index": "0"}, ("row 3, column 'role'", "'followup' and scan_index is 0")),
        (1, {"role": "development"}, ("row 3, column 'role'", "'development' and scan_index is 1")),
        (3, {"role": "test"}, ("row 5, column 'role'", "'test'", "development, external, followup")),
        (0, {"censored": "1"}, ("row 2, column 'censored'", "'discharged'")),
        (3, {"outcome": "dead"}, ("row 5, column 'outcome'", "'dead'", "died")),
        (3, {"sex": "W"}, ("row 5, column 'sex'", "'W'", "F, M, U")),
        (3, {"source": ""}, ("row 5, column 'source'", "the cell is empty")),
        (3, {"source": "phantom:x"}, ("row 5, column 'source'", "'phantom:x'")),
        (3, {"sha256": "abc"}, ("row 5, column 'sha256'", "64 hexadecimal digits")),
        (3, {"n_slices": "0"}, ("row 5, column 'n_slices'", "'0'")),
        (3, {"licence": "CC0,or other"}, ("row 5", "20 cells, the header 19")),
    ],
)  # fmt: skip
def test_a_broken_cell_is_refused_with_its_row_and_column(tmp_path: Path, row: int, cells, said) -> None:
    message = refusal(manifest(tmp_path, changed(row, **cells)))
    for words in ("manifest.csv", *said):
        assert words in message


@pytest.mark.parametrize(
    ("outcome", "censored", "end"), [("died", "0", "died"), ("transferred", "1", "transferred"), ("", "1", "censored")]
)
def test_a_blank_end_is_no_discharge_where_another_row_tells_of_another_end(tmp_path, outcome, censored, end) -> None:
    rows = [changed(0, outcome=outcome, censored=censored)[0], changed(1, outcome="", censored="")[1], *ROWS[2:]]
    said = refusal(manifest(tmp_path, rows))
    assert "row 3, column 'outcome'" in said and f"the stay of patient '001' is '{end}' in row 2" in said
    without_days = [rows[0], rows[1].replace(",5.5,", ",,"), *ROWS[2:]]
    assert read_manifest(manifest(tmp_path, without_days))["outcome"].tolist()[1] == "", "no day that would count"


def test_days_that_run_backwards_are_refused_whatever_the_order_of_rows(tmp_path: Path) -> None:
    third = ROWS[1].replace("001-1", "001-2").replace("followup,1,1,6.5", "followup,1,2,4")
    message = refusal(manifest(tmp_path, [third, *ROWS]))
    assert "row 2, column 'day'" in message
    assert "day 4 after day 6.5 (row 4)" in message


def test_rows_count_as_an_editor_counts_them(tmp_path: Path) -> None:
    rows = changed(0, licence='"two\nlines"')
    rows[3] = rows[3].replace(",died,", ",gone,")
    assert "row 6, column 'outcome'" in refusal(manifest(tmp_path, rows))


def test_one_fault_in_many_rows_is_counted(tmp_path: Path) -> None:
    rows = [row.replace(",CC0-1.0,", ",CC0-1.0,x", 1) if row.endswith(",CC0-1.0,") else row for row in ROWS]
    assert "(1 more row with a fault in this column)" in refusal(manifest(tmp_path, rows))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (HEADER.replace("patient_id,", ""), ("column 'patient_id'", "the column is missing")),
        (HEADER.replace("patient_id", "pateint_id"), ("column 'pateint_id'", "Did you mean 'patient_id'?")),
        (HEADER + ",remark", ("column 'remark'", "no such column")),
        (HEADER + ",", ("column 20 has no name",)),
        (HEADER + ",age", ("column 'age'", "appears 2 times")),
        (HEADER.replace(",", ";"), ("separated by semicolons", "with commas")),
        (HEADER.replace(",", "\t"), ("separated by tabs",)),
        ("once upon a time", ("not a comma-separated table",)),
    ],
)
def test_a_broken_header_is_refused_in_row_1(tmp_path: Path, header: str, said) -> None:
    message = refusal(manifest(tmp_path, header=header))
    for words in ("manifest.csv, row 1", *said):
        assert words in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (HEADER.encode() + b"\n", "no row below the header"),
        (b"PK\x03\x04rest", "a spreadsheet's own format"),
        (HEADER.encode("utf-16"), "UTF-16"),
        (HEADER.encode() + b"\n\x00\x01", "a binary file"),
        (HEADER.encode() + b"\n001,M\xfcller", "row 2: the text is not UTF-8 (byte 0xFC)"),
        (HEADER.encode() + b'\n"open', "row 2: not a CSV file"),
    ],
)
def test_a_file_that_is_no_csv_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    assert said in refusal(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "none.csv: the file does not exist" in refusal(tmp_path / "none.csv")


def test_delivered_sources_must_exist_beside_the_manifest(tmp_path: Path) -> None:
    path = manifest(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / "scans" / name).mkdir(parents=True)
    assert "row 5, column 'source': 'scans/d' does not exist" in refusal(path, delivered=True)
    (tmp_path / "scans" / "d").write_bytes(b"x")
    assert len(read_manifest(path, delivered=True)) == 4
    order = manifest(tmp_path, changed(0, source="phantom:7"))
    assert len(read_manifest(order)) == 4
    assert "is an order, not a scan. Run `covid3d phantom build` first" in refusal(order, delivered=True)


def test_a_source_may_name_a_series(tmp_path: Path) -> None:
    (tmp_path / "odd#1").mkdir()
    assert locate(tmp_path / "manifest.csv", "scans/b#3") == (tmp_path / "scans/b", 3)
    assert locate(tmp_path / "manifest.csv", "scans/b") == (tmp_path / "scans/b", None)
    assert locate(tmp_path / "manifest.csv", "odd#1") == (tmp_path / "odd#1", None)


def test_controls_have_their_own_roles_and_ids(tmp_path: Path) -> None:
    run = SimpleNamespace(manifest=manifest(tmp_path), path=lambda *parts: tmp_path.joinpath(*parts))
    assert read_controls(run).empty
    assert list(read_controls(run).columns) == list(COLUMNS)
    control = ROWS[1].replace("001-1", "001-r").replace("followup", "rescan")
    (tmp_path / "controls.csv").write_text(f"{HEADER}\n{control}\n")
    assert read_controls(run)["role"].tolist() == ["rescan"]
    (tmp_path / "controls.csv").write_text(f"{HEADER}\n{control.replace('001-r', '001-0')}\n")
    with pytest.raises(ManifestError, match="row 2, column 'scan_id': '001-0' is also in manifest"):
        read_controls(run)
    (tmp_path / "controls.csv").write_text(f"{HEADER}\n{ROWS[1]}\n")
    with pytest.raises(ManifestError, match="one of rescan, control"):
        read_controls(run)


def test_ten_thousand_rows_are_checked_in_seconds(tmp_path: Path) -> None:
    rows = [ROWS[0].replace("001-0,001,", f"S{n:05d},P{n:05d},") for n in range(10_000)]
    assert len(read_manifest(manifest(tmp_path, rows))) == 10_000
