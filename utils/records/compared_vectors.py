"""Tables in which vectors stand side by side, each as parquet and CSV, and the record that names them by digest."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_bytes, write_json, write_text
from traitscope.utils.files.reading import digest
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own

ARMS = {  # side → what is done to the model while it reads that side's held-out responses, noise apart
    "pos": ("unsteered", "prompted", "told", "plus", "minus", "random"),
    "neg": ("unsteered", "plus", "minus"),
}


def cost_column(side: str, arm: str, what: str = "loss") -> str:
    """Return the column of the table `vectors` that holds an arm's loss or perplexity."""
    return f"{what}_{arm}" if side == "pos" else f"neg_{what}_{arm}"


# one row a vector; what was not measured is null. Losses are in nats per response token, under the push
VECTORS = {
    "layer": "int64",
    "method": "str",
    "sha256": "str",
    "norm": "float64",  # ‖v‖ as saved
    "norm_as_dose": "float64",  # the same ÷ the layer's mean residual norm
    "mean_norm": "float64",  # that norm
    "dose": "float64",  # of the push: the same for all
    "push_norm": "float64",
    "coefficient": "float64",  # on the vector as saved
    "auroc": "float64",  # of projections of held-out responses
    "auroc_low": "float64",
    "auroc_high": "float64",
    "auroc_n_pos": "Int64",
    "auroc_n_neg": "Int64",
    "objective": "str",  # what training lowered; of a trained vector only, like the next ones
    "learning_rate": "float64",
    "best_step": "Int64",
    "validation_loss": "float64",  # of the objective, on the training's own validation texts
    "plain_loss": "float64",  # the unsteered model's
    "seeds": "Int64",
    "seeds_cosine": "float64",  # mean over pairs of seeds
    "seeds_cosine_lowest": "float64",
    "texts": "Int64",  # held-out positive responses that the next ones are measured on
    "tokens": "Int64",
    **{
        cost_column(side, arm, what): "float64"
        for side in ARMS
        for what in ("loss", "perplexity")
        for arm in ARMS[side]
    },
    "loss_random_lowest": "float64",
    "loss_random_highest": "float64",
    "change": "float64",  # plus − unsteered, paired by text
    "change_low": "float64",
    "change_high": "float64",
    "noise_25": "float64",  # how much the loss rises above plus where noise of .25 × ‖push‖ is added
    "noise_50": "float64",
    "noise_100": "float64",
    "efficiency": "float64",  # (unsteered − plus) ÷ ‖push‖
    "kl": "float64",  # of predictions on neutral answers
    "kl_random": "float64",
    "kl_random_lowest": "float64",
    "kl_random_highest": "float64",
}
# every pair of methods of a layer, both ways
COSINES = {"layer": "int64", "method": "str", "other": "str", "cosine": "float64"}
# one row an arm: what is done to the model while it reads a side's held-out responses
COSTS = {
    "layer": "int64",
    "method": "str",  # null where no vector is added
    "arm": "str",  # unsteered, prompted, told, plus, minus, random, noise 0.25, …
    "side": "str",  # whose responses
    "tokens_of": "str",  # the same in words
    "n_texts": "int64",
    "n_tokens": "int64",
    "loss": "float64",  # nats per response token
    "perplexity": "float64",  # exp of it
    "change": "float64",  # of the loss against unsteered, paired by text
    "change_low": "float64",
    "change_high": "float64",
    "draws": "Int64",  # random directions that it is the mean of
    "loss_lowest": "float64",  # over these
    "loss_highest": "float64",
}
TABLES = {"vectors": VECTORS, "cosines": COSINES, "costs": COSTS}


class ComparedVectors(Shaped):
    """What compared.json says of the tables beside it."""

    trait: str
    made_by: dict[str, Any]  # stage, and the identity of the model that read the texts
    options: dict[str, Any]
    layers: list[int]
    notes: list[str]  # in words: what could not be measured, and why
    tables: dict[str, str]  # name → sha256 of its parquet file


def table_file(folder: Path, name: str, ending: str = "parquet") -> Path:
    """Return where a table lies."""
    return folder / f"{name}.{ending}"


def record_file(folder: Path) -> Path:
    """Return the file that says of what the tables are."""
    return folder / "compared.json"


def as_table(rows: list[dict], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return rows as a table of just these columns; what a row lacks is null."""
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype(dict(columns))


def write_compared(folder: Path, about: dict[str, Any], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables, and then the record that names them.

    Args:
        about: The columns of `ComparedVectors` but for the tables.
    """
    digests = {}
    for name, frame in tables.items():
        data = io.BytesIO()
        frame.to_parquet(data, index=False)
        write_bytes(table_file(folder, name), data.getvalue())
        write_text(table_file(folder, name, "csv"), frame.to_csv(index=False))
        digests[name] = digest(table_file(folder, name))
    content = about | {"tables": digests}
    ComparedVectors.model_validate(content)
    write_json(record_file(folder), content)


def read_compared(folder: Path, trait: str) -> tuple[ComparedVectors, dict[str, pd.DataFrame]]:
    """Read the tables of a trait and what is known of them.

    Raises:
        UserError: a file is missing, damaged, of another trait, or not the one that the record names.
    """
    record = read_shaped(record_file(folder), ComparedVectors)
    require_own(record_file(folder), trait=(record.trait, trait))
    return record, {name: _read_table(table_file(folder, name), sha) for name, sha in record.tables.items()}


def _read_table(file: Path, sha256: str) -> pd.DataFrame:
    advice = "run compare_vectors again with --force"
    if digest(file) != sha256:
        raise UserError(f"{file} is not the table that compared.json names; {advice}")
    try:
        return pd.read_parquet(file)
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); {advice}") from None
