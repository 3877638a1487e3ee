"""What the model writes when it is told to show a trait, and what being told adds to its states."""

from dataclasses import replace

import torch

from traitscope.utils.files.journal import Journal
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.model.capture import Reading, pool_activations
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, Work, generate
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import ActivationsAbout
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.own_texts import Text, own_texts
from traitscope.utils.records.questions import read_pool, spare_for_training
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.scores import Thresholds

QUESTIONS = 64  # of the pool, for a trait that has no instructions


def told_texts(
    paths: TraitPaths,
    lm: LM,
    about: ActivationsAbout,
    thresholds: Thresholds | None,
    sampling: Sampling,
    journal: Journal,
) -> list[Text]:
    """Return what the model wrote where it was told to show the trait, each with the prompt that told it.

    Of a trait of instructions these are stage 1's positive responses that passed stage 2 and are not held out. Else
    the definition is the instruction, and the model answers neutral questions that no evaluation of the trait asks.

    Raises:
        UserError: a file is missing or damaged.
    """
    if read_trait(paths).form == "instructions":
        return _own_answers(paths, lm, about, thresholds)
    return _new_answers(paths, lm, sampling, journal)


def _own_answers(
    paths: TraitPaths, lm: LM, about: ActivationsAbout, thresholds: Thresholds | None
) -> list[Text]:
    plain = [t for t in own_texts(paths, lm, about, thresholds) if t.side == "pos"]
    told = {r.key: encode(lm, r.prompt) for r in read_responses(paths)}
    return [replace(text, told_ids=told[text.key.rpartition(":")[0]]) for text in plain]


def _new_answers(paths: TraitPaths, lm: LM, sampling: Sampling, journal: Journal) -> list[Text]:
    dataset = read_trait(paths)
    instruction = {"role": "system", "content": dataset.ask_for(1)}
    questions = spare_for_training(dataset, read_pool(paths.root))[:QUESTIONS]
    asked = [{"role": "user", "content": question} for question in questions]

    told = [encode(lm, [instruction, question]) for question in asked]
    work = Work(journal, f"answers of {paths.trait}")
    written = generate(lm, [Row(ids, i) for i, ids in enumerate(told)], sampling, work=work)
    texts = [
        Text(f"told:{i}", "pos", i, encode(lm, [question]), answer.ids, ids)
        for i, (question, ids, answer) in enumerate(zip(asked, told, written, strict=True))
    ]
    return [text for text in texts if text.response_ids]


def added_by_telling(lm: LM, texts: list[Text]) -> torch.Tensor:
    """Return what an instruction adds to the states at the same response tokens, mean over all tokens: [n_layers,
    d_model], float32.
    """
    told = _pooled(lm, [replace(text, prompt_ids=text.told_ids) for text in texts])
    shares = torch.tensor([len(text.response_ids) for text in texts]).double()
    shares = (shares / shares.sum())[:, None, None]
    return ((told.double() - _pooled(lm, texts).double()) * shares).sum(0).float()


def _pooled(lm: LM, texts: list[Text]) -> torch.Tensor:
    spans = [range(max(len(text.prompt_ids), 1), len(text.ids)) for text in texts]
    readings = [Reading(text.ids, list(span)) for text, span in zip(texts, spans, strict=True)]
    return pool_activations(lm, readings, label="prompt_delta").activations
