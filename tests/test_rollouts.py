"""Rollouts on a tiny model: which rows are written, what they depend on, and what their tables say."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import N_LAYERS, call, copy_trait

from traitscope.extraction import run_pipeline
from traitscope.inference import roll_out
from traitscope.inference.rolling import writing
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.rollouts import read_rollouts
from traitscope.utils.stage.layers import usual_layer

TRAIT, OTHER = "epistemic/optimism", "behavioral/formality"
WORLD = ["--experiment", "e", "--traits", TRAIT]
FEW = ["--limit", "3", "--max-new-tokens", "6", "--rollouts", "2"]
PLAIN = ["--arms", "plain", *FEW]
ARMS = ["--arms", "plain,prompted,mean_diff", "--doses", "-0.3,0.3", *FEW]
SMALL = ["--max-new-tokens", "6", "--no-vet", "--min-usable", "2", "--methods", "mean_diff,probe"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folders) -> Path:
    """Two traits with vectors of a tiny model."""
    folder = tmp_path_factory.mktemp("rollouts")
    for trait in (TRAIT, OTHER):
        copy_trait(folder, trait, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(folder))
        model = ["--model", tiny_folders["llama"]]
        call(
            run_pipeline, "--experiment", "e", "--traits", f"{TRAIT},{OTHER}", *model, *SMALL, "--no-steering"
        )
    return folder


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def paths(root) -> TraitPaths:
    return TraitPaths("e", TRAIT, root)


def rows_of(paths: TraitPaths) -> pd.DataFrame:
    return read_rollouts(paths).rows.to_pandas()


def texts_of(paths: TraitPaths) -> dict:
    rows = rows_of(paths)
    return dict(zip(rows["key"], rows["response"], strict=True))


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """How many rows every generate call was given."""
    calls: list[int] = []
    generate = writing.generate

    def count(lm, rows, *arguments):
        calls.append(len(rows))
        return generate(lm, rows, *arguments)

    monkeypatch.setattr(writing, "generate", count)
    return calls


def test_a_row_of_every_arm_question_and_rollout(paths, capsys):
    call(roll_out, *WORLD, *ARMS)
    rows = rows_of(paths)
    assert list(rows.groupby("variant", sort=False).size().items()) == [
        ("plain", 6),
        ("prompted 0", 6),
        (f"mean_diff layer {usual_layer(N_LAYERS)} dose -0.3", 6),
        (f"mean_diff layer {usual_layer(N_LAYERS)} dose +0.3", 6),
    ]
    assert rows["trait_score"].isna().all() and rows["trait_state"].isna().all()
    assert "24 texts (24 new) of 4 variants × 3 questions" in capsys.readouterr().out
