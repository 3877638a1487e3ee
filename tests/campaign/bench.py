"""One small root with every kind of file that the tools write, and the commands that write and read it."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import CHATML, copy_trait, save_tiny

from campaign.forks import Job, run
from traitscope.utils.judge.embedded import read
from traitscope.utils.model.loading import ModelOptions, load_lm

A, B = "epistemic/optimism", "behavioral/formality"
SET = "skies"
PIPELINE = [
    *("--layers", "1-2", "--method", "mean_diff", "--methods", "mean_diff,probe", "--batch-size", "7"),
    *("--max-new-tokens", "6", "--subset", "3", "--random-pairs", "2", "--doses", "0.1,0.3"),
    *("--min-usable", "2", "--pos-threshold", "0", "--neg-threshold", "100", "--judge", "embedded"),
]
WATCH = ("--layers", "1-2", "--method", "mean_diff")
QUESTIONS = ("grim", "It rains and nothing will grow."), ("sunny", "The sun is out and all is well.")
KINDS = ("safetensors", "gguf", "repeng", "persona_vectors")


@dataclass(frozen=True)
class Bench:
    """The finished root, and where trials may work."""

    home: Path
    scratch: Path
    known: dict[str, Any] = field(default_factory=dict)  # what one part found out, for the next

    def copy(self, name: str) -> Path:
        """Return a fresh copy of the root."""
        target = self.scratch / name
        remove(target)
        shutil.copytree(self.home, target, symlinks=True)
        return target

    def bare(self, name: str) -> Path:
        """Return a root in which nothing has run: datasets and settings alone."""
        target = self.scratch / name
        remove(target)
        shutil.copytree(self.home / "datasets", target / "datasets")
        return target


def remove(path: Path) -> None:
    """Delete a tree, whatever became of it."""
    shutil.rmtree(path, ignore_errors=True)


def models(home: Path) -> dict[str, str]:
    """Return the folders of the models that belong to a bench; they are no part of its root."""
    return {name: str(home.with_name(f"model-{name}")) for name in ("llama", "sibling")}


def argv(home: Path, name: str, trait: str = A) -> tuple[str, tuple[str, ...]]:
    """Return a command by its short name: the script and its arguments."""
    folder = models(home)
    demo, captured = ("--experiment", "demo"), ("--experiment", "demo", "--prompt-set", SET)
    exported = "{root}" + f"/experiments/demo/exports/{trait}/mean_diff"
    replay = ("--responses-from", "demo", "--vectors-from", "demo")
    new_tokens = ("--max-new-tokens", "9", "--save-raw")
    whole = (*demo, "--model", folder["llama"], *PIPELINE)
    known = {
        "pipeline": ("run_pipeline", *whole, "--traits", f"{A},{B}"),
        "one_trait": ("run_pipeline", *whole, "--traits", trait),
        "dry_run": ("run_pipeline", *whole, "--traits", f"{A},{B}", "--dry-run"),
        "verify": ("run_pipeline", *whole, "--traits", f"{A},{B}", "--verify"),
        "capture": ("capture_raw_activations", *captured, "--model", folder["llama"], *WATCH, *new_tokens),
        "recapture": (
            "capture_raw_activations",
            *captured,
            "--model",
            folder["sibling"],
            *WATCH,
            *new_tokens,
        ),
        "twin": (
            *("capture_raw_activations", "--experiment", "twin", "--prompt-set", SET),
            *("--model", folder["sibling"], *WATCH, *replay, "--save-raw"),
        ),
        "project": ("project_activations", *captured, "--model", folder["llama"], *WATCH),
        "dynamics": ("monitor_dynamics", *captured),
        "groups": ("compare_groups", *captured, "--by", "kind"),
        "compare": ("compare_models", *demo, "--other", "twin", "--prompt-set", SET),
        "cross": ("cross_trait", *demo, "--traits", f"{A},{B}", "--subset", "2", "--judge", "embedded"),
        "draw": ("draw_steering", *demo, "--traits", f"{A},{B}"),
        "export": ("export_vectors", *demo, "--trait", trait, "--format", ",".join(KINDS)),
        "import": _import(demo, trait, exported, "safetensors"),
        "table": ("trait_table", *demo),
        "steering_table": ("trait_table", *demo, "--steering"),
        "export_import": ("export_vectors", *demo, "--trait", trait, "--method", "from_safetensors"),
        "project_more": (
            *("project_activations", *captured, "--model", folder["llama"]),
            *("--layers", "0-3", "--method", "probe", "--centered"),
        ),
        "watch_import": (
            *("project_activations", *captured, "--model", folder["llama"], "--layers", "1-2"),
            *("--method", "from_safetensors", "--trait", trait),
        ),
        "steer_import": (*("5_steer_evaluate", *demo, "--trait", trait, "--method", "from_safetensors"),),
        "force": ("run_pipeline", *whole, "--traits", f"{A},{B}", "--force"),
        "rescore": ("5_steer_evaluate", *demo, "--trait", trait, "--rescore", "--judge", "embedded"),
        "agreement": ("judge_agreement", *demo, "--traits", A, "--labels", "{root}/labels.csv"),
        "chat": ("chat", *demo, "--model", folder["llama"], *("--layers", "best", "--max-new-tokens", "6")),
    }
    known |= {f"import_{kind}": _import(demo, trait, exported, kind) for kind in KINDS[1:]}
    known |= {f"stage{name[0]}": (name, *demo, "--trait", trait) for name in _stages()}
    script, *arguments = known[name]
    return script, tuple(arguments)


def _import(demo: tuple[str, ...], trait: str, exported: str, kind: str) -> tuple[str, ...]:
    where = ("--file", f"{exported}/{FILES[kind]}", "--format", kind)
    return ("import_vectors", *demo, "--trait", trait, *where, "--method", f"from_{kind}")


def _stages() -> tuple[str, ...]:
    from traitscope.utils.files.paths import STAGES

    return STAGES


def _files() -> dict[str, str]:
    from traitscope.analysis.exchange.formats import FORMATS

    return {name: form.file for name, form in FORMATS.items()}


FILES = _files()
TALK = f"Hello there.\n/steer {A} 0.3\nHello there.\n/undo\nGood day.\n/quit\n"


def job(home: Path, root: Path, name: str, *more: str, trait: str = A) -> Job:
    """Return a command by its short name, for a root."""
    script, arguments = argv(home, name, trait)
    typed = tuple(a.replace("{root}", str(root)) for a in (*arguments, *more))
    return Job(script, typed, stdin=TALK if name == "chat" else "")


WRITERS = (
    "pipeline",
    "capture",
    "twin",
    "project",
    "dynamics",
    "groups",
    "compare",
    "cross",
    "draw",
    "export",
)
LATER = ("import", "import_gguf", "import_repeng", "import_persona_vectors", "agreement", "chat", "pipeline")


def build(scratch: Path, only: tuple[str, ...] = (*WRITERS, *LATER)) -> Bench:
    """Make the root, in forks; what it says is checked at once."""
    home = scratch / "home"
    bench = Bench(home, scratch)
    write_datasets(home)
    for name, folder in models(home).items():
        save_tiny(Path(folder), "llama", CHATML, adds_bos=False, seed=int(name == "sibling"))
    _warm(home)

    for name in only:
        if name == "agreement":
            write_labels(home)
        done = run(job(home, home, name), home)
        assert done.kind == "ok", f"{name}: {done.said}"
    _warm_answers(home)
    load_lm(ModelOptions(model=models(home)["llama"]))  # forks find it loaded
    return bench


def write_datasets(home: Path) -> None:
    """Write two traits and a prompt set of six prompts."""
    for trait in (A, B):
        copy_trait(home, trait, 12)
    prompts = [
        {"id": f"{kind}-{i}", "text": f"{text} What of {word}?", "kind": kind}
        for i, word in enumerate(("bread", "ships"))
        for kind, text in QUESTIONS
    ]
    turn = "The harvest is lost. At noon the sun came out and all were glad."
    known = {"trait": A, "expect": "rise", "where": "prompt", "at": "At noon", "kind": "grim"}
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it late?"}]
    prompts += [{"id": "turn", "text": turn, **known}, {"id": "talk", "messages": talk, "kind": "sunny"}]
    folder = home / "datasets" / "inference"
    folder.mkdir(parents=True)
    (folder / f"{SET}.json").write_text(json.dumps({"description": "Skies.", "prompts": prompts}))


def write_labels(home: Path) -> None:
    """Write scores of people for a few responses."""
    folder = home / "experiments/demo/extraction" / A / "responses"
    rows = [
        row["key"]
        for side in ("pos", "neg")
        for row in json.loads((folder / f"{side}.json").read_text())["rows"]
    ]
    lines = [f"{A},{key},{90 - 3 * i}" for i, key in enumerate(rows)]
    (home / "labels.csv").write_text("\n".join(["trait,key,score", *lines]) + "\n")


def _warm(home: Path) -> None:
    """Read the traits' own texts in this process: its forks then find them done."""
    for trait in (A, B):
        folder = home / "datasets" / "traits" / trait
        lines = [
            x for side in ("positive", "negative") for x in (folder / f"{side}.txt").read_text().split("\n")
        ]
        read([line for line in lines if line.strip()])


def _warm_answers(home: Path) -> None:
    """Read all that the models wrote, so that a stage that runs again costs no reading."""
    texts: set[str] = set()

    def gather(content: object) -> None:
        if isinstance(content, dict):
            texts.update(v for k, v in content.items() if k in ("response", "text") and isinstance(v, str))
            content = list(content.values())
        for item in content if isinstance(content, list) else ():
            gather(item)

    for file in home.glob("experiments/demo/**/responses/*.json"):
        gather(json.loads(file.read_text()))
    read(sorted(text for text in texts if text.strip()))
