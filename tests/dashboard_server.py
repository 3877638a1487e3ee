"""The dashboard as a reader meets it: a server in a process without torch, over artifacts that the
pipeline made on a small random model.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import call_with, copy_trait
from filelock import FileLock

from traitscope.analysis import compare_groups, compare_models
from traitscope.extraction import run_pipeline, train_vectors
from traitscope.inference import capture_raw_activations, monitor_dynamics, roll_out
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.model.gguf import converted, embedded_gguf

CODE = Path(__file__).parents[1]
OPTIMISM, FORMALITY, DECEPTION = "epistemic/optimism", "behavioral/formality", "alignment/deception"
MARKUP = (
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> "
    "Since everything will turn out well, I"
)
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
WIDTH = 32  # of the model
SMALL = {
    "temperature": 1.0,
    "max_new_tokens": 8,
    "val_share": 0.35,
    "pos_threshold": 45.0,
    "neg_threshold": 60.0,
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
TRAINING = {
    "steps": 10,
    "train_layers": "12,16",
    "train_seeds": 2,
    "learning_rates": (0.01, 0.1),
    "no_vet": True,
}
ROLLED = {
    "arms": ("plain", "prompted", "mean_diff"),
    "doses": (-0.3, 0.3),
    "layers": "12",
    "limit": 3,
    "rollouts": 2,
    "max_new_tokens": 8,
    "score": ("judge",),
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


def save_wordy(folder: Path) -> Path:
    """Write a narrow random model with the embedded model's tokenizer: its tokens are words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(converted(embedded_gguf()))
    shape = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 20}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape, **heads, **ends)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
            "model": str(save_wordy(root / "model")),
            "fit_layers": "8-17",
            "methods": ("mean_diff", "probe", "random"),
            **SMALL,
            **SWEEP,
        }
        call_with(run_pipeline, traits=(FORMALITY,), no_steering=True, **own)
        call_with(run_pipeline, traits=(OPTIMISM,), **own)
        call_with(run_pipeline, traits=(DECEPTION,), stages="0", **own)
        call_with(
            train_vectors, experiment="demo", traits=(FORMALITY,), objective=("nll", "delta"), **TRAINING
        )
        call_with(roll_out, experiment="demo", traits=(OPTIMISM,), **ROLLED)
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
    call_with(capture_raw_activations, experiment="demo", **own)
    call_with(monitor_dynamics, experiment="demo", prompt_set="skies")
    call_with(compare_groups, experiment="demo", prompt_set="skies", by="kind")
    write_json(root / "experiments/twin/config.json", {"model": str(root / "model")})
    twin = {"experiment": "twin", "responses_from": "demo", "vectors_from": "demo", "dtype": "bfloat16"}
    call_with(capture_raw_activations, **twin, **own)
    call_with(compare_models, experiment="demo", other="twin", prompt_set="skies")


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

    def __init__(
        self, root: Path, *flags: str, has_torch: bool = False, command: list[str] | None = None
    ) -> None:
        without = [] if has_torch else ["-c", WITHOUT_TORCH]
        usual = [sys.executable, *without, str(CODE / "visualization/serve.py"), "--port", "0", *flags]
        environment = os.environ | {"TRAITSCOPE_ROOT": str(root)}
        self.process = subprocess.Popen(
            command or usual, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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
