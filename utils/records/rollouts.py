"""Rollouts on disk: a row per text that a model wrote, prompted, steered or left alone, and the tables made of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.artifacts import write_bytes, write_json, write_text
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import digest, is_there, open_file
from traitscope.utils.judge import Score
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own

if TYPE_CHECKING:
    import pandas as pd

PLAIN, PROMPTED, PROMPTED_NEG = "plain", "prompted", "prompted_neg"  # arms without a vector
SCORES = ("trait", "coherence", "classifier")  # what a row may be scored on
_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_IDS = pa.list_(
    pa.field("element", pa.int32())
)  # named as parquet names it, so that rows read are as rows written
SCHEMA = pa.schema(
    [
        ("key", _TEXT),  # a digest of all that decides the text
        ("setting", _TEXT),  # a digest of what all rows of a table share: the model, and how texts are drawn
        ("experiment", _TEXT),
        ("model", _TEXT),  # its identity
        ("trait", _TEXT),
        ("variant", _TEXT),  # what was done: the arm, where and how hard
        ("arm", _TEXT),  # plain, prompted, prompted_neg, or the method of the vector
        ("method", _TEXT),
        ("layer", _INT),
        ("dose", _FLOAT),  # the push as a share of the layer's mean residual norm
        ("coefficient", _FLOAT),  # the push as a factor on the vector as saved
        ("norm", _FLOAT),  # the vector's length as saved, learnt or measured
        ("vector", _TEXT),  # sha256 of its file
        ("system_prompt", _INT),  # which of the trait's
        ("system_prompt_text", _TEXT),  # the file holds every text of a column once
        ("question", _TEXT),
        ("rollout", _INT),
        ("seed", _INT),
        ("prompt_ids", _IDS),  # with what a reasoning model thought before its answer
        ("response_ids", _IDS),
        ("response", _TEXT),
        ("is_finished", pa.bool_()),  # the model ended the text itself
        ("words", _INT),
        *(
            (f"{name}_{what}", kind)
            for name in SCORES
            # a score from 0 to 100, and whose: null where nobody was asked; without a value, the state says why
            for what, kind in (("score", _FLOAT), ("state", _TEXT), ("by", _TEXT))
        ),
    ]
)


class RolloutsAbout(Shaped):
    """The columns of about.json: what a trait's rows are."""

    trait: str
    experiment: str
    # of rows.parquet; while it is written, of the one before as well ("" where there was none): a kill leaves either
    rows_sha256: list[str] = []
    scored_by: dict[str, dict[str, Any]] = {}  # by the digest that rows name: who scored


@dataclass(frozen=True)
class Rollouts:
    """A trait's rows, and what is known of them."""

    rows: pa.Table = field(default_factory=lambda: SCHEMA.empty_table())
    scored_by: dict[str, dict[str, Any]] = field(default_factory=dict)

    def column(self, name: str) -> list:
        """Return one column."""
        return self.rows[name].to_pylist()

    def take(self, mask: Sequence[bool]) -> "Rollouts":
        """Return the rows for which a mask is True."""
        return replace(self, rows=self.rows.filter(pa.array(mask, pa.bool_())))

    def added(self, rows: Sequence[dict[str, Any]]) -> "Rollouts":
        """Return these rows and further ones; what a row does not say is null."""
        return replace(self, rows=pa.concat_tables([self.rows, pa.Table.from_pylist(rows, SCHEMA)]))

    def scored(self, name: str, by: str, scores: dict[int, Score], identity: dict[str, Any]) -> "Rollouts":
        """Return the same rows with scores, {row: score}.

        Args:
            name: One of SCORES.
            by: The digest of who scored.
            identity: Who that is.
        """
        rows = self.rows
        said = {"score": lambda s: s.value, "state": lambda s: s.state, "by": lambda _: by}

        for what, read in said.items():
            column = f"{name}_{what}"
            values = rows[column].to_pylist()
            for i, score in scores.items():
                values[i] = read(score)
            at = SCHEMA.get_field_index(column)
            rows = rows.set_column(at, SCHEMA.field(at), pa.array(values, SCHEMA.field(at).type))
        return Rollouts(rows, self.scored_by | {by: identity})


def read_rollouts(paths: TraitPaths) -> Rollouts:
    """Read a trait's rows; none where nothing was rolled out.

    Raises:
        UserError: a file is missing or damaged, or of something else.
    """
    file = paths.rollout_rows
    if not is_there(paths.rollouts_about):
        if is_there(file):
            raise UserError(
                f"{paths.rollouts_about} is gone, and says what {file.name} is; delete both, or restore it"
            )
        return Rollouts()

    about = read_shaped(paths.rollouts_about, RolloutsAbout)
    require_own(paths.rollouts_about, trait=(about.trait, paths.trait))
    if (digest(file) or "") not in about.rows_sha256:
        state = "was changed since it was written" if is_there(file) else "is gone"
        raise UserError(f"{file} {state}; restore it, or delete {paths.rollouts} and roll out again")
    return Rollouts(_read_table(paths), about.scored_by) if is_there(file) else Rollouts()


def _read_table(paths: TraitPaths) -> pa.Table:
    with open_file(paths.rollout_rows) as file:
        try:
            rows = pq.read_table(file)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{paths.rollout_rows} is no table ({first_line(error)}); delete {paths.rollouts} and roll out again"
            ) from None
    if not rows.schema.equals(SCHEMA):
        raise UserError(
            f"{paths.rollout_rows} has other columns than this version writes; move {paths.rollouts} away"
        )
    return rows


def write_rollouts(paths: TraitPaths, found: Rollouts) -> None:
    """Write a trait's rows and what is known of them. A kill or a full disk leaves the old rows or the new."""
    data = _as_parquet(found.rows.combine_chunks())
    new, old = hashlib.sha256(data).hexdigest(), digest(paths.rollout_rows) or ""
    about = RolloutsAbout(trait=paths.trait, experiment=paths.experiment, scored_by=found.scored_by)

    write_json(paths.rollouts_about, about.model_dump() | {"rows_sha256": [new, old]})
    write_bytes(paths.rollout_rows, data)
    write_json(paths.rollouts_about, about.model_dump() | {"rows_sha256": [new]})


def write_tables(paths: TraitPaths, tables: "dict[str, pd.DataFrame]") -> None:
    """Write what was made of the rows, {name: table}, each as parquet and as CSV."""
    for name, table in tables.items():
        rows = pa.Table.from_pandas(table, preserve_index=False)
        write_bytes(paths.rollouts_table(f"{name}.parquet"), _as_parquet(rows))
        write_text(paths.rollouts_table(f"{name}.csv"), table.to_csv(index=False))


def _as_parquet(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()
