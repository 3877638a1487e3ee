"""The dashboard as a reader meets it: a server in a process without torch, over artifacts that the pipeline made on the embedded model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import copy_trait
from filelock import FileLock

from extraction import run_pipeline

CODE = Path(__file__).parents[1]
OPTIMISM, FORMALITY, DECEPTION = "epistemic/optimism", "behavioral/formality", "alignment/deception"
MARKUP = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> Since everything will turn out well, I"
SMALL = {"max_new_tokens": 8, "val_share": 0.35, "pos_threshold": 50.0, "neg_threshold": 50.0, "min_usable": 2, "judge": "embedded"}
SWEEP = {"layers": "12,16", "method": ("mean_diff", "probe"), "subset": 3, "random_pairs": 3, "doses": (0.1, 0.3)}
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
    """Run the pipeline: one trait to the end, one up to its vectors, one that has gone stale; and an experiment without results."""
    for trait in (OPTIMISM, FORMALITY, DECEPTION):
        copy_trait(root, trait, 14)
    scenarios = root / "datasets" / "traits" / OPTIMISM / "positive.txt"
    scenarios.write_text("\n".join([MARKUP, *scenarios.read_text().split("\n")[1:]]))
    before = os.environ.get("TRAITSCOPE_ROOT")
    os.environ["TRAITSCOPE_ROOT"] = str(root)
    try:
        own = {"experiment": "demo", "fit_layers": "8-17", "methods": ("mean_diff", "probe", "random"), **SMALL, **SWEEP}
        run_pipeline.main(traits=(FORMALITY,), no_steering=True, **own)
        run_pipeline.main(traits=(OPTIMISM,), **own)
        run_pipeline.main(traits=(DECEPTION,), stages="0", **own)
    finally:
        os.environ.pop("TRAITSCOPE_ROOT")
        os.environ |= {"TRAITSCOPE_ROOT": before} if before else {}
    definition = root / "datasets" / "traits" / DECEPTION / "definition.txt"
    definition.write_text(definition.read_text() + "\nEdited since.")
    (root / "experiments" / "nothing").mkdir()
    (root / ".env").write_text("OPENAI_API_KEY=sk-secret\n")
    return root


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

    def __init__(self, root: Path, *flags: str) -> None:
        command = [sys.executable, "-c", WITHOUT_TORCH, str(CODE / "visualization/serve.py"), "--port", "0", *flags]
        environment = os.environ | {"TRAITSCOPE_ROOT": str(root)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> "DashboardServer":
        assert self.process.stdout
        said = self.process.stdout.readline()
        assert "http://" in said, said + self.process.stdout.read()
        self.url = said.split()[-1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
