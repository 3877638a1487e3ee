"""Stage 5: does adding the vector change what the model writes, more than chance would, and at what cost?"""

import sys
from functools import partial
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

import torch
from torch import Tensor

from analysis.steering.evaluate import Bench, Candidates, Protocol, evaluate
from analysis.steering.questions import split_questions
from extraction.activations import read_captured
from extraction.methods import Fit, FitOptions, fit_directions, fit_functions, require_known
from extraction.trait_files import dataset_files
from extraction.traits import TraitDataset, read_trait
from utils.artifacts import load_tensor, read_json, write_json
from utils.errors import UserError
from utils.experiment import stage_main
from utils.generation import Sampling, Work
from utils.journal import Journal
from utils.judge import JudgeOptions, load_judge
from utils.layers import parse_layers
from utils.model import ModelOptions, load_lm
from utils.paths import SIDES, TraitPaths
from utils.stage import Stage

NAME = "5_steer_evaluate"


def steer_evaluate(
    paths: TraitPaths,
    *,
    lm: ModelOptions,
    sampling: Sampling,
    judge: JudgeOptions,
    protocol: Protocol,
    fit: FitOptions,
    vectors_from: str = "",
    layers: str = "30%-70%:4",
    method: tuple[str, ...] = ("mean_diff", "probe"),
    subset: int = 0,
) -> dict:
    """Search method, layer and dose on the dev questions, and report the verdict on the test questions.

    Args:
        vectors_from: Experiment whose vectors are used; by default this one.
        layers: Layers to steer: all, 16, 5-20, 0-75:5, 30%-60%.
        method: Methods whose vectors are tried.
        subset: Use only the first so many dev and test questions; 0 uses all.
    """
    dataset = read_trait(paths)
    dev, test = split_questions(dataset.questions, subset)
    source = paths.within(vectors_from)
    captured = read_captured(source)
    fitted_on = read_json(source.fitted_on)
    if fitted_on.get("activations_sha256") != captured.metadata["sha256"]:
        raise UserError(f"{paths.trait}: the vectors of {source.experiment} were not fitted on its activations; run 4_fit_vectors first")
    vectors = {key: load_tensor(source.vector(*key), (captured.activations.shape[2],)) for key in _cells(source, layers, method)}
    grader = load_judge(judge, dataset.rubric)
    model = load_lm(lm)
    if (model.n_layers, model.d_model) != tuple(captured.activations.shape[1:]):
        ours = f"{captured.activations.shape[1]} layers of width {captured.activations.shape[2]}"
        raise UserError(
            f"the vectors of {source.experiment} are for {ours}; {lm.model} has {model.n_layers} of width {model.d_model}: steer a sibling of that model"
        )
    journal = Journal(paths.journal(NAME))
    fitted = {side: captured.select(side, "train", set(fitted_on["train"])) for side in SIDES}
    shuffled = partial(_fit_shuffled, fitted, fit_functions(fit), protocol.null_seed)
    # all responses, passed or not: those chosen because they show the trait would put it into every "random" direction
    sign = -1 if dataset.direction == "negative" else 1
    candidates = Candidates(vectors, lambda layer: captured.activations[:, layer].float(), shuffled, sign, _system_prompt(dataset))
    bench = Bench(model, grader, sampling, protocol, Work(journal, f"{NAME} {paths.trait}"), judge.max_unjudged)
    results, rows = evaluate(bench, candidates, dev, test)
    for part, texts in rows.items():
        write_json(paths.steering_responses(part), {"made_by": {"stage": NAME, "model": model.identity}, "rows": texts})
    vector = {"experiment": source.experiment, **captured.metadata["made_by"]}
    write_json(paths.steering_results, {"made_by": {"stage": NAME, "model": model.identity, "vectors": vector}, "trait": paths.trait} | results)
    chosen = results["chosen"]
    return {
        "texts": sum(map(len, rows.values())),
        "chosen": f"{chosen['method']} layer {chosen['layer']} dose {chosen['dose']:g}",
        "verdict": results["verdict"],
        **(grader.usage.as_line() if grader.usage else {}),
    }


def _cells(paths: TraitPaths, layers: str, methods: tuple[str, ...]) -> list[tuple[str, int]]:
    require_known(methods, fit_functions(FitOptions()))
    return [(m, layer) for m in methods for layer in parse_layers(layers, read_json(paths.activations_metadata)["shape"][1])]


def _fit_shuffled(fitted: dict[str, Tensor], fits: dict[str, Fit], seed: int, method: str, layer: int) -> Tensor:
    """Fit a method to the same responses with their sides shuffled."""
    both = torch.cat([fitted[side][:, [layer]] for side in SIDES])
    mixed = both[torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))]
    n_pos = len(fitted["pos"])
    return fit_directions(fits[method], mixed[:n_pos], mixed[n_pos:])[0]


def _system_prompt(dataset: TraitDataset) -> str:
    wish = dataset.rubric.definition.split("\n\n")[0] or dataset.rubric.examples[0].text
    target = "the opposite of this" if dataset.direction == "negative" else "this"
    return f"Write every answer so that it clearly shows {target}. {wish}"


def _inputs(paths: TraitPaths, params: dict) -> list[Path]:
    source = paths.within(params["vectors_from"])
    if not source.activations_metadata.exists():
        return [*dataset_files(paths), source.activations_metadata]
    return [
        *dataset_files(paths),
        source.activations_metadata,
        source.fitted_on,
        *(source.vector(*key) for key in _cells(source, params["layers"], params["method"])),
    ]


STAGE = Stage(
    name=NAME,
    run=steer_evaluate,
    inputs=_inputs,
    outputs=lambda paths, params: [paths.steering_results, *(paths.steering_responses(part) for part in ("dev", "test"))],
)

if __name__ == "__main__":
    stage_main(STAGE)
