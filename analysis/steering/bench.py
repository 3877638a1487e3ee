"""The bench with a real model: texts by generation, scores by judges, side effects beside."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from traitscope.analysis.steering.arms import Arm, ArmResult, generate_arms, judge_arms
from traitscope.analysis.steering.setting import Protocol
from traitscope.utils.errors import UserError
from traitscope.utils.judge import Judge
from traitscope.utils.judge.coherence import TokenText, token_nll
from traitscope.utils.model.capture import Pooled, Reading, pool_activations, select_positions
from traitscope.utils.model.encode import encode, encode_text
from traitscope.utils.model.generation import Sampling, Work
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.model.loading import LM

NEUTRAL = (  # plain prose that no trait should touch
    "Water boils at a lower temperature on a mountain than at the coast, because the air presses on it less.",
    "The library opens at nine in the morning and closes at six in the evening, except on public holidays.",
    "A triangle has three sides, and the sum of its angles in a plane is one hundred and eighty degrees.",
    "The river rises in the hills, crosses two valleys and reaches the sea near a small harbour town.",
    "Most keyboards have the letters in three rows, with the digits above them and the space bar below.",
    "Wheat is sown in autumn or in spring, depending on the variety and on how cold the winters are.",
    "The train from the capital stops at four stations before it comes to the border.",
    "Paper is made from fibres that are pressed together while wet and then dried in thin sheets.",
)
REFUSAL = re.compile(
    r"\bI(?: am|['’]m) (?:sorry|unable|not able)|\bI (?:can(?:no|['’])t|cannot|won['’]t|will not)\b|as an AI",
    re.IGNORECASE,
)


class ModelBench:
    """Where texts are written by a model and scored by judges."""

    def __init__(
        self,
        lm: LM,
        judge: Judge,
        sampling: Sampling,
        protocol: Protocol,
        work: Work,
        max_unjudged: float = 0.05,
    ) -> None:
        self.lm = lm
        self.judge = judge
        self.sampling = sampling
        self.protocol = protocol
        self.work = work
        self.max_unjudged = max_unjudged

    def open(self, questions: Sequence[str]) -> ArmResult:
        """Return the unsteered answers to the dev questions; coherence and doses are calibrated on them."""
        self._unsteered = self._generate([Arm("unsteered")], questions)[0]
        self.coherence = self.judge.coherence(self.lm, self._unsteered.texts)
        judge_arms([self._unsteered], questions, self.judge, self.coherence, self.max_unjudged)
        return self._unsteered

    def measure(self, arms: Sequence[Arm], questions: Sequence[str]) -> list[ArmResult]:
        """Return every arm's answers, scored; none for no arms."""
        if not arms:
            return []
        results = self._generate(arms, questions)
        judge_arms(results, questions, self.judge, self.coherence, self.max_unjudged)
        return results

    def _generate(self, arms: Sequence[Arm], questions: Sequence[str]) -> list[ArmResult]:
        return generate_arms(
            self.lm, arms, questions, self.sampling, positions=self.protocol.positions, work=self.work
        )

    @cached_property
    def _pooled(self) -> Pooled:
        texts = [t for t in self._unsteered.texts if t.ids]
        if not texts:
            raise UserError(
                "every unsteered answer is empty, so no residual norm can be taken; see what the model writes with "
                "inference/chat.py"
            )
        readings = [
            Reading(t.prompt_ids + t.ids, select_positions("response[:]", len(t.prompt_ids), len(t.ids)))
            for t in texts
        ]
        return pool_activations(self.lm, readings, label="residual norms")

    def norms(self) -> list[float]:
        """Return each layer's mean residual norm over the response tokens of the unsteered answers."""
        return [round(float(x), 4) for x in self._pooled.norms]

    def gate(self, vector: Tensor, layer: int, quantile: float) -> float:
        """Return that quantile of the unsteered answers' mean projections on the gate vector's direction."""
        return float(
            np.quantile(
                (self._pooled.activations[:, layer] @ (vector.float() / vector.float().norm())).numpy(),
                quantile,
            )
        )

    def extra(self, arms: Mapping[str, ArmResult | None]) -> dict:
        """Return side effects per arm: words, refusals, and the perplexity of neutral prose under the
        same steering.
        """
        return {"side_effects": {name: side_effects(self.lm, arm) for name, arm in arms.items() if arm}}


def side_effects(lm: LM, arm: ArmResult) -> dict:
    """Return the mean length in words, the share of answers that read like a refusal, and the perplexity
    of neutral prose.
    """
    texts = arm.responses
    figures = {
        "words": float(np.mean([len(t.split()) for t in texts])),
        "refusal_share": float(np.mean([bool(REFUSAL.search(t)) for t in texts])),
    }
    return {name: round(value, 4) for name, value in figures.items()} | {
        "neutral_perplexity": neutral_perplexity(lm, arm.arm.pushes)
    }


def neutral_perplexity(lm: LM, pushes: tuple[Push, ...]) -> float:
    """Return exp of the mean negative log-likelihood per token of neutral sentences, written as answers,
    under steering at every position.
    """
    prompt = encode(lm, [{"role": "user", "content": "Tell me something about the world."}])
    texts = [TokenText(prompt, encode_text(lm, sentence)) for sentence in NEUTRAL]
    with steer(lm.model, [pushes]):
        nll = token_nll(lm, texts, batch_tokens=1)  # one text a batch: the plan holds one row
    return round(float(np.exp(np.mean(nll))), 4)
