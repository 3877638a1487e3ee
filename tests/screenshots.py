"""Take the pictures of docs/dashboard.md: `python tests/screenshots.py`, after `make demo` and the
captures of docs/inference.md.
"""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from dashboard_browser import CHROMIUM
from dashboard_server import CODE, FORMALITY, OPTIMISM, DashboardServer
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from traitscope.utils.files.paths import root_dir

PICTURES = {  # name: address, what the picture begins with, theme, width and height
    "overview": ("#/overview?experiment=demo", "main", "light", (1280, 800)),
    "vetting": (
        f"#/extraction?experiment=demo&trait={FORMALITY}&rsort=score:down",
        "section[aria-label=Vetting]",
        "light",
        (1280, 900),
    ),
    "vectors": (
        f"#/extraction?experiment=demo&trait={FORMALITY}",
        "section[aria-label=Vectors]",
        "light",
        (1280, 560),
    ),
    "verdict": (f"#/steering?experiment=demo&trait={OPTIMISM}", "main", "dark", (1280, 760)),
    "sweep": (
        f"#/steering?experiment=demo&trait={OPTIMISM}",
        "section[aria-label=Search]",
        "light",
        (1280, 900),
    ),
    "dynamics": (
        "#/dynamics?experiment=demo&set=dynamics&pid=vineyard-fall",
        ".picker",
        "light",
        (1280, 1240),
    ),
    "groups": (
        "#/groups?experiment=demo&set=refusal_probe",
        "section[aria-label=Effects]",
        "light",
        (1280, 900),
    ),
    "chat": ("#/chat?experiment=demo&length=50&dose=epistemic/optimism:0.2", "main", "dark", (1280, 1020)),
    "phone": (f"#/steering?experiment=demo&trait={OPTIMISM}", "main", "light", (390, 844)),
}
LARGEST = 150_000  # bytes of a picture


def take(page: Page, url: str, name: str) -> None:
    """Open a view, draw what is in sight, and save it."""
    address, start, theme, (width, height) = PICTURES[name]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=theme)
    page.goto("about:blank")
    page.goto(url + address)
    page.locator("section, .card").first.wait_for(timeout=60_000)
    if name == "chat":
        talk(page)
    page.locator(start).scroll_into_view_if_needed()
    page.evaluate(
        "start => window.scrollTo(0, start === 'main' ? 0 : "
        "document.querySelector(start).getBoundingClientRect().top + scrollY - 70)",
        start,
    )
    page.wait_for_timeout(1500)  # plots in sight are drawn one after another
    file = CODE / "docs" / "images" / f"{name}.png"
    page.screenshot(path=file)
    if file.stat().st_size > LARGEST:
        Image.open(file).convert("RGB").quantize(255, dither=Image.Dither.NONE).save(file, optimize=True)


def talk(page: Page) -> None:
    """Ask the model something, and wait for the whole reply."""
    page.fill("textarea", "How will the harvest turn out this year?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".reply .token", timeout=60_000)
    page.wait_for_selector("button:has-text('Stop'):disabled", timeout=60_000)


def main() -> None:
    names = sys.argv[1:] or list(PICTURES)
    if set(names) - PICTURES.keys():
        sys.exit(f"{__doc__}\nPictures that can be named: {', '.join(PICTURES)}.")
    with DashboardServer(root_dir(), has_torch=True) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page()
        for name in names:
            take(page, server.url, name)
        browser.close()


if __name__ == "__main__":
    main()
