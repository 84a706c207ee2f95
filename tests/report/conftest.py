"""A browser for the tests of pages."""

import shutil

import pytest

NO_CHROMIUM = "chromium not found: apt-get install chromium"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of the system."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
