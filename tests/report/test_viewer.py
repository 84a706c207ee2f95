"""The viewer of one scan: what lies beside the page, and what a browser makes of it, from a folder and without a network."""

import base64
import gzip
import io
import shutil
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

from covid3d.ct.windows import Window
from covid3d.figures.picture import Picture
from covid3d.report import viewer
from covid3d.show import render

STATIC = Path(__file__).parents[2] / "book" / "_static"
WINDOW = Window(-600, 1500)
SHAPE, AT = (20, 40, 48), (8, 26, 12)


@pytest.fixture(scope="module")
def shown() -> Picture:
    """A body with lungs, a lesion in the right one, and muscle around."""
    hu, lung, ill = np.full(SHAPE, 40.0), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    hu[:, :4], lung[2:18, 8:32, 6:20], lung[2:18, 8:32, 28:42] = -1000, True, True
    ill[6:11, 22:31, 8:17] = True
    hu[lung], hu[ill] = -850, -250
    return Picture(hu, (6.0, 5.0, 5.0), lung, ill, ill * 1.0, AT, "a lesion", (0.25,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def heat() -> np.ndarray:
    """A map on a coarser grid: red over the left lung, blue in front on the right."""
    values = np.zeros((10, 20, 24))
    values[3:7, 8:15, 15:20], values[3:7, 5:8, 4:8] = 2.0, -2.0
    return values


@pytest.fixture(scope="module")
def page(tmp_path_factory, shown, heat) -> Path:
    book = tmp_path_factory.mktemp("book")
    (book / "_static").mkdir()
    for name in ("niivue.umd.js", "niivue_viewer.js", "covid3d.css"):
        shutil.copy(STATIC / name, book / "_static")
    viewer.write_files(book / "_static", shown, {"one": heat, "none": 0 * heat}, WINDOW)
    head = "<!doctype html><meta charset='utf-8'><link rel='stylesheet' href='_static/covid3d.css'><body style='width:700px'>"
    path = book / "page.html"
    path.write_text(head + viewer.page_part("Scan X.", ["one", "none"], WINDOW), encoding="utf-8")
    return path


def test_the_volumes_are_the_scan_seen_from_the_patients_right_and_back(shown, heat):
    found = viewer.volumes(shown, {"one": heat})
    parts = {"ct": found["ct"], "map": found["maps"][0], "lesion": found["lesion"]}
    read = {name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(part))) for name, part in parts.items()}
    assert {nib.aff2axcodes(image.affine) for image in read.values()} == {("L", "P", "S")}
    for name, wanted in (("ct", shown.hu), ("lesion", shown.lesions)):
        np.testing.assert_allclose(read[name].get_fdata().transpose(2, 1, 0), wanted, atol=3.1)
    for image, value in ((read["ct"], -250), (read["lesion"], 1)):
        x, y, z = np.rint(np.linalg.inv(image.affine) @ [*found["at"], 1])[:3].astype(int)
        assert image.get_fdata()[x, y, z] == pytest.approx(value, abs=3.1), "the point to begin at lies in the lesion"
    assert found == viewer.volumes(shown, {"one": heat}), "the same bytes each time"


def _pixels(page) -> np.ndarray:
    page.wait_for_timeout(400)
    png = page.locator("#viewer canvas").screenshot()
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def _red(pixels: np.ndarray) -> int:
    return int((pixels[..., 0] - pixels[..., 1] > 0.12).sum())


def test_the_viewer_draws_and_reacts(browser, page):
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page.as_uri())
    assert opened.locator("#viewer img").is_visible() and not opened.locator("#viewer canvas").is_visible()
    opened.get_by_role("button").click()
    opened.wait_for_selector("#viewer[data-state]", timeout=60_000)
    assert opened.locator("#viewer").get_attribute("data-state") == "ready", opened.locator("output").inner_text()
    assert opened.locator("output").inner_text().startswith("-25"), "the HU at the lesion, within a step of 6"
    lung, said = _pixels(opened), opened.locator("output")
    assert lung.std() > 0.1 and _red(lung) > 500
    assert (lung[..., 2] - lung[..., 0] > 0.1).sum() > 100, "what lowers the logit is blue"
    opened.locator("[name=kind]").select_option("1")
    assert _red(_pixels(opened)) < _red(lung) / 4, "the other map is empty"
    opened.locator("[name=kind]").select_option("0")
    opened.locator("[name=map]").fill("0")
    bare = _pixels(opened)
    assert _red(bare) < _red(lung) / 4
    opened.locator("[name=window]").select_option("40/400")
    soft = _pixels(opened)
    assert (soft.mean(axis=2) < 0.02).sum() > (bare.mean(axis=2) < 0.02).sum() + 1000, (
        "lung is black in soft tissue's window"
    )
    opened.locator("[name=lesion]").check()
    assert (np.abs(_pixels(opened) - soft).max(axis=2) > 0.1).sum() > 200
    opened.locator("canvas").click(position={"x": 300, "y": 120})
    assert not said.inner_text().startswith("-25"), "a click moves the planes"
    for planes in ("0", "4"):
        before = _pixels(opened)
        opened.locator("[name=planes]").select_option(planes)
        assert np.abs(_pixels(opened) - before).mean() > 0.02
    opened.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("without", ["scripts", "WebGL"])
def test_the_picture_stays_without_scripts_or_webgl(browser, page, without):
    opened = browser.new_page(java_script_enabled=without != "scripts", viewport={"width": 390, "height": 800})
    if without == "WebGL":
        opened.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    opened.goto(page.as_uri())
    button = opened.locator("#viewer button")
    assert button.is_visible() == (without == "WebGL")
    if without == "WebGL":
        button.click()
        opened.wait_for_selector("#viewer[data-state=failed]")
        assert "has no WebGL 2" in opened.locator("output").inner_text()
    assert opened.locator("#viewer img").is_visible() and not opened.locator("#viewer canvas").is_visible()
    opened.close()


def test_the_library_is_the_one_that_its_licence_names():
    import hashlib

    licence = (STATIC / "niivue.LICENSE.txt").read_text(encoding="utf-8")
    assert hashlib.sha256((STATIC / "niivue.umd.js").read_bytes()).hexdigest() in licence
    assert "BSD 2-Clause" in licence


def test_the_still_picture_draws(shown):
    assert render(viewer.still(shown, WINDOW), "png").startswith(b"\x89PNG")
