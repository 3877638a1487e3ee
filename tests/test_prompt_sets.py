"""The prompt sets are what they say they are."""

import json
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "datasets" / "inference"
SETS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
SIZES = {
    "general": 60,
    "baseline_neutral": 60,
    "refusal_probe": 60,
    "sycophancy_probe": 60,
    "jailbreak": 100,
    "dynamics": 40,
}
TRAITS = Path(__file__).parents[1] / "datasets" / "traits"


def text_of(prompt: dict) -> str:
    return prompt["text"] if "text" in prompt else prompt["messages"][-1]["content"]


def test_all_six_are_there_with_their_sizes():
    assert {name: len(found["prompts"]) for name, found in SETS.items()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_a_set_is_named_described_and_annotated(name):
    assert SETS[name]["name"] == name
    assert len(SETS[name]["description"]) > 40
    for prompt in SETS[name]["prompts"]:
        assert all((prompt["id"], prompt["note"], text_of(prompt).strip()))
        assert not [c for c in text_of(prompt) if ord(c) < 32 and c != "\n"]


def test_no_id_and_no_text_is_used_twice():
    everything = [prompt for found in SETS.values() for prompt in found["prompts"]]
    assert len({p["id"] for p in everything}) == len({text_of(p) for p in everything}) == len(everything)


def test_probes_are_balanced():
    assert Counter(p["kind"] for p in SETS["refusal_probe"]["prompts"]) == {
        "benign": 20,
        "alarming_words": 20,
        "borderline": 20,
    }
    triples: dict[int, list[str]] = {}
    for prompt in SETS["sycophancy_probe"]["prompts"]:
        triples.setdefault(prompt["triple"], []).append(prompt["kind"])
    assert [sorted(kinds) for kinds in triples.values()] == [["correct_view", "neutral", "wrong_view"]] * 20


def test_jailbreaks_cross_patterns_with_requests():
    prompts = SETS["jailbreak"]["prompts"]
    assert set(Counter(p["pattern"] for p in prompts).values()) == {10}
    per_request = Counter(p["request"] for p in prompts)
    assert len(per_request) >= 40
    assert sum(n >= 5 for n in per_request.values()) >= 10  # so that pattern and request can be told apart


def test_a_turn_is_at_a_known_place_and_of_a_known_trait():
    prompts = SETS["dynamics"]["prompts"]
    for prompt in prompts:
        assert (TRAITS / prompt["trait"] / "definition.txt").exists(), prompt["trait"]
        assert prompt["expect"] in ("rise", "fall")
        if prompt["where"] == "prompt":
            assert text_of(prompt).count(prompt["at"]) == 1
    assert sum(p["where"] == "prompt" for p in prompts) >= 20
