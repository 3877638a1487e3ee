"""Which rows are missing, and writing them, chunk by chunk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from traitscope.inference.rolling.variants import Variant
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.model.encode import Prompt, encode
from traitscope.utils.model.generation import Completion, Row, Sampling, Work, generate
from traitscope.utils.model.loading import LM, ModelOptions
from traitscope.utils.records.rollouts import Rollouts, write_rollouts
from traitscope.utils.stage.flags import flag, option_flags, remembered

CHUNK = 2048  # rows that are generated between two writes of the table


@dataclass(frozen=True)
class RolloutSampling(Sampling):
    """How texts are drawn."""

    max_new_tokens: int = flag(64, "Length limit of a response, in tokens.")
    temperature: float = flag(
        0.7, "0 is greedy; above it, question and rollout fix a text, the same in every arm."
    )
    rollouts: int = flag(4, "Texts for every question in every variant.")

    heading = "Text"
    is_setting = False

    def check(self) -> None:
        """Raise UserError for values that mean nothing."""
        if self.rollouts < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            raise UserError("--rollouts and --max-new-tokens are 1 or more, --temperature is 0 or more")
        if self.temperature == 0 and self.rollouts > 1:
            raise UserError(
                "at --temperature 0 all rollouts are the same text; raise it, or take --rollouts 1"
            )


def setting_of(model: ModelOptions, sampling: RolloutSampling) -> str:
    """Return a digest of what all rows of a table share: the model, and how texts are drawn."""
    drawn = Sampling(sampling.max_new_tokens, sampling.temperature)
    known = (
        remembered(option_flags(ModelOptions), asdict(model)),
        remembered(option_flags(Sampling), asdict(drawn)),
    )
    return key_of(*known)


@dataclass(frozen=True)
class Planned:
    """A row that is wanted."""

    variant: Variant
    question: str
    rollout: int
    key: str

    @property
    def seed(self) -> int:
        """What fixes the text at a temperature: the same in every variant."""
        return int(key_of(self.question, self.rollout), 16) % 2**31

    @property
    def slot(self) -> tuple[str, str, int]:
        """What it is a row of, whatever its text depends on."""
        return self.variant.name, self.question, self.rollout

    @property
    def prompt(self) -> Prompt:
        system = [{"role": "system", "content": self.variant.told.text}] if self.variant.told.text else []
        return [*system, {"role": "user", "content": self.question}]


def plan_rows(
    variants: Sequence[Variant], questions: Sequence[str], rollouts: int, setting: str
) -> list[Planned]:
    """Return every row that is wanted; rows that share a prompt and a push stand together."""
    return [
        Planned(variant, question, i, key_of(setting, variant.key, question, i))
        for variant in variants
        for question in questions
        for i in range(rollouts)
    ]


def keep_good(paths: TraitPaths, found: Rollouts, planned: Sequence[Planned], setting: str) -> Rollouts:
    """Return the stored rows that may stay: of this model, these settings and the vectors as they are now, and in no
    place where another row is wanted.
    """
    wanted = {row.slot: row.key for row in planned}
    vectors: dict[tuple[str, int], str | None] = {}
    names = ("key", "setting", "variant", "question", "rollout", "method", "layer", "vector")
    keeps = []

    for key, made_in, *slot, method, layer, vector in zip(*map(found.column, names), strict=True):
        if method and (method, layer) not in vectors:
            vectors[method, layer] = digest(paths.vector(method, layer))
        is_current = made_in == setting and (not method or vectors[method, layer] == vector)
        keeps.append(is_current and wanted.get((slot[0], slot[1], slot[2]), key) == key)
    return found.take(keeps)


def missing_rows(found: Rollouts, planned: Sequence[Planned]) -> list[Planned]:
    """Return the rows that are wanted and not there."""
    there = set(found.column("key"))
    return [row for row in planned if row.key not in there]


def write_missing(
    paths: TraitPaths,
    kept: Rollouts,
    missing: Sequence[Planned],
    load: Callable[[], LM],
    sampling: RolloutSampling,
    setting: str,
) -> Rollouts:
    """Generate rows, and return all that there are then. After every chunk the table is written, and the journal of its
    batches deleted: what is in memory is a chunk and the table.

    Chunks are cut from the list of what is missing, so that a killed run meets the same ones again.
    """
    found = kept
    for first in range(0, len(missing), CHUNK):
        part = missing[first : first + CHUNK]
        journal = Journal(paths.rollouts_journal)
        work = Work(journal, f"roll out {paths.trait} {first + len(part)}/{len(missing)}")
        found = found.added(list(_write_chunk(paths, load(), part, sampling, setting, work)))
        write_rollouts(paths, found)
        journal.path.unlink(missing_ok=True)
    return found


def _write_chunk(
    paths: TraitPaths, lm: LM, part: Sequence[Planned], sampling: RolloutSampling, setting: str, work: Work
) -> Iterator[dict]:
    rows = [Row(encode(lm, row.prompt), row.seed, row.variant.pushes) for row in part]
    steered = next((row.variant.positions for row in part if row.variant.push), "all")
    same = {"setting": setting, "experiment": paths.experiment, "trait": paths.trait}
    same["model"] = lm.identity["identity"]

    for planned, row, written in zip(part, rows, generate(lm, rows, sampling, steered, work), strict=True):
        yield same | planned.variant.columns() | _columns(lm, planned, row, written)


def _columns(lm: LM, planned: Planned, row: Row, written: Completion) -> dict:
    text = lm.tokenizer.decode(written.ids, skip_special_tokens=True)
    return {
        "key": planned.key,
        "question": planned.question,
        "rollout": planned.rollout,
        "seed": row.seed,
        "prompt_ids": row.prompt_ids + written.thought,
        "response_ids": written.ids,
        "response": text,
        "is_finished": written.is_finished,
        "words": len(text.split()),
    }
