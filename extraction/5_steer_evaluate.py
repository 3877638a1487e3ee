"""Stage 5: does adding the vector change what the model writes, more than chance would, and at what cost?

For example:

    python extraction/5_steer_evaluate.py --experiment demo --traits behavioral/formality --layers 30%-70%:4
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Annotated

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.analysis.steering.bench import ModelBench
from traitscope.analysis.steering.beside import Beside, closing_words, measure_beside
from traitscope.analysis.steering.evaluate import evaluate
from traitscope.analysis.steering.history import History
from traitscope.analysis.steering.precision import check_names
from traitscope.analysis.steering.rescoring import rescore_stored
from traitscope.analysis.steering.search import Search
from traitscope.analysis.steering.setting import Protocol
from traitscope.analysis.steering.treatments import Intervention
from traitscope.extraction.fitting.candidates import SteeringVectors, gather, load_vectors, vector_inputs
from traitscope.extraction.fitting.methods import FitOptions
from traitscope.extraction.report.steered import describe_origin, describe_setting
from traitscope.utils.files.journal import Journal
from traitscope.utils.files.paths import STEER, TraitPaths
from traitscope.utils.judge import JudgeOptions, load_judge
from traitscope.utils.judge.reliability import judge_reliability
from traitscope.utils.model.generation import Sampling, Work
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.dataset_files import dataset_files
from traitscope.utils.records.questions import choose_questions, read_pool
from traitscope.utils.records.verdict import PARTS, read_earlier_looks, write_texts, write_verdict
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import pick
from traitscope.utils.stage.stage import Instead, Stage


def steer_evaluate(
    paths: TraitPaths,
    *,
    model: ModelOptions,
    sampling: Sampling,
    judging: JudgeOptions,
    protocol: Protocol,
    search: Search,
    intervention: Intervention,
    fit: FitOptions,
    vectors: SteeringVectors,
    beside: Beside,
    subset: Annotated[int, "Use only the first so many dev and test questions; 0 uses all."] = 0,
    fresh_test: Annotated[
        int,
        "Take this many test questions from the neutral pool, which no test of this trait has seen; 0: its own.",
    ] = 0,
) -> dict:
    """Find the place and the dose on the dev questions, and report the verdict on the test questions."""
    search.check()
    intervention.check()
    check_names(beside.check_precision)
    protocol.check(has_opposite=intervention.operation == "add")

    dataset, earlier = read_trait(paths), read_earlier_looks(paths)
    asked = choose_questions(dataset, read_pool(paths.root), subset, fresh_test, earlier.seen)
    if note := asked.note():
        print(f"note: {paths.trait}: {note}", flush=True)
    source = paths.within(vectors.vectors_from)
    loaded = load_vectors(source, vectors)
    candidates = gather(loaded, dataset, fit, protocol.null_seed)

    judge = load_judge(judging, dataset.rubric, paths.spending)
    other = replace(judging, judge=beside.second_judge)
    second = (
        (load_judge(other, dataset.rubric, paths.spending), dataset.rubric) if beside.second_judge else None
    )
    lm = load_lm(model)
    loaded.require_fit(lm)
    work = Work(Journal(paths.journal(STEER)), f"{STEER} {paths.trait}")
    bench = ModelBench(lm, judge, sampling, protocol, work, judging.max_unjudged)

    setting = describe_setting(bench, intervention, vectors)
    digests = {key: vector.sha256 for key, vector in loaded.vectors.items()}
    history = History(earlier.looks, asked.test, setting, digests, judge_reliability(judge, dataset.rubric))
    found = evaluate(bench, candidates, search, intervention, asked.dev, asked.test, history)

    results = describe_origin(paths, bench, source, vectors) | found.results | asked.as_json()
    results["chosen"] |= {"with_traits": list(vectors.with_traits), "gate_trait": vectors.gate_trait}
    results["texts_sha256"] = write_texts(paths, found.rows, results["made_by"])
    write_verdict(paths, results)  # a failure beside the verdict costs neither it nor the memory of this look
    results |= measure_beside(beside, bench, found, second, model)
    write_verdict(paths, results)

    used = judge.usage.as_line() if judge.usage else {}
    return {"texts": sum(map(len, found.rows.values())), **closing_words(results), **used}


def rescore_texts(paths: TraitPaths, params: dict) -> dict:
    """Judge the stored texts again with --judge and --coherence-gate; the stage's own results stay as
    they are.
    """
    limits = params["coherence_gate"], params["min_effect"]
    return rescore_stored(paths, pick(JudgeOptions, params), *limits)


def _inputs(paths: TraitPaths, params: dict) -> list[Path]:
    vectors = pick(SteeringVectors, params)
    return [*dataset_files(paths), *vector_inputs(paths.within(vectors.vectors_from), vectors)]


STAGE = Stage(
    name=STEER,
    run=steer_evaluate,
    version=4,
    inputs=_inputs,
    outputs=lambda paths, params: [
        paths.steering_results,
        *(paths.steering_responses(part) for part in PARTS),
    ],
    instead={
        "rescore": Instead(
            "Judge the stored texts again (--judge, --coherence-gate), without a model, into a file beside.",
            rescore_texts,
        )
    },
)

if __name__ == "__main__":
    command(stage_command(STAGE))
