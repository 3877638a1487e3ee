"""Scores of every token of recorded responses on more traits, layers or methods, and a table of their means.

For example:

    python inference/project_activations.py --experiment demo --prompt-set dynamics --layers all --method probe
"""

import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import pandas as pd

from traitscope.inference.watch.projection import check_vectors
from traitscope.inference.watch.scoring import only_one, score_records
from traitscope.inference.watch.watched import WatchOptions, read_watched
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_text
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.records.readings import read_own_projections, vector_id
from traitscope.utils.records.recorded import Record, read_index, read_records
from traitscope.utils.records.vectors import Vector
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class ProjectOptions:
    """Project recorded responses on trait vectors; what is stored stays, what is missing is read from raw
    streams or by feeding the tokens again.
    """

    experiment: str = flag(help="Experiment that the prompt set was captured in.")
    prompt_set: str = flag(help='A captured prompt set; "adhoc" holds the prompts given on the command line.')
    centered: bool = flag(
        False, "Centre the table's scores on the midpoint of the trait's two sides, so that 0 is neither."
    )
    cosine: bool = flag(False, "Give the table's scores as cosines of the activation and the vector.")

    @property
    def scale(self) -> str:
        if self.centered and self.cosine:
            raise UserError("pass --centered or --cosine, not both")
        return "centered" if self.centered else "cosine" if self.cosine else "raw"


def project_activations(options: ProjectOptions, watched: WatchOptions, model: ModelOptions) -> None:
    """Project, and print the mean of every vector.

    Raises:
        UserError: nothing was captured, or a vector does not fit.
    """
    scale = options.scale
    paths = InferencePaths(options.experiment, options.prompt_set)
    vectors = read_watched(options.experiment, watched)
    with only_one(paths):
        records, reader = read_records(paths), read_index(paths).reader
        computed = score_records(paths, records, vectors, reader, lambda: _load(model, reader, vectors))

    table = tabulate(paths, records, vectors, reader, scale)
    write_text(paths.table(f"projections_{scale}"), table.to_csv(index=False))
    means = table.groupby(["trait", "method", "layer"], sort=False)[["prompt", "response"]].mean()
    print(means.to_string(float_format="{:.3f}".format))
    size = f"{len(records)} prompts × {len(vectors)} vectors, {computed} computed, {scale}"
    print(f"[project] {options.experiment}, {paths.prompt_set}: {size}")
    print(f"  {paths.table(f'projections_{scale}')}")


def _load(model: ModelOptions, reader: dict, vectors: Sequence[Vector]) -> LM:
    lm = load_lm(model)
    if lm.identity != reader:
        wrote, ours = (f"{who['name']} ({who['dtype']})" for who in (reader, lm.identity))
        raise UserError(f"the responses were read by {wrote}, not by {ours}")
    check_vectors(lm, vectors)
    return lm


def tabulate(
    paths: InferencePaths, records: Sequence[Record], vectors: Sequence[Vector], reader: dict, scale: str
) -> pd.DataFrame:
    """Return a row per prompt and vector: the mean, greatest and last score of the response, and the mean
    of the prompt.
    """
    wanted = {vector_id(vector.origin) for vector in vectors}
    rows = []

    for record in records:
        for scores in read_own_projections(paths, record, reader):
            if vector_id(scores.origin) in wanted:
                rows.append(_row(record, scores.origin, pd.Series(scores.on(scale))))

    return pd.DataFrame(rows)


def _row(record: Record, origin: dict, scores: pd.Series) -> dict:
    prompt, response = scores[record.span("prompt")], scores[record.span("response")]
    figures = {
        "prompt": prompt.mean(),
        "response": response.mean(),
        "response_max": response.max(),
        "response_last": response.tail(1).mean(),
    }
    return {
        "id": record.id,
        **{name: origin[name] for name in ("trait", "method", "layer")},
        **figures,
        "tokens": len(response),
    }


if __name__ == "__main__":
    command(project_activations)
