"""traitscope finds, proves and watches directions in a language model that carry a behaviour.

    import traitscope as ts

    lm = ts.load_model("embedded")
    vector = ts.load_vector("demo", "behavioral/formality")
    with ts.steering(lm, vector, dose=0.2):
        print(ts.ask(lm, "What can I do about a noisy neighbour?"))

This is the front door: every function hands on to the module that decides. docs/python.md shows all of them.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "checkout":  # run by a command of this folder, which is the package, whatever it is called
    _spec = spec_from_file_location("traitscope", __file__)
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["traitscope"] = _package = module_from_spec(_spec)
    _spec.loader.exec_module(_package)
    from traitscope.utils.stage import interrupts

    interrupts.watch(Path(__file__).parent)
else:
    from traitscope import utils  # noqa: F401  # it sets the threads that torch starts with

if TYPE_CHECKING:
    from torch import Tensor

    from traitscope.utils.model.loading import LM
    from traitscope.utils.records.vectors import Vector

__all__ = ["ask", "fit", "load_model", "load_vector", "project", "record", "steering"]


def load_model(model: str = "embedded", **options: Any) -> "LM":
    """Load a causal language model with its tokenizer, frozen.

    Args:
        model: A Hugging Face id, a local folder, a .gguf file or "embedded".
        options: The fields of `ModelOptions`: revision, lora, dtype, device, load_in_8bit, …

    Raises:
        UserError: the model cannot be had.

    >>> lm = ts.load_model("embedded")  # doctest: +ELLIPSIS
    model: embedded on ...
    >>> lm.n_layers, lm.d_model
    (30, 576)
    """
    from traitscope.utils.model.loading import ModelOptions, load_lm

    return load_lm(ModelOptions(model=model, **options))


def load_vector(experiment: str, trait: str, method: str = "", layer: int | None = None) -> "Vector":
    """Read a trait vector of an experiment: the one named, or the trait's best.

    The best is what steering proved to work, else what separates held-out responses best.

    Args:
        method: By default that of the best vector.
        layer: By default that of the best vector, whatever the method.

    Raises:
        UserError: there is no such vector.

    >>> vector = ts.load_vector("demo", "behavioral/formality")
    >>> vector.values.shape
    (576,)
    """
    from traitscope.utils.files.paths import TraitPaths
    from traitscope.utils.records.choice import choose_keys
    from traitscope.utils.records.vectors import read_vector

    paths = TraitPaths(experiment, trait)
    key, why = choose_keys(paths, "best" if layer is None else str(layer), method)[0]
    return read_vector(paths, key, why)


@contextmanager
def steering(
    lm: "LM", vector: "Vector", dose: float | None = None, *, coefficient: float | None = None
) -> Iterator[None]:
    """Add a vector at its layer in every forward pass, at every position, while the block is active.

    Args:
        dose: How hard, as a share of the layer's mean residual norm; below 0 for less of the trait.
        coefficient: The same as a factor on the vector as saved, instead of a dose.

    Raises:
        UserError: the vector does not belong on the model, or its layer's mean norm is not known.
        ValueError: neither or both of dose and coefficient were given, or one that is not finite.

    >>> with ts.steering(lm, vector, dose=0.2):
    ...     steered = ts.ask(lm, "How do I bake bread?", max_new_tokens=8)
    >>> isinstance(steered, str)
    True
    """
    from traitscope.utils.model.hooks import Push, steer

    if (dose is None) == (coefficient is None):
        raise ValueError("pass a dose or a coefficient")
    if not isfinite(dose if dose is not None else coefficient or 0):
        raise ValueError("a dose or coefficient is a finite number")
    if note := vector.require_fit(lm):
        print(note)
    push = (
        vector.push(dose) if dose is not None else Push(vector.layer, vector.tensor, float(coefficient or 0))
    )

    with steer(lm.model, [[push]]):
        yield


def ask(
    lm: "LM",
    prompt: str | list[dict[str, str]],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """Return the model's answer to a question, or to chat messages; greedy unless a temperature is given.

    Args:
        prompt: A question, or messages {"role", "content"}.
        seed: Fixes the answer where there is a temperature.

    Raises:
        UserError: the prompt is empty, longer than the model's context, or not of that form.

    >>> ts.ask(lm, "What is the capital of France?", max_new_tokens=8)
    'The capital of France is Paris.'
    """
    from traitscope.utils.model.encode import encode
    from traitscope.utils.model.generation import Row, Sampling, generate, room_after

    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    ids = encode(lm, messages)
    sampling = Sampling(room_after(lm, ids, max_new_tokens), temperature, batch_size=1)
    completion = generate(lm, [Row(ids, seed)], sampling)[0]
    return lm.tokenizer.decode(completion.ids, skip_special_tokens=True)


def record(lm: "LM", text: str) -> "Tensor":
    """Return the residual stream of a text after every block, [n_layers, n_tokens, d_model], float32.

    Token 0 is an attention sink on many models, far longer than any other: leave it out of means.

    >>> ts.record(lm, "The sun rose.").shape[0]
    30
    """
    from traitscope.utils.model.capture import record_stream
    from traitscope.utils.model.encode import encode

    return record_stream(lm, encode(lm, text))


def project(lm: "LM", vector: "Vector", text: str) -> list[tuple[str, float]]:
    """Return every token of a text with its centred projection on a vector: above 0 is the trait's side.

    Raises:
        UserError: the vector does not belong on the model.

    >>> len(ts.project(lm, vector, "Dear Sir or Madam,")) > 3
    True
    """
    from traitscope.inference.watch.projection import project_text

    return project_text(lm, vector, text)


def fit(
    lm: "LM", pos: Sequence[str], neg: Sequence[str], layer: int | None = None, method: str = "mean_diff"
) -> "Vector":
    """Fit a vector that points from texts without a trait to texts with it.

    It is measured on the very texts it was fitted on: `Vector.about.train` says how they separate, and
    nothing says how others would. The pipeline holds texts out, and proves a vector by steering.

    Args:
        layer: The block whose output is read; by default the one at half depth.
        method: mean_diff, probe, ica, gradient or random.

    Raises:
        UserError: the method is unknown.
        ValueError: a side has fewer than two texts, or no direction follows from them.

    >>> own = ts.fit(lm, ["What joy!", "I love it."], ["How dull.", "I hate it."], layer=12)
    >>> own.layer, own.about.train.n_pos
    (12, 2)
    """
    from traitscope.extraction.fitting.texts import fit_texts

    return fit_texts(lm, pos, neg, lm.n_layers // 2 if layer is None else layer, method)
