"""The gate: one reading, every table, nothing stored."""

import json

import numpy as np
import pandas as pd
import pytest
from dicom_series import body, write_series
from test_intake import manifest_row

from covid3d.cohort import gate
from covid3d.cohort.manifest import COLUMNS
from covid3d.cohort.scan import LEAST_LUNG_ML, find_lungs, oddities
from covid3d.ct.lungs import lung_mask
from covid3d.dicom.series import read_ct
from covid3d.run.errors import ManifestError, SeriesError


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(gate, "cpu_count", lambda: 1)


def write_manifest(path, rows, **more):
    pd.DataFrame(rows, columns=[*COLUMNS, *more]).assign(**more).to_csv(path, index=False)
    return path


@pytest.fixture
def cohort(tmp_path):
    """Five scans: sound, prone with a bone kernel, a copy of the first under another patient, noisy copy, a bad one."""
    one, two = (
        (
            body(seed=seed)
            + np.kron(np.random.default_rng(seed).integers(-150, 150, (5, 12, 12)), np.ones((4, 4, 4), int))
        )
        for seed in (1, 2)
    )
    write_series(tmp_path / "one", one, PatientID="1")
    write_series(tmp_path / "two", two, PatientID="2", PatientPosition="HFP", ConvolutionKernel="BONE")
    write_series(tmp_path / "copy", one, PatientID="3")
    write_series(tmp_path / "near", one + 3, PatientID="4", KVP=80)
    write_series(tmp_path / "bad", body()[:15], PatientID="5")
    rows = [manifest_row(f"s{n}", f"p{n}", name) for n, name in enumerate(("one", "two", "copy", "near", "bad"))]
    rows[1]["age"] = "9"
    return write_manifest(tmp_path / "m.csv", rows, days_since_admission=["1", "-1", "", "", ""])


def test_the_gate_reports_quality_rejections_flow_settings_and_leaks(cohort, tmp_path):
    found = gate.check_manifest(cohort, tmp_path / "out")
    assert found.intake["code"].tolist() == ["", "", "", "", "too_few_slices"]
    assert found.flow["refused_by_code"] == {"too_few_slices": 1}
    kept = found.flow["kept_with_code"]
    assert set(kept) == {"before_admission", "paediatric", "prone", "bone_kernel", "two_ids"}
    assert kept["two_ids"] == {"scans": 2, "patients": 2}
    leaks = {test["check"]: test["found"] for test in found.certificate["checks"]}
    assert leaks["pixels"] == ["s0 = s2"]
    assert leaks["near_duplicates"] == ["s0 ~ s2", "s0 ~ s3", "s2 ~ s3"]
    assert not found.passed
    names = {"check.csv", "qc.csv", "clinical.csv", "acquisition.csv", "flow.json", "leakage.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    settings = pd.read_csv(tmp_path / "out" / "acquisition.csv", dtype=str)
    assert settings.loc[settings["setting"] == "kvp", ["value", "scans"]].to_numpy().tolist() == [
        ["120", "3"],
        ["80", "1"],
    ]
    assert "sha256" not in (tmp_path / "out" / "qc.csv").read_text()
    assert json.loads((tmp_path / "out" / "flow.json").read_text())["read"] == 4
    text = "\n".join(found.lines())
    for words in (
        "s4  too_few_slices:",
        "prone: 1 scans",
        "refused, too_few_slices: 1",
        "B 1 kernel: B40f (3), BONE (1)",
    ):
        assert words in text


def test_a_clean_cohort_passes(tmp_path):
    write_series(tmp_path / "one", PatientID="1")
    path = write_manifest(tmp_path / "m.csv", [manifest_row("s0", "p0", "one")])
    found = gate.check_manifest(path)
    assert found.passed
    assert "nothing found among the 1 of 1 scans" in found.lines()[-1]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"label": "0"}, "two_labels"),
        ({"sex": "M"}, "two_sexes"),
        ({"censored": "1", "outcome": "discharged"}, "censored_discharge"),
    ],
)
def test_rows_that_contradict_each_other_are_refused_with_a_code(tmp_path, values, code):
    later = {"scan_index": "1", "role": "followup", "day": "3"}
    rows = [manifest_row("s0", "p0", "one"), manifest_row("s1", "p0", "one", **later, **values)]
    with pytest.raises(ManifestError) as caught:
        gate.check_manifest(write_manifest(tmp_path / "m.csv", rows))
    assert caught.value.code == code
    assert "row 3" in caught.value.where


def test_a_scan_without_lungs_is_no_chest(tmp_path):
    with pytest.raises(SeriesError) as caught:
        find_lungs(read_ct(write_series(tmp_path, np.where(body() < -500, 30, body()) - 1040 * (body() < -950))))
    assert caught.value.code == "not_chest"


def test_a_head_with_air_in_it_is_no_chest_but_half_a_chest_is_one(tmp_path):
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in (20, 48, 48)), indexing="ij")
    skull = np.where((x / 0.6) ** 2 + (y / 0.75) ** 2 < 1, 900, -1000)
    head = np.where((x / 0.5) ** 2 + (y / 0.65) ** 2 < 1, 35, skull)
    for side in (-1, 1):  # bare air, 600 ml of it
        head[((x - 0.25 * side) / 0.2) ** 2 + (y / 0.3) ** 2 + (z / 0.95) ** 2 < 1] = -1000
    noise = np.random.default_rng(3).normal(0, 10, head.shape).astype(int)
    volume = read_ct(write_series(tmp_path / "head", head + noise, spacing=(8.0, 5.0, 5.0), BitsStored=16, HighBit=15))
    assert lung_mask(volume.hu, volume.spacing_mm).sum() * np.prod(volume.spacing_mm) / 1000 > LEAST_LUNG_ML
    with pytest.raises(SeriesError, match="holds no tissue") as caught:
        find_lungs(volume)
    assert caught.value.code == "not_chest"


def test_cut_lungs_are_kept_with_a_code(tmp_path):
    tall = body((40, 48, 48))
    tall[10, 1, 1] = 700
    whole = read_ct(write_series(tmp_path / "whole", tall))
    assert oddities(whole, find_lungs(whole)) == []
    half = read_ct(write_series(tmp_path / "half", tall[:20], ContrastBolusAgent="iodine"))
    assert oddities(half, find_lungs(half)) == ["contrast", "half_chest"]


def chest(path, change=lambda hu: hu, **more):
    return find_lungs(read_ct(write_series(path, change(body().astype(float)).astype(np.int16), **WIDE | more)))


WIDE = {"BitsStored": 16, "HighBit": 15}
NO_HU = {
    "halved": (lambda hu: hu / 2, "darkest air within the body has -43"),
    "three quarters": (lambda hu: hu * 0.75, "darkest air"),
    "200 too high": (lambda hu: hu + 200, "soft tissue has 2"),
    "200 too high, padded": (lambda hu: np.where(np.arange(48) < 4, -1024, hu + 200), "darkest air"),
    "200 too low in dense lungs": (
        lambda hu: np.where(hu < -500, hu + 100 * (hu > -900), hu) - 200,
        "soft tissue has -1",
    ),
    "clipped above water": (lambda hu: np.minimum(hu, 0), "nothing is denser than 0 HU"),
    "clipped below": (lambda hu: np.maximum(hu, -800), "darkest air"),
}


@pytest.mark.parametrize("case", NO_HU)
def test_values_that_only_look_like_hounsfield_units_are_refused(tmp_path, case):
    change, words = NO_HU[case]
    with pytest.raises(SeriesError, match=words) as caught:
        chest(tmp_path, change)
    assert caught.value.code == "hu_out_of_range"


@pytest.mark.parametrize("drift", [-60, 60])
def test_a_scanner_that_has_drifted_is_no_other_unit(tmp_path, drift):
    """The fixture has no windpipe: its darkest air is emphysema of -950 HU."""
    assert chest(tmp_path, lambda hu: np.where(hu < -855, hu - 90, hu) + drift).volume_ml > 2000


SIZES = {
    "pixels tenfold": ((8.0, 70.0, 70.0), "field of view would be 3360 x 3360 mm"),
    "pixels in another unit": ((8.0, 0.007, 0.007), "field of view would be 0.336 x 0.336 mm"),
    "pixels doubled": ((8.0, 19.0, 19.0), "lungs would hold 1"),
    "slices far apart": ((27.0, 7.0, 7.0), "mm high"),
    "slices pressed together": ((2.0, 7.0, 7.0), "mm high"),
}


@pytest.mark.parametrize("case", SIZES)
def test_a_size_that_no_body_has_is_refused(tmp_path, case):
    spacing, words = SIZES[case]
    with pytest.raises(SeriesError, match=words) as caught:
        chest(tmp_path, spacing=spacing)
    assert caught.value.code == "impossible_size"


def test_hardly_any_lung_is_kept_with_the_code_that_predict_warns_of(tmp_path):
    write_series(tmp_path / "small", spacing=(8.0, 3.5, 3.5))
    found = gate.check_manifest(write_manifest(tmp_path / "m.csv", [manifest_row("s0", "p0", "small")]))
    assert "small_lungs" in found.findings["code"].tolist()
    assert "hardly any lung was found" in "\n".join(found.lines())
