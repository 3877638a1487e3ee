"""How often stage 5's whole protocol takes chance for a trait, and how often it finds one, on simulated texts.
docs/steering.md has the table of a thousand draws each.
"""

import re

import pytest

from benchmarks.simulated import exact, mixtures, nulls, traits
from benchmarks.verdicts import PAGE, draw, insert, share_of
from traitscope.analysis.steering import evaluate as protocol

NULLS = {world.name: world for world in nulls()}
SHORT = ("t, 3 degrees of freedom", "floor, whole numbers", "last layers react 5 times as much")
TRAITS = {world.name: world for world in traits()}
CLEAR = "+15 points, the trait carries 20% of the variance"


@pytest.fixture(autouse=True)
def without_rows(monkeypatch):
    """Spare a simulation the writing of its texts."""
    monkeypatch.setattr(protocol, "arm_rows", lambda *_: [])


def rate(world, repetitions: int) -> float:
    return sum(works for works, _ in draw(world, repetitions)) / repetitions


@pytest.mark.parametrize("name", SHORT)
def test_one_more_random_direction_seldom_works(name):
    assert rate(NULLS[name], 80) <= 0.0625


@pytest.mark.slow
@pytest.mark.parametrize("name", NULLS)
def test_one_more_random_direction_works_in_about_one_of_thirty(name):
    assert rate(NULLS[name], 150) <= 0.07  # the page has the same of fifteen hundred draws


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "repetitions"),
    [*((w, 40) for w in exact()), *((w, 150) for w in mixtures() if w.held_out == "by lot")],
    ids=lambda given: getattr(given, "name", ""),
)
def test_nor_does_chance_that_chooses_or_holds_a_trait_by_luck(world, repetitions):
    assert rate(world, repetitions) <= 0.1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_a_true_direction_is_found_whatever_share_of_the_variance_it_carries(share):
    world = next(w for w in TRAITS.values() if w.gain == 15 and w.share == share)
    assert rate(world, 60) >= 0.75


@pytest.mark.slow
def test_fifteen_points_are_found_in_four_of_five_draws():
    assert rate(TRAITS[CLEAR], 200) >= 0.78


def test_the_p_of_one_more_random_direction_is_never_too_small_too_often():
    values = [p for _, p in draw(NULLS["normal"], 100)]
    assert sum(p <= 0.05 for p in values) <= 10


def test_the_page_holds_a_table_of_every_world_whose_upper_ends_are_at_most_a_twentieth():
    page = PAGE.read_text()
    part = page[page.index("<!-- verdicts -->") : page.index("<!-- /verdicts -->")]
    for world in NULLS.values():
        row = next(line for line in part.splitlines() if line.startswith(f"| {world.name} |"))
        upper = float(re.search(r", ([\d.]+)%\]", row)[1])
        assert upper <= 5, row
    power = next(line for line in part.splitlines() if line.startswith(f"| {CLEAR} |"))
    assert float(re.search(r"\| ([\d.]+)% \[", power)[1]) >= 80
    assert insert(page, "table", 3).count("table\n<!-- /verdicts -->") == 1


def test_an_interval_of_a_share_holds_it_and_closes_at_the_ends():
    assert share_of(0, 100)[1] == 0
    assert share_of(100, 100)[2] == 1
    share, low, high = share_of(5, 100)
    assert low < share == 0.05 < high
