"""The reading room in JupyterLab, in a browser: read by keys, the kernel killed, gone on with, nothing told by the page."""

import contextlib
import os
import re
import sys
import time
import urllib.request

import nbformat
import psutil
import pytest
from conftest import CHECKOUT
from reading_run import FIRST, deliver, order

from covid3d.cohort.reader_study import read_reader_study


@pytest.fixture
def run(make_run):
    return deliver(make_run("reading"))


@pytest.fixture
def jupyter(run, tmp_path):
    """The reading room of one reader as `make reading-room` opens it; yields the notebook's address and the server."""
    notebook = nbformat.read(CHECKOUT / "notebooks" / "11_reading_room.ipynb", as_version=4)
    notebook.cells[1].source = 'run = "reading"\nreader = "R1"\ntasks = ("covid", "stay_pair")\nallow_back = False'
    (run.root / "notebooks").mkdir()
    nbformat.write(notebook, run.root / "notebooks" / "11_reading_room.ipynb")
    home = tmp_path / "home"
    home.mkdir()
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": 0,  # one that is free, kept from the moment it is chosen
        "ServerApp.open_browser": False,
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": None,
    }
    more = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "covid3d", "room", "reading", "R1", "--", *more]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "HOME": str(home)}
    said = tmp_path / "jupyter.log"
    with said.open("w") as log:
        server = psutil.Popen(command, env=environment, stdout=log, stderr=log, cwd=run.root)
    try:
        for _ in range(600):
            assert server.poll() is None, said.read_text()
            with contextlib.suppress(OSError, AttributeError):
                url, token = re.search(r"(http://127\.0\.0\.1:\d+/)lab\S*\?token=(\w+)", said.read_text()).groups()
                with urllib.request.urlopen(f"{url}api"):
                    break
            time.sleep(0.2)
        yield f"{url}lab/tree/R1.ipynb?token={token}", server
        assert "without encryption" not in said.read_text()
        assert list(home.rglob("*")) == []
    finally:
        started = [*server.children(recursive=True), server]
        server.terminate()
        for process in psutil.wait_procs(started, timeout=20)[1]:
            process.kill()


@pytest.fixture
def page(browser):
    """A page of the system's Chromium, headless."""
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(120_000)
    yield page
    page.close()


def enter(page):
    """Run all cells, wait for the first case and click it, as a reader does."""
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.kernelDisplayStatus === 'idle'")
    room = "document.querySelector('.reading-room')"
    page.evaluate(f"{room}?.setAttribute('old', ''); void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(f"{room} && !{room}.hasAttribute('old') && {room}.querySelector('canvas')")
    page.locator(".reading-room .keys").click()


def shown(page, place):
    """Wait until the case is drawn; return the words of the screen."""
    words = "document.querySelector('.reading-room')?.textContent"
    quiet = "document.querySelector('.reading-room .said')?.textContent === ''"  # nothing is being read, sent or saved
    ready = f"(place) => {words}?.includes(place) && {quiet}"
    page.wait_for_function(ready, arg=place)
    return page.locator(".reading-room").inner_text()


def training(page, count):
    for _ in range(count):
        shown(page, "Training")
        for key in ("y", "8", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector(".said:has-text('The truth:')")
        page.keyboard.press("Enter")
        page.wait_for_selector(".said:not(:has-text('The truth:'))")


def test_scans_are_read_by_keys_in_jupyterlab_and_go_on_after_the_kernel_was_killed(run, jupyter, page):
    address, server = jupyter
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    enter(page)
    training(page, 4)

    said = shown(page, "Case 1 of 6")
    assert "window -600/1500 HU (lung)" in said
    assert re.search(r"this scan: axial \d+ of \d+ · (original resolution|the networks' grid)", said)
    look(page)
    keys = {1: ("y", "9"), 2: ("n", "0"), 3: ("y", "6"), 4: ("n", "7"), 5: ("n", "8"), 6: ("y", "9")}
    for number in (1, 2, 3):
        read(page, f"Case {number} of 6", *keys[number])
    shown(page, "Case 4 of 6")
    page.keyboard.press("y")  # not saved

    [kernel] = [child for child in server.children(recursive=True) if "ipykernel_launcher" in " ".join(child.cmdline())]
    kernel.kill()
    page.locator(".jp-Dialog button:has-text('Ok')").click()
    enter(page)
    for number in (4, 5, 6):
        read(page, f"Case {number} of 6", *keys[number])
    training(page, 1)
    shown(page, "Case 1 of 2")
    look_at_a_pair(page)
    read(page, "Case 1 of 2", "y", "0")
    read(page, "Case 2 of 2", "n", "0")
    page.wait_for_selector(".reading-room:has-text('All cases are read')")

    table = read_reader_study(run)
    points = {"6": 0.5, "7": 0.625, "8": 0.75, "9": 0.875, "0": 1.0}
    assert table["scan_id"].tolist() == order(run, "R1") + order(run, "R1", "stay_pair")
    assert table["call"].tolist() == [int(key == "y") for key, _ in keys.values()] + [1, 0]
    assert table["confidence"].tolist() == [points[key] for _, key in keys.values()] + [1, 1]
    assert table["order"].tolist() == [*range(1, 7), 1, 2]
    assert [url for url in asked if not url.startswith((address.partition("/lab")[0], "data:", "blob:"))] == []


def read(page, place, call, confidence):
    """Read one case by keys, and look into the page for what must not be in it."""
    shown(page, place)
    source = page.content()
    assert [name for name in (*FIRST, "COVID-19 pneumonia", "dicom/") if name in source] == []
    for key in (call, confidence, "Enter"):
        page.keyboard.press(key)
    page.wait_for_function("(p) => !document.querySelector('.reading-room').textContent.includes(p)", arg=place)


def look(page):
    """Scroll by keys and wheel, change plane and window by keys and by dragging; the picture follows."""
    room, large = page.locator(".reading-room"), page.locator("canvas.large")
    gray = "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data].reduce((a, b) => a + b)"

    def slice_now():
        page.wait_for_timeout(100)
        return int(re.search(r"(axial|coronal|sagittal) (\d+) of", room.inner_text())[2])

    before, picture = slice_now(), large.evaluate(gray)
    page.keyboard.press("ArrowUp")
    assert slice_now() == before + 1
    large.hover()
    page.mouse.wheel(0, 100)
    page.mouse.wheel(0, 100)
    assert slice_now() == before - 1
    assert large.evaluate(gray) != picture
    page.keyboard.press("End")
    assert slice_now() == 1
    for key, words in {
        "2": "40/400 HU (mediastinum)",
        "3": "450/1800",
        "4": "-700/800",
        "5": "-200/2400",
        "1": "-600/1500",
    }.items():
        page.keyboard.press(key)
        page.wait_for_selector(f".reading-room:has-text('window {words}')")
    box = large.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 225, box["y"] + 150)
    page.mouse.up()
    page.wait_for_selector(".reading-room:has-text('window -700/1600')")
    for key, plane in {"c": "coronal", "s": "sagittal", "a": "axial"}.items():
        page.keyboard.press(key)
        page.wait_for_selector(f".reading-room:has-text('this scan: {plane}')")


def look_at_a_pair(page):
    """Both scans scroll together, and apart once the link is off."""
    spans = page.locator(".stand > span")

    def slices():
        page.wait_for_timeout(100)
        return [int(re.search(r"axial (\d+) of", text)[1]) for text in spans.all_inner_texts()]

    assert [text.partition(":")[0] for text in spans.all_inner_texts()] == ["prior scan", "this scan"]
    before = slices()
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowUp")
    assert slices() == [slice_ - 9 for slice_ in before]
    page.keyboard.press("l")
    page.keyboard.press("ArrowUp")
    assert slices() == [before[0] - 8, before[1] - 9]
