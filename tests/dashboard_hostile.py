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
    for file in [*demo.rglob("*.json"), *(root / "experiments/twin").rglob("*.json")]:
        if file.name != "config.json":  # that of `demo` stays good, so that there is somebody to talk to
            write_json(file, with_script(read_json(file)), indent=None)

    optimism = TraitPaths("demo", OPTIMISM, root)
    _name_what_is_there(InferencePaths("demo", "skies", root), optimism)
    definition = optimism.dataset / "definition.txt"
    definition.write_text(f"{definition.read_text()}\n{SCRIPT}")
    _plant_links(root, root.with_name(f"{root.name}.outside"))
    _plant_bad_experiments(root / "experiments")
    return root


def with_script(content: Any, field: str = "") -> Any:
    """Return what a file holds with script in each of its texts."""
    if isinstance(content, dict):
        return {name: with_script(value, name) for name, value in content.items()}
    if isinstance(content, list):
        return [with_script(value, field) for value in content]
    return f"{content} {SCRIPT}" if isinstance(content, str) and field in TEXTS else content


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
    """Let links and names of the experiment `leaky` lead to files that nobody may see."""
    shutil.copytree(root / "experiments/leaky", outside)
    for file in outside.rglob("*.json"):
        file.write_text(file.read_text().replace("Since", CANARY).replace("will", CANARY))
    (outside / "secret.json").write_text(f'{{"model": "{CANARY}", "rows": ["{CANARY}"]}}')

    trait, skies = TraitPaths("leaky", OPTIMISM, root), InferencePaths("leaky", "skies", root)
    for file in (trait.responses("pos"), trait.scenario_scores, trait.steering_results):
        file.unlink()
        file.symlink_to(outside / file.relative_to(root / "experiments/leaky"))
    other = TraitPaths("leaky", FORMALITY, root)
    shutil.rmtree(other.vectors)
    other.vectors.symlink_to(outside / other.vectors.relative_to(root / "experiments/leaky"))
    manifest = read_json(other.manifest("4_fit_vectors"))
    write_json(
        other.manifest("4_fit_vectors"), manifest | {"inputs": {f"../{outside.name}/secret.json": "x"}}
    )

    index = read_json(skies.index)
    index["prompts"].insert(0, {"id": f"../../../../../../{outside.name}/secret"})
    write_json(skies.index, index)
    for name, target in {"linked": outside, "hidden": "demo/.sync", "up": "../..", "abroad": "/etc"}.items():
        (root / "experiments" / name).symlink_to(target)


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
