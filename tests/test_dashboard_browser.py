"""Every view in a real browser, over a real server and real artifacts: opened, used, watched for errors."""

import csv
import re

import pytest
from dashboard_browser import keep, needs_browser, save, scroll_through
from dashboard_server import DECEPTION, FORMALITY, MARKUP, OPTIMISM

pytestmark = needs_browser


VIEWS = {
    "overview": "#/overview?experiment=demo",
    "extraction": f"#/extraction?experiment=demo&trait={OPTIMISM}",
    "training": f"#/training?experiment=demo&trait={FORMALITY}",
    "steering": f"#/steering?experiment=demo&trait={OPTIMISM}",
    "rollouts": f"#/rollouts?experiment=demo&trait={OPTIMISM}",
    "dynamics": "#/dynamics?experiment=demo&set=skies&other=twin&pid=turns",
    "groups": "#/groups?experiment=demo&set=skies",
    "chat": "#/chat?experiment=demo",
    "api": "#/api",
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_wide_and_narrow_light_and_dark(visit, tmp_path, view):
    page = visit.open(VIEWS[view])
    scroll_through(page)
    for width, theme in ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=theme)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (
            f"{view} is wider than {width} px"
        )
        keep(page, f"{view}_{width}_{theme}", tmp_path)
    assert page.query_selector(".state.failed") is None


def test_the_overview_shows_verdicts_and_freshness_and_leads_on(visit):
    page = visit.open(VIEWS["overview"])
    states = {
        trait: page.eval_on_selector_all(
            f"[data-trait='{trait}'] .stages li", "ls => ls.map((l) => l.className)"
        )
        for trait in (OPTIMISM, FORMALITY, DECEPTION)
    }
    assert states == {
        OPTIMISM: ["done"] * 6,
        FORMALITY: ["done"] * 5 + ["missing"],
        DECEPTION: ["stale"] + ["missing"] * 5,
    }
    assert "input changed" in page.inner_text(f"[data-trait='{DECEPTION}']")
    assert "not steered yet" in page.inner_text(f"[data-trait='{FORMALITY}']")
    page.click(f"[data-trait='{OPTIMISM}'] >> text=Steering")
    page.wait_for_selector("h1:has-text('Steering sweep')")
    assert f"trait={OPTIMISM}" in page.url


def test_a_text_is_shown_as_itself_and_in_full(visit):
    page = visit.open(f"{VIEWS['extraction']}&part=scenarios")
    page.fill("input[type=search]", "onerror")
    page.wait_for_selector(".picker-count:has-text('1–1 of 1')")
    assert page.inner_text(".picker-detail .quote") == MARKUP
    assert page.query_selector("main img, main script") is None
    assert page.title().startswith("Trait extraction")


def test_texts_are_filtered_and_sorted_and_the_address_remembers(visit):
    page = visit.open(f"{VIEWS['extraction']}&part=scenarios")
    page.select_option("label:has-text('Side') select", "neg")
    page.select_option("label:has-text('Order') select", "score:down")
    page.wait_for_selector(".picker-count:has-text('1–14 of 14')")
    values = [
        float(v.split()[0])
        for v in page.eval_on_selector_all(".picker-row .value", "vs => vs.map((v) => v.innerText)")
    ]
    assert values == sorted(values, reverse=True)
    page.focus(".picker-list")
    for key in ("ArrowDown", "ArrowDown", "End", "ArrowUp"):
        page.keyboard.press(key)
    shown = page.inner_text(".picker-detail")
    assert page.eval_on_selector(".picker-row[aria-selected=true]", "r => r.dataset.index") == "12"
    page.reload()
    page.wait_for_selector(".picker-detail .quote")
    assert page.inner_text(".picker-detail") == shown


def test_a_filter_with_no_match_says_so(visit):
    page = visit.open(VIEWS["extraction"])
    page.fill("input[type=search]", "zzzzz")
    page.wait_for_selector("text=Nothing matches.")


def test_the_vector_that_is_shown_first_is_the_one_that_the_server_ranks_best(visit):
    page = visit.open(VIEWS["extraction"])
    about = f"{visit.url}api/experiments/demo/vectors?trait={OPTIMISM}"
    method, layer = page.evaluate("about => fetch(about).then((r) => r.json())", about)["best"]
    page.wait_for_selector(f"text={method}, layer {layer}")


def test_a_heatmap_cell_chooses_the_vector(visit):
    page = visit.open(VIEWS["extraction"])
    scroll_through(page)
    page.locator("[data-plot=layers_methods_AUROC] .nsewdrag").click(position={"x": 30, "y": 20})
    page.wait_for_url(re.compile("method=mean_diff&layer=8"))
    page.wait_for_selector("text=mean_diff, layer 8")
    page.click("button:has-text('norm')")
    page.wait_for_selector("text=Layer × method: norm")
    scroll_through(page)


def test_a_steering_cell_opens_its_texts_beside_the_baseline(visit):
    page = visit.open(VIEWS["steering"])
    scroll_through(page)
    page.locator("[data-plot^=effect_] .nsewdrag").click(position={"x": 20, "y": 20})
    page.wait_for_url(re.compile("part=dev"))
    page.wait_for_selector(".picker-detail .columns .quote")
    labels = page.eval_on_selector_all(".picker-detail .columns .label", "ls => ls.map((l) => l.innerText)")
    assert labels[0] == "Unsteered"
    assert re.fullmatch(r"plus (mean_diff|probe) layer 12 dose 0\.3", labels[1])
    page.click("#judging summary")
    page.wait_for_selector("#judging pre")
    assert "optimis" in page.inner_text("#judging pre").lower()


def test_a_cell_of_rollouts_opens_its_texts_beside_plain_ones(visit):
    page = visit.open(VIEWS["rollouts"])
    page.click("button[aria-label^='mean_diff layer 12 dose +0.3']")
    page.wait_for_selector(".picker-detail .label:has-text('mean_diff layer 12 dose +0.3, rollout 2')")
    assert "variant=mean_diff" in page.url
    labels = page.eval_on_selector_all(".picker-detail .columns .label", "ls => ls.map((l) => l.innerText)")
    steered = [f"mean_diff layer 12 dose +0.3, rollout {i}" for i in (1, 2)]
    assert labels == ["Plain, rollout 1", "Plain, rollout 2", *steered]

    page.select_option("label:has-text('Variant') select", "prompted 0")
    page.wait_for_selector(".picker-detail .label:has-text('System prompt')")
    page.reload()
    page.wait_for_selector(".picker-detail .label:has-text('prompted 0, rollout 1')")
    assert page.get_attribute("button[aria-label^='prompted 0']", "aria-pressed") == "true"


def test_a_plot_saves_as_picture_and_as_table(visit, tmp_path):
    page = visit.open(VIEWS["steering"])
    scroll_through(page)
    save(page, "comparison", "PNG").save_as(tmp_path / "a.png")
    save(page, "comparison", "SVG").save_as(tmp_path / "a.svg")
    save(page, "dose_effect", "CSV").save_as(tmp_path / "a.csv")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    places = {(r["method"], r["layer"], r["dose"]) for r in rows}
    assert places == {
        ("mean_diff", "12", dose) for dose in ("0.1", "0.3")
    }  # the one nearest to the usual depth
    assert all(float(r["low"]) <= float(r["effect"]) <= float(r["high"]) for r in rows)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("#/overview?experiment=nothing", "No results yet"),
        ("#/overview?experiment=gone", "There is no experiment “gone”"),
        ("#/extraction?experiment=nothing", "No results yet"),
        (f"#/extraction?experiment=demo&trait={DECEPTION}", "No vectors yet"),
        ("#/extraction?experiment=demo&trait=no/such", "“no/such” has no results here"),
        (f"#/steering?experiment=demo&trait={FORMALITY}", "Not steered yet"),
        (f"#/rollouts?experiment=demo&trait={FORMALITY}", "Not rolled out yet"),
        ("#/dynamics?experiment=nothing", "No prompts yet"),
        ("#/dynamics?experiment=demo&set=none", "“none” was not captured here"),
        ("#/groups?experiment=nothing", "No prompts yet"),
        ("#/chat?experiment=demo", "chatting needs torch"),
        ("#/nowhere", "Overview"),
    ],
)
def test_what_is_not_there_is_said_with_what_makes_it(visit, address, said):
    visit.open(address).wait_for_selector(f"text={said}")


def test_while_loading_it_says_so_and_after_an_error_it_tries_again(visit):
    page = visit.page
    held: list = []
    page.route("**/api/experiments", lambda route: held.append(route))
    page.goto(visit.url)
    page.wait_for_selector("[role=status]:has-text('Loading')")
    held.pop().fulfill(status=200, content_type="application/json", body="no JSON at all")
    page.unroute("**/api/experiments")
    page.wait_for_selector("[role=alert]")
    page.click("text=Try again")
    page.wait_for_selector(f"[data-trait='{OPTIMISM}']")
    visit.problems.clear()  # the browser itself reports what it was fed


def test_a_server_that_is_gone_is_told_in_words(visit):
    page = visit.open(VIEWS["overview"])
    page.route("**/api/**", lambda route: route.abort())
    page.keyboard.press("r")
    page.wait_for_selector("[role=alert]:has-text('The server does not answer')")
    visit.problems.clear()  # the browser reports the failed request


def test_everything_can_be_reached_by_keys(visit):
    page = visit.open(f"{VIEWS['overview']}&trait={OPTIMISM}")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] >> text=Keys")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.wait_for_selector("h1:has-text('Trait extraction')")
    page.wait_for_selector(".picker-list")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.focus("nav a[aria-current=page]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Training')")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    page.go_back()
    page.wait_for_selector("h1:has-text('Trait extraction')")
