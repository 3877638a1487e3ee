"""A root as an attacker would leave it: script in every text, links that lead out, files that are none."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from dashboard_server import FORMALITY, OPTIMISM, make_experiments

from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths, TraitPaths
from traitscope.utils.files.reading import digest, read_json

CANARY = "CANARY-0b5e1d"  # stands in files outside the root, and must never be told
SCRIPT = (
    "<script>window.__pwned=1</script><img src=x onerror=\"window.__pwned=1\"><svg onload='window.__pwned=1'>"
    "<a href=\"javascript:window.__pwned=1\">here</a>{{constructor.constructor('window.__pwned=1')()}}"
)
NAME = "<img src=x onerror=window.__pwned=1>"  # as a folder may be called
TEXTS = {  # fields that hold what somebody wrote
    *("response", "text", "content", "question", "description", "detail", "why", "system_prompt", "judge"),
    *("unsteered", "plus", "minus", "note", "definition", "finished", "how", "position", "name"),
}


def make_hostile(root: Path) -> Path:
    """Make the experiments of the tests, and spoil them; `root`.outside lies beside the root."""
    make_experiments(root)
    demo = root / "experiments/demo"
    shutil.copytree(demo, root / "experiments/leaky")
    add_text(demo, SCRIPT)
    add_text(root / "experiments/twin", SCRIPT)
    optimism = TraitPaths("demo", OPTIMISM, root)
    _name_what_is_there(InferencePaths("demo", "skies", root), optimism)
    definition = optimism.dataset / "definition.txt"
    definition.write_text(f"{definition.read_text()}\n{SCRIPT}")
    _plant_links(root, root.with_name(f"{root.name}.outside"))
    _plant_bad_experiments(root / "experiments")
    return root


def with_text(content: Any, added: str, field: str = "") -> Any:
    """Return what a file holds with something added to each of its texts."""
    if isinstance(content, dict):
        return {name: with_text(value, added, name) for name, value in content.items()}
    if isinstance(content, list):
        return [with_text(value, added, field) for value in content]
    return f"{content} {added}" if isinstance(content, str) and field in TEXTS else content


def add_text(folder: Path, added: str) -> None:
    """Add something to each text of each file of an experiment; its settings stay as they are."""
    for file in folder.rglob("*.json"):
        if file.name != "config.json":
            write_json(file, with_text(read_json(file), added), indent=None)


def _name_what_is_there(skies: InferencePaths, trait: TraitPaths) -> None:
    """Let an index and a verdict name the files beside them as they now are."""
    index, verdict = read_json(skies.index), read_json(trait.steering_results)
    index["prompt_set"]["name"] = skies.prompt_set
    index["responses"] = {prompt["id"]: digest(skies.response(prompt["id"])) for prompt in index["prompts"]}
    write_json(skies.index, index)
    parts = ("dev", "test")
    verdict["texts_sha256"] = {part: digest(trait.steering_responses(part)) for part in parts}
    write_json(trait.steering_results, verdict)


def _plant_links(root: Path, outside: Path) -> None:
    """Let links and names of the experiments `leaky` and `lured` lead to files that nobody may see."""
    shutil.copytree(root / "experiments/leaky", root / "experiments/lured")
    add_text(root / "experiments/leaky", CANARY)
    trait, skies = TraitPaths("leaky", OPTIMISM, root), InferencePaths("leaky", "skies", root)
    _name_what_is_there(skies, trait)
    (root / "experiments/leaky").rename(outside)
    (root / "experiments/leaky").mkdir()
    shutil.copy(outside / "config.json", root / "experiments/leaky")
    for name in ("extraction", "steering", "inference"):
        _link_files(outside / name, root / "experiments/leaky" / name, root / "experiments/lured" / name)

    (outside / "secret.json").write_text(f'{{"model": "{CANARY}", "rows": ["{CANARY}"]}}')
    lured = InferencePaths("lured", "skies", root)
    index, climb = read_json(lured.index), f"../../../../../../{outside.name}/secret"
    write_json(lured.index, index | {"prompts": [{"id": climb}, *index["prompts"]]})
    manifest = TraitPaths("lured", FORMALITY, root).manifest("4_fit_vectors")
    write_json(manifest, read_json(manifest) | {"inputs": {f"../{outside.name}/secret.json": "x"}})
    for name, target in {"linked": outside, "hidden": "demo/.sync", "up": "../..", "abroad": "/etc"}.items():
        (root / "experiments" / name).symlink_to(target)


def _link_files(source: Path, target: Path, own: Path) -> None:
    """Make the same folders, with a link in each file's place.

    Args:
        own: Where manifests and indexes are copied from instead: by them traits and prompt sets are found.
    """
    for file in source.rglob("*"):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and (file.parent.name == "stages" or file.name == "index.json"):
            shutil.copy(own / file.relative_to(source), place)
        elif file.is_file():
            place.symlink_to(file)


def _plant_bad_experiments(folder: Path) -> None:
    """Make experiments of which each would blank the page that believed it."""
    outside = folder.parent.with_name(f"{folder.parent.name}.outside")
    contents = {
        "bracket": "[",
        "number": "3",
        "deep": "[" * 90_000,
        NAME: json.dumps({"model": SCRIPT}),
        "a\nb": "{}",
    }
    contents |= {
        "a:b": "{}",
        " blank ": "{}",
        "half": '{"model": "\\ud800"}',
        "huge": '{"pos_threshold": 1e400}',
    }
    for name, text in contents.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)

    for name in ("pipe", "device", "secret", "folder", "circle"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe/config.json")
    (folder / "device/config.json").symlink_to("/dev/zero")
    (folder / "secret/config.json").symlink_to(outside / "secret.json")
    (folder / "folder/config.json").mkdir()
    (folder / "circle/config.json").symlink_to("config.json")
    (folder / "circle/extraction").symlink_to(outside / "extraction")
    stages = folder / "bracket/extraction/mood" / NAME / "stages"
    stages.mkdir(parents=True)
    (stages / "0_vet_scenarios.json").write_text("[")
