"""The built book, opened in headless Chromium from the disk as a reader would."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

HTML = Path(__file__).parents[2] / "docs" / "_build" / "html"
SWITCHES = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"


@pytest.fixture(scope="session")
def html():
    """Return the folder of the built book."""
    return HTML


@pytest.fixture(scope="session")
def chromium():
    """Start one browser for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=SWITCHES.split())
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Return a function that opens a page and notes its requests and console errors."""
    contexts = []

    def open_(name, *, width=1280, scheme="light", script=True):
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.requests, page.errors = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("requestfailed", lambda request: failed(page, request))
        page.on("console", lambda message: message.type in ("error", "warning") and page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto((HTML / name).as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()


def failed(page, request):
    """Note a request that failed; one that the browser gave up because the test went to another page did not."""
    if request.failure != "net::ERR_ABORTED":
        page.errors.append(f"failed: {request.url}: {request.failure}")
