"""What stage 5 leaves of a trait: results.json, read as what it is by everybody, and the texts beside it."""

from typing import Any, Self

from pydantic import field_validator, model_validator

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import STEER, TraitPaths
from traitscope.utils.files.reading import digest, is_there
from traitscope.utils.records.scores import GivenScore
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own

WORKS, NOT_PROVEN, BREAKS = "works", "not proven", "breaks the text"
PARTS = ("dev", "test")

Layers = int | list[int]  # a list for several layers steered at once


class Interval(Shaped):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int | None = None


class Place(Shaped):
    """Where and how hard is pushed."""

    method: str
    layer: Layers
    dose: float
    coefficient: float | list[float]
    operation: str = "add"
    relative_push: float | None = None  # ‖c·v‖ / ‖h‖, where something is added

    @property
    def layers(self) -> list[int]:
        return self.layer if isinstance(self.layer, list) else [self.layer]

    @property
    def key(self) -> tuple[str, int] | None:
        """Method and layer; None where several layers are steered at once."""
        return None if isinstance(self.layer, list) else (self.method, self.layer)


class Chosen(Place):
    """The cell that the dev questions chose."""

    positions: str = "all"
    with_traits: list[str] = []
    gate_trait: str = ""
    chosen_by: str = "steering"  # what chose method and layer
    is_largest_dose: bool | None = None  # of all that were tried


class TriedCell(Place):
    """One cell that was tried on dev, with its scores in points (0 to 100)."""

    cell: str = ""
    n: int
    trait_score: float | None = None
    effect: float | None
    effect_low: float | None = None
    effect_high: float | None = None
    odd_part: float | None
    coherence: float | None
    random_spread: float | None = None  # of a few random directions' odd parts on dev, at this dose


class Selected(Shaped):
    """What is left of z when the vector was chosen as the best of so many."""

    of: float
    p: float


class Null(Shaped):
    """The random directions' odd parts, and where the vector stands among them."""

    n: int
    spread: float
    range: tuple[float, float]
    z: float | None  # None where none of them moves anything
    p: float
    reach_it: int | None = None  # how many are as large as the vector's
    odd_parts: list[float]
    selected: Selected | None = None  # in results of older versions


class Strongest(Shaped):
    """The largest dose that kept the text coherent, where it is not the chosen one."""

    method: str
    layer: Layers
    dose: float
    effect: Interval | None
    odd_part: Interval | None


class Told(Shaped):
    """How well the judge tells the trait's own contrasting texts apart: 0.5 is chance."""

    value: float
    low: float  # 95 % interval
    high: float
    n: int
    kind: str


class Reading(Shaped):
    """How well the vector separates held-out responses."""

    auroc: float
    n_pos: int
    n_neg: int
    best_of: int = 1  # candidates, where it was chosen for this figure


class Look(Shaped):
    """One test: what was tested, and on which questions."""

    key: str
    questions: list[str]


class SecondJudge(Shaped):
    """What another judge says of the same texts."""

    judge: dict[str, Any]
    verdict: str
    why: str
    agrees: bool
    effect: Interval | None
    odd_part: Interval | None
    p: float | None


class FormOfQuestion(Shaped):
    """One way to put the questions, and what the vector does there."""

    form: str
    odd_part: Interval | None


class Paraphrases(Shaped):
    """The chosen cell on paraphrases of the test questions, intervals clustered by question."""

    odd_part: Interval | None
    forms: list[FormOfQuestion]


class AnswersBeside(Shaped):
    """One question's answers side by side: the question with the median signal."""

    question: str
    unsteered: str
    plus: str
    minus: str | None = None


class Verdict(Shaped):
    """The columns of results.json that anybody reads."""

    trait: str
    made_by: dict[str, Any]
    judge: dict[str, Any]
    coherence_judge: dict[str, Any]
    chosen: Chosen
    wanted: int = 1  # −1 for a trait of which less is wanted
    verdict: str
    why: str
    n_questions: int
    effect: Interval | None
    effect_minus: Interval | None = None
    odd_part: Interval | None
    p: float | None = (
        None  # what the verdict rests on: the rank among random directions, allowing for the looks
    )
    looks: int = 1  # how many tests of the trait there were
    looked_at: list[Look] = []  # every test of this trait, this one last
    questions_from_pool: dict[str, int] = {}  # how many of each part are no questions of the trait's own
    questions_left_out: list[str] = []  # the trait's own that extraction used
    judge_reliability: Told | None = None
    reading: Reading | None = None
    second_judge: SecondJudge | None = None
    paraphrases: Paraphrases | None = None
    random: Null | None
    shuffled_labels_odd_part: Interval | None
    system_prompt_effect: Interval | None
    coherence: dict[str, float | None]  # of the arms unsteered, plus, minus
    strongest: Strongest | None = None
    example: AnswersBeside | None = None
    precision: dict[str, Any] | None = None
    residual_norms: list[float]  # mean ‖h‖ per layer over the unsteered answers: the unit of a dose
    questions: dict[str, list[str]]
    dev: list[TriedCell]
    texts_sha256: dict[str, str] = {}  # of the texts, by part

    @field_validator("judge_reliability", mode="before")
    @classmethod
    def _has_an_interval(cls, found: Any) -> Any:
        return None if isinstance(found, (int, float)) else found  # of a version that told no interval

    @model_validator(mode="after")
    def _says_what_made_it(self) -> Self:
        is_said = isinstance(self.made_by.get("model"), dict) and isinstance(
            self.made_by.get("vectors"), dict
        )
        assert is_said, "made_by names no model or no vectors"
        assert isinstance(self.vectors_from, str), "made_by names no experiment"
        return self

    @property
    def rests_on(self) -> float | None:
        """The p that the verdict rests on; in results of older versions, the one that allowed for selection."""
        if self.p is not None or self.random is None:
            return self.p
        return self.random.selected.p if self.random.selected else self.random.p

    @property
    def vectors_from(self) -> str:
        """The experiment whose vectors were steered with."""
        return self.made_by["vectors"].get("experiment")

    @property
    def model(self) -> dict[str, Any]:
        """Identity of the model that was steered."""
        return self.made_by["model"]


class WrittenText(Shaped):
    """One answer of one arm with its scores: a row of responses/{dev,test}.json."""

    arm: str
    question: str
    system_prompt: str = ""
    response: str
    trait: GivenScore
    coherence: GivenScore | None
    prompt_ids: list[int] = []
    response_ids: list[int] = []


class _TextFile(Shaped):
    trait: str = ""
    part: str = ""
    rows: list[WrittenText]


def read_verdict(paths: TraitPaths) -> Verdict | None:
    """Return what stage 5 found for a trait; None where it has not completed.

    Raises:
        UserError: results.json is not what stage 5 writes, or of another trait.
    """
    if not paths.has_completed(STEER):
        return None
    found = read_shaped(paths.steering_results, Verdict)
    require_own(paths.steering_results, trait=(found.trait, paths.trait))
    return found


class EarlierLooks(Shaped):
    """What results.json says of the tests before."""

    trait: str
    questions: dict[str, list[str]] = {}
    looked_at: list[Look] | None = None  # None in results of older versions: one look at their questions

    @property
    def looks(self) -> list[Look]:
        """Every look before."""
        if self.looked_at is None:
            return [Look(key="an older version's", questions=self.questions.get("test", []))]
        return self.looked_at

    @property
    def seen(self) -> list[str]:
        """Every question that a test has seen."""
        return list(dict.fromkeys(q for look in self.looks for q in look.questions))


def read_earlier_looks(paths: TraitPaths) -> EarlierLooks:
    """Return what is left of the tests before, completed or not; nothing where results.json is not there, or
    cannot be read, which is said.
    """
    nothing = EarlierLooks(trait=paths.trait, looked_at=[])
    if not is_there(paths.steering_results):
        return nothing
    try:
        found = read_shaped(paths.steering_results, EarlierLooks)
        require_own(paths.steering_results, trait=(found.trait, paths.trait))
        return found
    except UserError as error:
        print(f"note: {paths.trait}: earlier looks cannot be read, and count as one: {error}")
        return EarlierLooks(trait=paths.trait, looked_at=[Look(key="unreadable", questions=[])])


def require_verdict(paths: TraitPaths) -> Verdict:
    """Return what stage 5 found for a trait.

    Raises:
        UserError: it has not completed.
    """
    found = read_verdict(paths)
    if found is None:
        raise UserError(f"{paths.trait} has no completed {STEER} in {paths.experiment}; run it first")
    return found


def write_verdict(paths: TraitPaths, content: dict) -> None:
    """Write results.json; what nobody could read is not written."""
    Verdict.model_validate(content)
    write_json(paths.steering_results, content)


def read_texts(paths: TraitPaths, part: str) -> list[WrittenText]:
    """Return every text that was written to a part's questions ("dev" or "test"), arm by arm.

    Raises:
        UserError: the file is missing, not what stage 5 writes, or not the one that its results describe.
    """
    file = paths.steering_responses(part)
    found = read_shaped(file, _TextFile)
    require_own(file, trait=(found.trait, paths.trait), part=(found.part, part))
    verdict = read_verdict(paths)
    known = verdict.texts_sha256.get(part) if verdict else None
    if known not in (None, digest(file)):
        raise UserError(
            f"{file} holds other texts than {paths.steering_results.name} is of; run {STEER} again"
        )
    return found.rows


def write_texts(paths: TraitPaths, texts: dict[str, list[dict]], made_by: dict) -> dict[str, str]:
    """Write every part's texts, and return their digests, for the results to name."""
    for part, rows in texts.items():
        content = {"trait": paths.trait, "part": part, "made_by": made_by, "rows": rows}
        write_json(paths.steering_responses(part), content)
    return {part: str(digest(paths.steering_responses(part))) for part in texts}
