"""What results.json says of a verdict's setting: who was steered with what, and who judged."""

from dataclasses import asdict
from typing import Any

from traitscope.analysis.steering.bench import ModelBench
from traitscope.analysis.steering.treatments import Intervention
from traitscope.extraction.fitting.candidates import SteeringVectors
from traitscope.extraction.fitting.methods import rival_of
from traitscope.utils.files.paths import STEER, TraitPaths
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.records.imported import origins_of


def describe_setting(
    bench: ModelBench, intervention: Intervention, vectors: SteeringVectors
) -> dict[str, Any]:
    """Return what makes a test of the same vectors in the same cell another look at a trait."""
    protocol, sampling = bench.protocol, bench.sampling
    return {
        "judge": bench.judge.identity,
        "model": bench.lm.identity,
        "nulls": [protocol.null_seed, protocol.random_pairs],
        "positions": protocol.positions,
        "intervention": asdict(intervention),
        "with": [list(vectors.with_traits), vectors.gate_trait],
        "text": [sampling.max_new_tokens, sampling.temperature],
    }


def describe_origin(
    paths: TraitPaths, bench: ModelBench, source: TraitPaths, vectors: SteeringVectors
) -> dict[str, Any]:
    """Return whom results are about, and who made and judged them.

    Args:
        paths: Of the trait that was steered.
        source: Where its vectors were made.
    """
    judge = bench.judge
    return {
        "made_by": {"stage": STEER, "model": bench.lm.identity, "vectors": _origin(source, vectors.method)},
        "trait": paths.trait,
        "judge": judge.identity,
        "coherence_judge": bench.coherence.identity,
        **({"usage": judge.usage.as_json()} if judge.usage else {}),
        "shuffled_labels_fitted_by": {method: rival_of(method) for method in vectors.method},
    }


def _origin(source: TraitPaths, methods: tuple[str, ...]) -> dict[str, Any]:
    """Return what results say of the vectors that were steered with."""
    imported = origins_of(source, methods)
    made_by = read_activations_about(source).made_by
    return {"experiment": source.experiment, **made_by, **({"imported": imported} if imported else {})}
