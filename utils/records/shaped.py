"""JSON files read as what they should hold: a file of another shape is refused in one line that names the
field.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from traitscope.utils.errors import UserError
from traitscope.utils.files.reading import read_json


class Shaped(BaseModel):
    """What a file holds, or a part of it. Fields that no reader needs are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null", allow_inf_nan=False)


Content = TypeVar("Content", bound=BaseModel)


def read_shaped(path: Path, shape: type[Content]) -> Content:
    """Read a JSON file as a shape.

    Raises:
        UserError: the file is missing, no JSON, or its content is of another shape.
    """
    try:
        return shape.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].lower().removeprefix("assertion failed, ")  # of a shape's own check
        field = ".".join(map(str, first["loc"]))
        where = f"{path}: {field}" if field else path
        raise UserError(f"{where}: {said}; run its stage again with --force") from None


def require_own(path: Path, **names: tuple[Any, Any]) -> None:
    """Refuse a file that says that it is of something else: another file in its place is not believed.

    Args:
        names: What a file is of, such as its trait: (what it says, what was asked for). A file of an older version
            that says nothing ("" or None) is believed.

    Raises:
        UserError: the two differ.
    """
    for name, (said, asked) in names.items():
        if said not in ("", None) and said != asked:
            raise UserError(
                f"{path} is of {name.replace('_', ' ')} {said!s:.80}, not of {asked}; run its stage again with --force"
            )


def require_distinct(path: Path, keys: Sequence[Any], what: str) -> None:
    """Raise UserError where something stands twice in a file."""
    twice = next((key for key, n in Counter(keys).items() if n > 1), None)
    if twice is not None:
        raise UserError(f"{path} has the {what} {twice} twice; run its stage again with --force")
