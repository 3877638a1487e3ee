"""Dynamics, groups and chat in a real browser: pointed at, clicked through, talked to."""

import re
from collections.abc import Iterator

import pytest
from dashboard_browser import needs_browser, save, scroll_through, watched
from dashboard_server import FORMALITY, MARKUP, OPTIMISM, DashboardServer

pytestmark = needs_browser
SKIES = "#/dynamics?experiment=demo&set=skies"


def test_pointing_at_a_token_shows_it_in_the_text_and_in_the_curve(visit):
    page = visit.open(f"{SKIES}&pid=sunny-1")
    scroll_through(page)
    page.locator(".tokens .token").nth(30).hover()
    assert page.inner_text(".readout").startswith("token 30")
    page.wait_for_selector("[data-plot=course] .hoverlayer .hovertext")
    assert page.locator(".readout b").count() == 2
    page.focus(".tokens")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout").startswith("token 31")
    assert page.eval_on_selector(".token.hot", "t => t.dataset.token") == "31"
    page.locator("[data-plot=course] .nsewdrag").hover(position={"x": 100, "y": 60})
    page.wait_for_selector(".token.hot:not([data-token='31'])")


def test_what_is_shown_is_in_the_address(visit):
    page = visit.open(f"{SKIES}&pid=turns")
    page.wait_for_selector(".token.known")
    assert page.inner_text(".token.known").strip() == "At"
    page.click(".toggle:has-text('formality')")
    page.click("button:has-text('Cosine')")
    page.select_option("label:has-text('Smoothing') select", "10")
    page.select_option("label:has-text('Method and layer') select", "mean_diff 16")
    page.wait_for_selector("td:has-text('rise expected at token')")
    page.wait_for_selector("th:has-text('layer 16')")
    assert f"traits={OPTIMISM}&scale=cosine&window=10&vec=mean_diff+16" in page.url
    shown = page.inner_text("table.plain")
    page.reload()
    page.wait_for_selector("th:has-text('layer 16')")
    assert page.inner_text("table.plain") == shown
    assert page.get_attribute(".toggle:has-text('formality')", "aria-pressed") == "false"


def test_prompts_are_searched_and_filtered_and_shown_in_full(visit):
    page = visit.open(SKIES)
    page.select_option("label:has-text('outcome: kind') select", "grim")
    page.wait_for_selector(".picker-count:has-text('1–3 of 3')")
    page.select_option("label:has-text('outcome: kind') select", "")
    page.fill("input[type=search]", "onerror")
    page.wait_for_selector(".picker-count:has-text('1–1 of 1')")
    page.wait_for_selector(".turn.user")
    assert MARKUP in page.inner_text(".tokens")
    assert page.query_selector("main img, main script") is None
    assert page.title().startswith("Trait dynamics")


def test_a_shared_address_shows_its_prompt_in_the_list(visit):
    page = visit.open(f"{SKIES}&pid=turns")
    page.wait_for_selector("[aria-selected=true] >> text=The harvest is lost")
    page.wait_for_timeout(100)
    frame, row = (
        page.locator(".picker-list").bounding_box(),
        page.locator("[aria-selected=true]").bounding_box(),
    )
    assert frame["y"] <= row["y"]
    assert row["y"] + row["height"] <= frame["y"] + frame["height"] + 1


def test_two_models_are_compared_on_the_same_tokens(visit, tmp_path):
    page = visit.open(f"{SKIES}&pid=grim-0")
    page.select_option("label:has-text('Compare with') select", "twin")
    page.wait_for_selector("h3:has-text('Two models')")
    scroll_through(page)
    save(page, "difference", "CSV").save_as(tmp_path / "d.csv")
    rows = (tmp_path / "d.csv").read_text().splitlines()
    assert rows[0] == f"token,{FORMALITY} mean_diff 12,{OPTIMISM} mean_diff 12"
    assert float(rows[-1].split(",")[1]) != 0
    page.click("summary:has-text('Where they differ most')")
    page.locator(".stretches a").first.click()
    page.wait_for_url(lambda url: "pid=grim-0" not in url)


def test_groups_lead_to_their_prompts(visit, tmp_path):
    page = visit.open("#/groups?experiment=demo&set=skies")
    page.wait_for_selector("text=first over second grim (3) over sunny (3)")
    scroll_through(page)
    page.locator("[data-plot=effect_map] .nsewdrag").click(position={"x": 10, "y": 10})
    page.wait_for_url(re.compile(r"vec=behavioral/formality\+mean_diff\+12"))
    page.select_option("label:has-text('Split by') select", "field:kind")
    page.wait_for_selector("button:has-text('Cosine')")
    page.click("button:has-text('Cosine')")
    page.wait_for_selector("text=scale cosine")
    scroll_through(page)
    save(page, "effect_sizes", "CSV").save_as(tmp_path / "e.csv")
    assert (tmp_path / "e.csv").read_text().startswith("trait,method,layer,first_mean")
    page.locator(".stretches a").first.click()
    page.wait_for_selector("h1:has-text('Trait dynamics')")
    assert re.search(r"pid=(grim|sunny)-\d", page.url)
    page.go_back()
    page.click("text=Read the 3 of “grim”")
    page.wait_for_selector(".picker-count:has-text('1–3 of 3')")


@pytest.fixture(scope="module")
def speaking(shown) -> Iterator[str]:
    with DashboardServer(shown, has_torch=True) as server:
        yield server.url


def test_a_chat_streams_stops_steers_and_branches(browser, speaking):
    with watched(browser, speaking) as visit:
        page = visit.open("#/chat?experiment=demo&length=400")
        page.set_default_timeout(60_000)
        page.fill("textarea", "Tell me a very long story about the <b>sea</b>.")
        page.keyboard.press("Enter")
        page.wait_for_selector(".reply .token:nth-child(3)")
        page.click("button:has-text('Stop')")
        page.wait_for_selector(".message-foot:has-text('stopped')")
        assert page.inner_text(".bubble").endswith("<b>sea</b>.")
        page.wait_for_selector("[data-plot=live] .scatterlayer .js-line")
        page.locator(".dose input").nth(1).focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        assert f"dose={OPTIMISM}%3A0.2" in page.url
        page.select_option("label:has-text('At most') select", "50")
        page.click(".message.user button:has-text('Edit')")
        page.fill(".message .compose textarea", "Say yes.")
        page.click("text=Ask again")
        page.wait_for_selector(".message-foot:has-text('steered: optimism +0.20')")
        page.wait_for_selector("button:has-text('Stop'):disabled")
        assert page.inner_text(".branches").split() == ["‹", "2/2", "›"]
        page.click("[aria-label='Earlier branch']")
        page.wait_for_selector(".message-foot:has-text('stopped')")
        assert "sea" in page.inner_text(".bubble")
        page.keyboard.press("7")
        page.wait_for_selector("h1:has-text('Groups')")
        page.go_back()
        page.wait_for_selector(".message-foot:has-text('stopped')")  # the conversation outlives the view
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.fixture
def spoilt(tmp_path) -> Iterator[str]:
    folder = tmp_path / "experiments"
    contents = {
        "good": '{"model": "embedded"}',
        "bracket": "[",
        "a\nb": "{}",
        "<img src=x onerror=alert(1)>": "3",
    }
    for name, content in contents.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(content)
    with DashboardServer(tmp_path, "--token", "open sesame") as server:
        yield server.url


def test_experiments_that_cannot_be_read_are_shown_with_why_as_text(browser, spoilt):
    with watched(browser, spoilt.partition("?")[0]) as visit:
        page = visit.open("#/overview")
        page.wait_for_selector("text=No results yet")
        cards = page.locator("[data-experiment]")
        assert [cards.nth(i).get_attribute("data-experiment") for i in range(cards.count())] == [
            "<img src=x onerror=alert(1)>",
            "a\nb",
            "bracket",
        ]
        assert "config.json is not valid JSON" in cards.nth(2).inner_text()
        assert page.query_selector("main img, main script") is None

        for view in ("chat", "extraction", "steering", "dynamics", "groups", "overview"):
            page = visit.open(f"#/{view}?experiment=bracket")
            page.wait_for_selector("text=This experiment cannot be read")
        page.select_option("label:has-text('Experiment') select", "good")
        page.wait_for_url(lambda url: "experiment=good" in url)


def test_the_link_opens_the_chat_and_leaves_no_token_in_the_address(browser, spoilt):
    with watched(browser, spoilt.partition("?")[0]) as visit:
        page = visit.open("#/chat?experiment=good")
        page.wait_for_selector("[role=alert]:has-text('this needs the token')")
        visit.problems.clear()  # the browser reports the 401
        page.goto(f"{spoilt}#/chat?experiment=good")
        page.wait_for_selector("text=There is no model to talk to here")
        assert page.url == f"{visit.url}#/chat?experiment=good"
        assert page.evaluate("document.cookie") == ""  # no script can read it
