"""A trait of a tiny model that is ready to be trained, for the tests of training."""

import json
from pathlib import Path

import pytest
from conftest import call, copy_trait

from traitscope.extraction import run_pipeline, train_vectors

TRAIT = "epistemic/optimism"
WORLD = ["--experiment", "e", "--traits", TRAIT]
QUICK = ["--steps", "10", "--learning-rates", "0.03,0.1", "--warmup", "1"]
SMALL = ["--max-new-tokens", "6", "--no-vet", "--min-usable", "2", "--methods", "mean_diff,probe"]


def make_world(folder: Path, model: str, pairs: int = 16) -> Path:
    """Run stages 1 to 4 for a trait under a root."""
    copy_trait(folder, TRAIT, pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(folder))
        call(run_pipeline, *WORLD, "--model", model, *SMALL, "--no-steering")
    return folder


def train(*given: str) -> None:
    """Train for ten steps."""
    call(train_vectors, *WORLD, "--no-vet", *QUICK, *given)


def chat(question: str, answer: str, system: str = "", **more: object) -> dict:
    """Return a conversation of one question."""
    turns = [("user", question), ("assistant", answer)]
    told = [("system", system)] if system else []
    return {"messages": [{"role": r, "content": c} for r, c in told + turns], **more}


def write_chats(file: Path, rows: list) -> str:
    """Write a file of conversations; a row that is a text is a line as it stands."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(file)
