"""Stage 5: does adding the vector change what the model writes, more than chance would, and at what cost?"""

import sys
from dataclasses import replace
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

import numpy as np
from torch import Tensor

from analysis.steering.bench import ModelBench
from analysis.steering.evaluate import evaluate
from analysis.steering.precision import check_names, compare_precisions
from analysis.steering.questions import split_questions
from analysis.steering.rescoring import rescore
from analysis.steering.search import Search
from analysis.steering.setting import Candidates, Protocol
from analysis.steering.treatments import Intervention
from extraction.activations import fitted_sides, read_captured
from extraction.imported import origins
from extraction.methods import FitOptions, fit_functions, fit_shuffled, rival_of
from extraction.trait_files import dataset_files
from extraction.traits import TraitDataset, read_trait
from extraction.vectors import Key, add_traits, load_vectors, require_fit, vector_files, vector_keys
from utils.artifacts import digest, read_json, write_json
from utils.errors import UserError
from utils.experiment import stage_main
from utils.flags import pick
from utils.generation import Sampling, Work
from utils.journal import Journal
from utils.judge import JudgeOptions, load_judge
from utils.model import ModelOptions, load_lm
from utils.paths import TraitPaths
from utils.stage import Instead, Stage

NAME = "5_steer_evaluate"


def steer_evaluate(
    paths: TraitPaths,
    *,
    lm: ModelOptions,
    sampling: Sampling,
    judge: JudgeOptions,
    protocol: Protocol,
    search: Search,
    intervention: Intervention,
    fit: FitOptions,
    vectors_from: str = "",
    layers: str = "30%-70%:4",
    method: tuple[str, ...] = ("mean_diff", "probe"),
    subset: int = 0,
    with_traits: tuple[str, ...] = (),
    gate_trait: str = "",
    check_precision: tuple[str, ...] = (),
) -> dict:
    """Search method, layer and dose on the dev questions, and report the verdict on the test questions.

    Args:
        vectors_from: Experiment whose vectors are used; by default this one.
        layers: Layers to steer: all, 16, 5-20, 0-75:5, 30%-60%.
        method: Methods whose vectors are tried.
        subset: Use only the first so many dev and test questions; 0 uses all.
        with_traits: Other traits whose vectors are added to this one's, as category/name:weight; a weight below 0 subtracts.
        gate_trait: Steer only where this trait's vector (of the same method and layer) projects above a threshold found on dev.
        check_precision: Repeat the chosen cell's test with the model in these precisions: float32, bfloat16, float16, int8, int4.
    """
    search.check()
    intervention.check()
    check_names(check_precision)
    if protocol.random_pairs < 19:
        print(f"note: with {protocol.random_pairs} random pairs no verdict can be more than 'not proven'; 19 is the least")
    dataset = read_trait(paths)
    dev, test = split_questions(dataset.questions, subset)
    source = paths.within(vectors_from)
    candidates = _candidates(source, dataset, vector_keys(source, layers, method), fit, protocol.null_seed, with_traits, gate_trait)
    grader = load_judge(judge, dataset.rubric)
    model = load_lm(lm)
    require_fit(source, model)
    bench = ModelBench(model, grader, sampling, protocol, Work(Journal(paths.journal(NAME)), f"{NAME} {paths.trait}"), judge.max_unjudged)
    results, rows, cell = evaluate(bench, candidates, search, intervention, dev, test)
    used = {"usage": grader.usage.as_json()} if grader.usage else {}
    origin = {"experiment": source.experiment, **read_json(source.activations_metadata)["made_by"], **origins(source, method)}
    about = {"made_by": {"stage": NAME, "model": model.identity, "vectors": origin}, "trait": paths.trait}
    about |= {"judge": grader.identity, "coherence_judge": bench.coherence.identity, **used}
    results["shuffled_labels_fitted_by"] = {m: rival_of(m) for m in method}
    results["chosen"] |= {"with_traits": list(with_traits), "gate_trait": gate_trait}
    for part, texts in rows.items():
        write_json(paths.steering_responses(part), {"made_by": about["made_by"], "rows": texts})
    write_json(paths.steering_results, about | results)
    if check_precision:
        precision = compare_precisions(bench, cell, lm, check_precision, test)
        write_json(paths.steering_results, about | results | {"precision": precision})
    chosen = results["chosen"]
    place = f"{chosen['method']} layer {chosen['layer']} dose {chosen['dose']:g}"
    return {"texts": sum(map(len, rows.values())), "chosen": place, "verdict": results["verdict"], **(grader.usage.as_line() if grader.usage else {})}


def _candidates(
    source: TraitPaths, dataset: TraitDataset, keys: list[Key], fit: FitOptions, seed: int, with_traits: tuple[str, ...], gate_trait: str
) -> Candidates:
    """Gather what may be steered with.

    Raises:
        UserError: the vectors were not fitted on the activations that are there.
    """
    captured, fitted_on = read_captured(source), read_json(source.fitted_on)
    if fitted_on.get("activations_sha256") != captured.metadata["sha256"]:
        raise UserError(f"{source.trait}: the vectors of {source.experiment} were not fitted on its activations; run 4_fit_vectors first")

    def shuffle(method: str, layer: int) -> Tensor:
        acts = fitted_sides(captured, fitted_on, [layer])
        return fit_shuffled(fit_functions(fit)[rival_of(method)], acts["pos", "train"], acts["neg", "train"], seed)

    gate = replace(source, trait=gate_trait) if gate_trait else None
    return Candidates(
        vectors=load_vectors(source, keys, with_traits),
        # all responses, passed or not: those chosen because they show the trait would put it into every "random" direction
        activations=lambda layer: captured.activations[:, layer].float(),
        is_pos=np.array([row["side"] == "pos" for row in captured.rows]),
        shuffled=lambda method, layer: add_traits(source, (method, layer), shuffle(method, layer), with_traits),
        sign=-1 if dataset.direction == "negative" else 1,
        system_prompt=dataset.ask_for,
        gates=load_vectors(gate, keys) if gate else None,
    )


def rescore_texts(paths: TraitPaths, params: dict) -> dict:
    """Judge the stored texts again with --judge and --coherence-gate; the stage's own results stay as they are."""
    judge, gate = pick(JudgeOptions, params), params["coherence_gate"]
    if not paths.manifest(NAME).exists():
        raise UserError(f"{paths.trait} has no completed {NAME} to judge again; run it first")
    grader = load_judge(judge, read_trait(paths).rubric)
    texts = {part: read_json(paths.steering_responses(part))["rows"] for part in ("dev", "test")}
    results = rescore(read_json(paths.steering_results), texts, grader, gate, judge.max_unjudged)
    write_json(paths.rescored(judge.judge), {"trait": paths.trait, "texts_sha256": {part: digest(paths.steering_responses(part)) for part in texts}} | results)
    used = grader.usage.as_line() if grader.usage else {}
    return {"texts": sum(map(len, texts.values())), "verdict": results["verdict"], "before": results["verdict_before"], "why": results["why"], **used}


STAGE = Stage(
    name=NAME,
    run=steer_evaluate,
    inputs=lambda paths, params: [*dataset_files(paths), *vector_files(paths.within(params["vectors_from"]), params)],
    version=2,
    outputs=lambda paths, params: [paths.steering_results, *(paths.steering_responses(part) for part in ("dev", "test"))],
    instead={"rescore": Instead("Judge the stored texts again (--judge, --coherence-gate), without a model, into a file beside.", rescore_texts)},
)

if __name__ == "__main__":
    stage_main(STAGE)
