"""Pages of the dashboard in a real browser, watched for errors."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Download, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get(
    "TRAITSCOPE_SCREENSHOTS"
)  # a folder that keeps them; by default they go with the test's own
needs_browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no chromium on this machine: apt-get install chromium, and the browser tests run",
)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Start the browser."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


class Visit(NamedTuple):
    """A page that is watched."""

    page: Page
    url: str
    problems: list[str]

    def open(self, address: str = "") -> Page:
        self.page.goto(f"{self.url}{address}")
        self.page.wait_for_selector("main:not([aria-busy])")
        self.page.wait_for_selector("[aria-busy]", state="detached")
        return self.page


@contextmanager
def watched(browser: Browser, url: str) -> Iterator[Visit]:
    """Open pages at 1280 px; whatever the console says fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(10_000)
    problems: list[str] = []
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((url, "blob:", "data:"))
            else problems.append(f"asks {request.url}")
        ),
    )
    yield Visit(page, url, problems)
    context.close()
    assert problems == []


def keep(page: Page, name: str, tmp_path: Path) -> None:
    """Keep a screenshot as the test run's artifact."""
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def scroll_through(page: Page) -> None:
    """Bring every plot into sight and wait until it is drawn."""
    areas = page.locator(".plot-area")
    for i in range(areas.count()):
        areas.nth(i).scroll_into_view_if_needed()
        areas.nth(i).locator(".main-svg").first.wait_for()
    page.evaluate("window.scrollTo(0, 0)")


def save(page: Page, name: str, kind: str) -> Download:
    with page.expect_download() as saved:
        page.click(f"[data-plot={name}] [data-export={kind}]")
    return saved.value
