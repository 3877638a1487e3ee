"""Try a tiny random model of every known family, and write the table of docs/models.md. Run:
.venv/bin/python tests/benchmarks/families.py

The families are those of tests/data; `inference/check_model.py` tries a model of your own in the same way.
"""

import re
import runpy
import sys
import tempfile
import warnings
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import transformers
from families import FAMILIES, build
from tqdm import tqdm

from traitscope.inference.checking.model_check import check_model, describe_feeding
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_text
from traitscope.utils.model.loading import ModelOptions, load_lm, unload_lm
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
COLUMNS = ("texts", "streams", "parts", "steering", "numbers")


@dataclass(frozen=True)
class FamilyOptions:
    """Which families are tried."""

    only: tuple[str, ...] = flag((), "Families to try, by their names in tests/data; all by default.")
    quick: bool = flag(False, "Print the table, and leave the page as it is.")


def families(options: FamilyOptions) -> None:
    """Try each family, print the table, and write it into the page when all were tried.

    Raises:
        UserError: a family is unknown.
    """
    unknown = sorted(set(options.only) - set(FAMILIES))
    if unknown:
        raise UserError(f"unknown family {unknown[0]!r}; see tests/data/model_families.json")

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        names = options.only or sorted(FAMILIES)
        lines = [try_family(Path(folder) / name, name) for name in tqdm(names, disable=None, leave=False)]

    table = "\n".join([f"| family | {' | '.join(COLUMNS)} | fed |", "|---" * 7 + "|", *lines])
    print(table)
    if not (options.only or options.quick):
        write_text(PAGE, insert(PAGE.read_text(), table))


def try_family(folder: Path, name: str) -> str:
    """Return a family's row of the table."""
    with suppress(Exception):  # transformers refuses some settings, and loading them must say so
        build(folder, name)
    try:
        with redirect_stdout(StringIO()):
            lm = load_lm(ModelOptions(model=str(folder), device="cpu"))
    except UserError as error:
        said = str(error).replace(str(folder), name).replace("|", "\\|")
        return f"| {name} | refused: {said} |" + " |" * 5

    found = {finding.what: finding for finding in check_model(lm)}
    unload_lm("studied")
    cells = [
        "refused" if f.is_refused else "exact" if f.is_right else f"wrong: {f.said}"
        for f in map(found.get, COLUMNS)
    ]  # type: ignore[union-attr]
    return f"| {name} | {' | '.join(cells)} | {describe_feeding(lm)} |"


def insert(page: str, table: str) -> str:
    """Return the page with the table between its markers replaced."""
    made = f"Made on {datetime.now(UTC):%d %B %Y} with transformers {transformers.__version__}, in float32 on a CPU."
    new = f"<!-- families -->\n{made}\n\n{table}\n<!-- /families -->"
    page, n = re.subn(r"<!-- families -->.*?<!-- /families -->", lambda _: new, page, flags=re.DOTALL)
    assert n == 1, "the page has no place for the table"
    return page


if __name__ == "__main__":
    command(families)
