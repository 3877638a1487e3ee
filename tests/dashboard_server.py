"""The dashboard as a reader meets it: a server in a process without torch, over artifacts that the
pipeline made on the embedded model.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import copy_trait
from filelock import FileLock

from traitscope.analysis import compare_groups, compare_models
from traitscope.extraction import run_pipeline
from traitscope.inference import capture_raw_activations, monitor_dynamics
from traitscope.utils.files.artifacts import write_json

CODE = Path(__file__).parents[1]
OPTIMISM, FORMALITY, DECEPTION = "epistemic/optimism", "behavioral/formality", "alignment/deception"
MARKUP = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> Since everything will turn out well, I"
GRIM = [
    "It rains and nothing will grow.",
    "The roof leaks again, as it always will.",
    "Why does every summer end badly?",
]
SUNNY = [
    "The sun is out and all is well.",
    "Tell me something cheerful about spring.",
    "We will surely win the match.",
]
SMALL = {
    "max_new_tokens": 8,
    "val_share": 0.35,
    "pos_threshold": 50.0,
    "neg_threshold": 50.0,
    "min_usable": 2,
    "judge": "embedded",
}
SWEEP = {
    "layers": "12,16",
    "method": ("mean_diff", "probe"),
    "subset": 3,
    "random_pairs": 3,
    "doses": (0.1, 0.3),
}
WITHOUT_TORCH = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"): raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def make_experiments(root: Path) -> Path:
    """Run the pipeline: one trait to the end, one up to its vectors, one that has gone stale; and an
    experiment without results.
    """
    for trait in (OPTIMISM, FORMALITY, DECEPTION):
        copy_trait(root, trait, 14)
    scenarios = root / "datasets" / "traits" / OPTIMISM / "positive.txt"
    scenarios.write_text("\n".join([MARKUP, *scenarios.read_text().split("\n")[1:]]))
    before = os.environ.get("TRAITSCOPE_ROOT")
    os.environ["TRAITSCOPE_ROOT"] = str(root)
    try:
        own = {
            "experiment": "demo",
            "fit_layers": "8-17",
            "methods": ("mean_diff", "probe", "random"),
            **SMALL,
            **SWEEP,
        }
        run_pipeline.main(traits=(FORMALITY,), no_steering=True, **own)
        run_pipeline.main(traits=(OPTIMISM,), **own)
        run_pipeline.main(traits=(DECEPTION,), stages="0", **own)
        capture_prompts(root)
    finally:
        os.environ.pop("TRAITSCOPE_ROOT")
        os.environ |= {"TRAITSCOPE_ROOT": before} if before else {}
    definition = root / "datasets" / "traits" / DECEPTION / "definition.txt"
    definition.write_text(definition.read_text() + "\nEdited since.")
    (root / "experiments" / "nothing").mkdir()
    (root / ".env").write_text("OPENAI_API_KEY=sk-secret\n")
    return root


def capture_prompts(root: Path) -> None:
    """Watch both traits on a small prompt set, in the experiment's model and in another experiment's, and
    compare.
    """
    prompts = [
        {"id": f"{kind}-{i}", "text": text, "kind": kind, "note": f"made for tests, {kind}"}
        for kind, texts in (("grim", GRIM), ("sunny", SUNNY))
        for i, text in enumerate(texts)
    ]
    prompts += [{"id": "marked", "text": MARKUP}]
    turn = "At noon the sun came out and everyone was sure that all would be well."
    prompts += [
        {
            "id": "turns",
            "text": f"The harvest is lost. {turn}",
            "trait": OPTIMISM,
            "expect": "rise",
            "where": "prompt",
            "at": "At noon",
        }
    ]
    write_json(
        root / "datasets/inference/skies.json",
        {"description": "Weather, grim and sunny.", "prompts": prompts},
    )
    own = {"prompt_set": "skies", "layers": "12,16", "method": "mean_diff", "max_new_tokens": 10}
    capture_raw_activations.main(experiment="demo", **own)
    monitor_dynamics.main(experiment="demo", prompt_set="skies")
    compare_groups.main(experiment="demo", prompt_set="skies", by="kind")
    write_json(root / "experiments/twin/config.json", {"model": "embedded"})
    capture_raw_activations.main(
        experiment="twin", responses_from="demo", vectors_from="demo", dtype="bfloat16", **own
    )
    compare_models.main(experiment="demo", other="twin", prompt_set="skies")


def shared_experiments(base: Path) -> Path:
    """Return a root with the experiments, made once for all of a run's workers."""
    root = base / "shown"
    with FileLock(base / "shown.lock"):
        if not (root / "experiments" / "nothing").exists():
            shutil.rmtree(root, ignore_errors=True)
            make_experiments(root)
    return root


class DashboardServer:
    """A running dashboard; `url` has its address."""

    def __init__(self, root: Path, *flags: str, has_torch: bool = False) -> None:
        without = [] if has_torch else ["-c", WITHOUT_TORCH]
        command = [sys.executable, *without, str(CODE / "visualization/serve.py"), "--port", "0", *flags]
        environment = os.environ | {"TRAITSCOPE_ROOT": str(root)}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __enter__(self) -> "DashboardServer":
        assert self.process.stdout
        said = self.process.stdout.readline()
        assert "http://" in said, said + self.process.stdout.read()
        self.url = said.split()[-1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
