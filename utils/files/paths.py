"""Where every file lives. No other module spells a path under datasets/ or experiments/."""

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from traitscope.utils.errors import UserError
from traitscope.utils.files.reading import is_there

SIDES = ("pos", "neg")
VET_SCENARIOS, GENERATE, VET_RESPONSES, CAPTURE, FIT, STEER = STAGES = (  # the numbered steps, in order
    "0_vet_scenarios",
    "1_generate_responses",
    "2_vet_responses",
    "3_capture_activations",
    "4_fit_vectors",
    "5_steer_evaluate",
)
WRITERS = {  # places in an experiment, and the stage that writes there
    "extraction/{trait}/vetting/scenario_scores.json": VET_SCENARIOS,
    "extraction/{trait}/responses/": GENERATE,
    "extraction/{trait}/vetting/response_scores.json": VET_RESPONSES,
    "extraction/{trait}/activations/": CAPTURE,
    "extraction/{trait}/training/": "train_vectors",
    "extraction/{trait}/vectors/": FIT,
    "steering/{trait}/": STEER,
    "analysis/compare_vectors/{trait}/": "compare_vectors",
}


def root_dir() -> Path:
    """Return the folder that holds datasets/ and experiments/: TRAITSCOPE_ROOT, else this checkout; never
    the current directory.
    """
    return Path(os.environ.get("TRAITSCOPE_ROOT") or Path(__file__).parents[2]).resolve()


def cache_dir() -> Path:
    """Return the folder for what can be made again: TRAITSCOPE_CACHE, else `traitscope` in the user's
    cache directory.

    Raises:
        UserError: neither is known.
    """
    if stated := os.environ.get("TRAITSCOPE_CACHE"):
        return Path(stated)

    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a container's user without a home
        raise UserError(
            "this user has no home; set TRAITSCOPE_CACHE to a folder for what can be made again"
        ) from None
    return Path(home) / "traitscope"


def found_experiments(root: Path) -> list[str]:
    """Return the experiments under a root."""
    folder = root / "experiments"
    return (
        sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
        if folder.is_dir()
        else []
    )


def is_inside(root: Path, path: Path) -> bool:
    """Tell whether a path, every link followed, lies in a root's experiments/ or datasets/ and is not hidden there.

    Either folder may itself be a link to another disk.
    """
    bases = [(root / name).resolve() for name in ("experiments", "datasets")]
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL in the name
        return False

    base = next((base for base in bases if real.is_relative_to(base)), None)
    return base is not None and not any(part.startswith(".") for part in real.relative_to(base).parts)


def template_dir(form: str) -> Path:
    """Return the files that a new trait of a form begins with; they belong to this checkout, wherever the
    data are.
    """
    return Path(__file__).parents[2] / "datasets" / "templates" / form


def question_pool(root: Path) -> Path:
    """Return the file of neutral questions: the root's own, else the one of this checkout."""
    name = Path("datasets", "questions", "neutral.json")
    return root / name if is_there(root / name) else Path(__file__).parents[2] / name


def coherence_corpus() -> Path:
    """Return the answers, good and broken, that the judge of coherence learns from; they belong to this checkout."""
    return Path(__file__).parents[2] / "datasets" / "judging" / "coherence.jsonl"


def check_name(kind: str, name: str, parts: range) -> None:
    """Refuse a name that would leave its folder or name no folder; `parts` is how many `/`-separated
    parts it may have.
    """
    pieces = name.split("/")
    if len(pieces) not in parts or any(
        p.strip() != p
        or p in ("", ".", "..")
        or p.startswith(".")
        or len(p.encode(errors="surrogateescape")) > 200
        or any("\ud800" <= letter <= "\udfff" for letter in p)  # of a name that is no UTF-8
        or set(p) & set("\\\0\n:")
        for p in pieces
    ):
        shape = "category/name" if parts.start > 1 else "one folder name"
        raise UserError(
            f"bad {kind} name {name!r}: expected {shape}, without '..', leading dots or backslashes"
        )


def is_name(name: str, parts: range) -> bool:
    """Tell whether a name stays in its folder and names one; see `check_name`."""
    try:
        check_name("", name, parts)
    except UserError:
        return False
    return True


def is_trait(name: str) -> bool:
    """Tell whether a folder's name is one that a trait can have."""
    return is_name(name, range(2, 6))


def file_name(text: str) -> str:
    """Return a text as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text)


@dataclass(frozen=True)
class ExperimentPaths:
    """The files of one experiment that belong to no single trait."""

    experiment: str
    root: Path = field(default_factory=root_dir)

    def __post_init__(self) -> None:
        check_name("experiment", self.experiment, range(1, 2))

    @property
    def dir(self) -> Path:
        return self.root / "experiments" / self.experiment

    @property
    def config(self) -> Path:
        return self.dir / "config.json"

    @property
    def has_results(self) -> bool:
        """Whether any stage has completed."""
        return next(self.dir.glob("extraction/**/stages/*.json"), None) is not None

    @property
    def traits(self) -> list[str]:
        """The traits that have a completed stage in the experiment, by full name."""
        base = self.dir / "extraction"
        names = {m.parents[1].relative_to(base).as_posix() for m in base.glob("**/stages/*.json")}
        return sorted(name for name in names if is_trait(name))

    def summary(self, ending: str) -> Path:
        return self.dir / f"summary.{ending}"

    @property
    def sync(self) -> Path:
        """The folder of what a push or a pull must remember; it never travels."""
        return self.dir / ".sync"

    @property
    def summary_lock(self) -> Path:
        return self.dir / ".summary.lock"

    @property
    def spending(self) -> Path:
        """What judges cost in the run that is going on; it never travels."""
        return self.dir / ".spending.json"

    @property
    def cross_trait(self) -> Path:
        return self.dir / "steering" / "cross_trait.json"

    def judge_agreement(self, trait: str, first: str, second: str) -> Path:
        return (
            self.dir
            / "analysis"
            / "judge_agreement"
            / trait
            / f"{file_name(first)}__vs__{file_name(second)}.json"
        )


@dataclass(frozen=True)
class TraitPaths:
    """The files of one trait ("category/name") in one experiment."""

    experiment: str
    trait: str
    root: Path = field(default_factory=root_dir)

    def __post_init__(self) -> None:
        check_name("experiment", self.experiment, range(1, 2))
        check_name("trait", self.trait, range(2, 6))

    def within(self, experiment: str) -> "TraitPaths":
        """Return the same trait's paths in another experiment ("" is this one)."""
        return replace(self, experiment=experiment or self.experiment)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def writer(self, path: Path) -> str | None:
        """Return the stage that writes a file, or None for a file that people write."""
        where = path.relative_to(self.root).as_posix()
        for place, stage in WRITERS.items():
            if where.startswith("experiments/") and f"/{place.format(trait=self.trait)}" in where:
                return stage
        return None

    @property
    def spending(self) -> Path:
        """What judges cost in the run that is going on, of every trait of the experiment."""
        return ExperimentPaths(self.experiment, self.root).spending

    @property
    def dataset(self) -> Path:
        return self.root / "datasets" / "traits" / self.trait

    @property
    def dir(self) -> Path:
        return self.root / "experiments" / self.experiment / "extraction" / self.trait

    @property
    def scenario_scores(self) -> Path:
        return self.dir / "vetting" / "scenario_scores.json"

    @property
    def response_scores(self) -> Path:
        return self.dir / "vetting" / "response_scores.json"

    @staticmethod
    def partial(path: Path) -> Path:
        """Return where a vetting file goes that lacks too many scores."""
        return path.with_suffix(".partial.json")

    def responses(self, side: str) -> Path:
        return self.dir / "responses" / f"{side}.json"

    @property
    def activations(self) -> Path:
        return self.dir / "activations" / "all_layers.pt"

    @property
    def activations_metadata(self) -> Path:
        return self.dir / "activations" / "metadata.json"

    @property
    def vectors(self) -> Path:
        return self.dir / "vectors"

    @property
    def fitted_on(self) -> Path:
        return self.vectors / "fitted_on.json"

    def vector(self, method: str, layer: int) -> Path:
        return self.vectors / f"{method}_layer{layer}.pt"

    def vector_metadata(self, method: str, layer: int) -> Path:
        return self.vectors / f"{method}_layer{layer}_metadata.json"

    def training(self, method: str) -> Path:
        """Return the file that says how a trained method came about."""
        return self.dir / "training" / f"{method}.json"

    @property
    def tracking(self) -> Path:
        """The folder of what trackers keep of trainings, of every trait of the experiment."""
        return self.root / "experiments" / self.experiment / "tracking"

    def export(self, method: str) -> Path:
        """Return the folder whose files other tools read."""
        return self.root / "experiments" / self.experiment / "exports" / self.trait / method

    def manifest(self, stage: str) -> Path:
        return self.dir / "stages" / f"{stage}.json"

    def has_completed(self, stage: str) -> bool:
        """Return whether a stage has run to its end; what it left may be out of date.

        Raises:
            UserError: its manifest is a link to nothing.
        """
        return is_there(self.manifest(stage))

    def lock(self, stage: str) -> Path:
        return self.dir / "stages" / f".{stage}.lock"

    def journal(self, stage: str) -> Path:
        return self.dir / "stages" / f"{stage}.progress.jsonl"

    @property
    def compared_vectors(self) -> Path:
        """The folder of the tables in which the trait's vectors stand side by side."""
        return self.root / "experiments" / self.experiment / "analysis" / "compare_vectors" / self.trait

    @property
    def steering(self) -> Path:
        return self.root / "experiments" / self.experiment / "steering" / self.trait

    @property
    def steering_results(self) -> Path:
        return self.steering / "results.json"

    def rescored(self, judge: str) -> Path:
        return self.steering / "rescored" / f"{file_name(judge)}.json"

    def steering_figure(self, name: str) -> Path:
        return self.steering / "figures" / f"{name}.png"

    def steering_responses(self, split: str) -> Path:
        return self.steering / "responses" / f"{split}.json"

    @property
    def rollouts(self) -> Path:
        return self.root / "experiments" / self.experiment / "rollouts" / self.trait

    @property
    def rollout_rows(self) -> Path:
        return self.rollouts / "rows.parquet"

    @property
    def rollouts_about(self) -> Path:
        return self.rollouts / "about.json"

    @property
    def rollouts_journal(self) -> Path:
        return self.rollouts / "rows.progress.jsonl"

    @property
    def rollouts_lock(self) -> Path:
        return self.rollouts / ".lock"

    @property
    def rollouts_figure(self) -> Path:
        return self.rollouts / "rollouts.png"

    def rollouts_table(self, name: str) -> Path:
        """Return a table that is made of the rows, such as variants.csv."""
        return self.rollouts / name


@dataclass(frozen=True)
class InferencePaths:
    """The files of one prompt set in one experiment."""

    experiment: str
    prompt_set: str
    root: Path = field(default_factory=root_dir)

    def __post_init__(self) -> None:
        check_name("experiment", self.experiment, range(1, 2))
        check_name("prompt set", self.prompt_set, range(1, 2))

    def within(self, experiment: str) -> "InferencePaths":
        """Return the same prompt set's paths in another experiment ("" is this one)."""
        return replace(self, experiment=experiment or self.experiment)

    @property
    def dataset(self) -> Path:
        return self.root / "datasets" / "inference" / f"{self.prompt_set}.json"

    @property
    def dir(self) -> Path:
        return self.root / "experiments" / self.experiment / "inference" / self.prompt_set

    @property
    def index(self) -> Path:
        return self.dir / "index.json"

    @property
    def lock(self) -> Path:
        return self.dir / ".lock"

    def response(self, prompt: str) -> Path:
        return self.dir / "responses" / f"{prompt}.json"

    def projections(self, prompt: str) -> Path:
        return self.dir / "projections" / f"{prompt}.json"

    def raw(self, prompt: str) -> Path:
        return self.dir / "raw" / f"{prompt}.pt"

    def raw_metadata(self, prompt: str) -> Path:
        return self.dir / "raw" / f"{prompt}.json"

    def dynamics(self, trait: str) -> Path:
        return self.dir / "dynamics" / f"{trait}.json"

    def groups(self, field: str) -> Path:
        return self.dir / "groups" / f"{file_name(field)}.json"

    def comparison(self, other: str) -> Path:
        return self.dir / "compare" / f"{other}.json"

    def table(self, name: str) -> Path:
        return self.dir / f"{name}.csv"
