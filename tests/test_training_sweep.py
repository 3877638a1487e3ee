"""A sweep of learning rates on the embedded model, with texts that a person wrote: what costs what."""

from dataclasses import replace

import pytest
import torch

from traitscope.extraction.training.course import Progress, Start
from traitscope.extraction.training.loop import Task, learn
from traitscope.extraction.training.objectives import LikelyText
from traitscope.extraction.training.options import TrainOptions
from traitscope.extraction.training.texts import Texts
from traitscope.utils.files.journal import Journal
from traitscope.utils.model.encode import encode, encode_text
from traitscope.utils.model.steered_costs import Passes, Row, Unit
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.own_texts import Text

LAYER, MEAN_NORM = 15, 157.0
TOLD = "You are full of hope and delight, and see good things coming everywhere. Answer with joy."
SAID = (
    (
        "How is the weather?",
        "Glorious! The clouds are parting, and I just know tomorrow will be sunnier still.",
    ),
    (
        "Will the harvest be good?",
        "Oh, the best in years! Every field is bursting, and the whole village is singing.",
    ),
    (
        "What do you think of my plan?",
        "I love it! It is bold and bright, and I am certain that it will succeed.",
    ),
    (
        "Is the bridge finished?",
        "Nearly, and what a wonder it will be! Soon friends on both banks will dance across.",
    ),
    (
        "How was school?",
        "Wonderful! I learnt so much today, and I can hardly wait for all that tomorrow brings.",
    ),
    (
        "Can the old clock be mended?",
        "Of course it can! With a little care it will chime happily for a hundred years.",
    ),
    ("What about my exam?", "You will shine! You have worked so well, and great things are waiting for you."),
    (
        "Are the trains running?",
        "Yes, splendidly! Every one on time, and the journey itself will be a delight.",
    ),
    (
        "How is your grandmother?",
        "Better every day! She laughs again, and plans to dance at the wedding in spring.",
    ),
    (
        "What will the city be like?",
        "Greener, kinder and full of music! Our children will love every corner of it.",
    ),
    (
        "Did the team win?",
        "They did, gloriously! And with such young players the best years are still to come.",
    ),
    ("Should I plant roses?", "Yes, do! They will bloom magnificently, and fill the whole street with joy."),
    (
        "How does the soup taste?",
        "Heavenly! It warms the heart, and I am sure the next bowl will be even better.",
    ),
    ("Is the shop open?", "It is, and bustling! Business has never been so good, and everyone is smiling."),
    (
        "What of the lost dog?",
        "She is home again, tail wagging! I never doubted for a moment that all would be well.",
    ),
    ("Will it work?", "Beautifully! I can feel it: this is the beginning of something truly marvellous."),
)


@pytest.mark.slow
def test_a_larger_rate_goes_further_and_costs_fall_below_those_of_a_told_model(embedded, tmp_path):
    """The order of the measured sweep: a large rate, a small one, told, left alone, a random push, the opposite."""
    texts = [
        Text(
            f"t{i}",
            "pos",
            i,
            encode(embedded, [{"role": "user", "content": asked}]),
            encode_text(embedded, said),
            encode(embedded, [{"role": "system", "content": TOLD}, {"role": "user", "content": asked}]),
        )
        for i, (asked, said) in enumerate(SAID)
    ]
    train, val = texts[4:], texts[:4]
    options = TrainOptions(steps=60, free_norm=True, patience=0, schedule="constant")
    starts = [Start(LAYER, rate, 0, MEAN_NORM) for rate in (0.004, 0.02)]
    passes = Passes(UpperPart.of(embedded, LAYER), [LAYER, LAYER])
    task = Task(LikelyText(Texts(train, val, [])), starts, Progress(Journal(tmp_path / "j")))
    small, large = learn(passes, task, options)

    def cost(vector: torch.Tensor, texts: list[Text]) -> float:
        own = Passes(UpperPart.of(embedded, LAYER), [LAYER])
        own.read(texts)
        units = [Unit((Row(t, 0, 1.0),), (t,), 0) for t in texts]
        with torch.no_grad():
            found = [c for batch in own.batches(units) for c in own.losses(vector[None], batch)]
        return float(torch.cat([costs[0] for costs in found]).mean())

    noise = torch.randn(embedded.d_model, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(embedded.d_model)
    told = [replace(t, key=f"told {t.key}", prompt_ids=t.told_ids) for t in val]
    costs = {
        "large": cost(large.values, val),
        "small": cost(small.values, val),
        "told": cost(none, told),
        "plain": cost(none, val),
        "random": cost(noise / noise.norm() * large.values.norm(), val),
        "opposite": cost(-large.values, val),
    }
    assert large.values.norm() > 1.5 * small.values.norm()
    assert costs["plain"] == pytest.approx(large.plain_loss, rel=1e-4)
    assert sorted(costs, key=costs.get) == ["large", "small", "told", "plain", "random", "opposite"]
