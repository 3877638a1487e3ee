"""How soon is the dashboard usable at 24 traits × 30 layers × 4 methods, and at 500 prompts × 300 tokens?
Measured in a real browser.

The artifacts are those of the real stages and scripts, on a random model of 30 layers: nothing here means
anything but its size. Run it as `python tests/benchmarks/dashboard.py FOLDER`; an existing FOLDER is used
again.
"""

import os
import runpy
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")


from conftest import CHATML, call_with, copy_trait, save_tiny
from dashboard_browser import CHROMIUM
from dashboard_server import DashboardServer
from playwright.sync_api import Page, sync_playwright

from traitscope.extraction import run_pipeline
from traitscope.inference import capture_raw_activations
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.records.dataset_files import known_traits

TRAITS, LAYERS = 24, 30
PROMPTS, TOKENS = 500, 300
PASS_ALL = {"pos_threshold": 0.0, "neg_threshold": 100.0, "min_usable": 2, "judge": "embedded"}


def make(root: Path) -> None:
    """Run stages 0 to 4 for 24 traits (shipped scenarios under other names where there are too few) on a
    random model.
    """
    model = save_tiny(root / "model", "llama", CHATML, adds_bos=False, n_layers=LAYERS)
    shipped = [
        t
        for t in known_traits(Path(__file__).parents[2])
        if (Path(__file__).parents[2] / "datasets/traits" / t / "positive.txt").exists()
    ]
    names = []
    for i in range(TRAITS):
        source = shipped[i % len(shipped)]
        folder = (
            copy_trait(root, source, 40) if i < len(shipped) else root / "datasets/traits" / f"{source}_{i}"
        )
        if i >= len(shipped):
            folder.symlink_to(root / "datasets/traits" / source)
        names.append(folder.relative_to(root / "datasets/traits").as_posix())
    os.environ["TRAITSCOPE_ROOT"] = str(root)
    methods = ("mean_diff", "probe", "gradient", "random")
    call_with(
        run_pipeline,
        experiment="large",
        traits=tuple(names),
        model=str(model),
        max_new_tokens=8,
        methods=methods,
        no_steering=True,
        **PASS_ALL,
    )


def capture(root: Path) -> None:
    """Answer 500 prompts on that model, every text of 300 tokens and more, and watch all traits."""
    words = ("the tide", "a long letter", "our harvest", "the old bridge", "her first concert")
    texts = [f"{i}: " + f"Tell me all that you know about {words[i % 5]}. " * 2 for i in range(PROMPTS)]
    prompts = [
        {"id": f"p{i}", "text": text, "kind": "ab"[i % 2], "note": f"about {words[i % 5]}"}
        for i, text in enumerate(texts)
    ]
    write_json(
        root / "datasets/inference/many.json",
        {"description": "As many as a page should bear.", "prompts": prompts},
    )
    os.environ["TRAITSCOPE_ROOT"] = str(root)
    about = {
        "model": str(root / "model"),
        "layers": str(LAYERS // 2),
        "method": "mean_diff",
        "max_new_tokens": TOKENS - 110,
    }
    call_with(capture_raw_activations, experiment="large", prompt_set="many", **about)


def first_byte(page: Page) -> float:
    return page.evaluate("performance.getEntriesByType('navigation')[0].responseStart")


def measure(page: Page, url: str, name: str, address: str, usable: str) -> None:
    """Print the seconds from the first byte until a selector is there and the main thread answers."""
    page.goto("about:blank")
    page.goto(url + address)
    page.wait_for_selector(usable)
    now = page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => "
        "done(performance.now()), 0)))"
    )
    print(f"{name:44}{(now - first_byte(page)) / 1000:6.2f} s")


def main(root: Path) -> None:
    if not (root / "experiments/large/summary.json").exists():
        make(root)
    if not InferencePaths("large", "many", root).projections(f"p{PROMPTS - 1}").exists():
        capture(root)
    with DashboardServer(root) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for turn in ("server just started", "again"):
            measure(
                page,
                server.url,
                f"overview, {TRAITS} traits ({turn})",
                "#/overview",
                f".card:nth-child({TRAITS})",
            )
            measure(page, server.url, f"extraction ({turn}), texts", "#/extraction", ".picker-row")
            measure(
                page,
                server.url,
                f"extraction ({turn}), heatmap drawn",
                "#/extraction",
                "[data-plot^=layers_methods]",
            )
            measure(
                page,
                server.url,
                f"dynamics, {PROMPTS} prompts ({turn}), list",
                "#/dynamics?set=many",
                ".picker-row",
            )
            measure(
                page,
                server.url,
                f"dynamics ({turn}), tokens coloured",
                "#/dynamics?set=many&pid=p7",
                ".tokens .token",
            )
            measure(
                page, server.url, f"groups ({turn}), effects", "#/groups?set=many", "[data-plot=effect_sizes]"
            )
        measure(page, server.url, "extraction", "#/extraction", "[data-plot^=layers_methods]")
        start = time.monotonic()
        page.locator("[data-plot=traits_similarity]").scroll_into_view_if_needed()
        page.locator("[data-plot=traits_similarity] .main-svg").first.wait_for()
        print(f"{'similarity of 24 traits drawn after scrolling':44}{time.monotonic() - start:6.2f} s")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
