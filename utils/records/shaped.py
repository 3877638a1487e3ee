"""JSON files read as what they should hold: a file of another shape is refused in one line that names the
field.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import read_json


class Shaped(BaseModel):
    """What a file holds, or a part of it. Fields that no reader needs are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


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
