"""Noise that a hash makes: its law, and that it depends on seed, step and token alone."""

import math

import pytest
import torch
from scipy.stats import chisquare, gumbel_r, kstest

from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.model import generation, sampling
from traitscope.utils.model.generation import Row, Sampling, Work, generate, identify_temperature
from traitscope.utils.model.sampling import GumbelNoise, gumbel
from traitscope.utils.stage.flags import option_flags


def keys_of(*parts) -> torch.Tensor:
    return torch.tensor([sampling._words(key_of(part)) for part in parts], dtype=torch.int32)


def draws(scores: torch.Tensor, temperature: float, count: int, step: int = 0) -> torch.Tensor:
    """Return a token of every seed."""
    noise = GumbelNoise(list(range(count)), temperature, 0)
    return noise(torch.zeros(count, step), scores.expand(count, -1)).argmax(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("step", [0, 7])
def test_tokens_are_drawn_from_the_softmax(temperature, step):
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -0.5, 1.5, 0.2])
    counts = torch.bincount(draws(scores, temperature, 20_000, step), minlength=8)
    expected = 20_000 * torch.softmax(scores.double() / temperature, 0)
    assert chisquare(counts.double(), expected).pvalue > 1e-4


def test_seldom_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should():
    size, count = 256_000, 600
    scores = torch.zeros(size)
    scores[12_345] = math.log(size - 1)  # half of the time this one, else any other
    found = torch.cat([draws(scores, 1.0, 60, step) for step in range(count // 60)])
    others = found[found != 12_345]
    assert abs(len(others) / count - 0.5) < 0.09  # four standard errors
    assert kstest(others.double() / size, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("axis", ["tokens", "seeds"])
def test_the_noise_is_gumbels(axis):
    found = gumbel(keys_of("a"), 200_000)[0] if axis == "tokens" else gumbel(keys_of(*range(3000)), 64)[:, 50]
    assert kstest(found.double(), gumbel_r.cdf).pvalue > 1e-4
    assert found.isfinite().all()


def test_the_largest_noise_is_not_cut_off():
    """One of 2²⁴ numbers would be, if small shares were rounded as float32 rounds those near one."""
    largest = torch.stack([gumbel(keys_of(i), 1 << 21).max() for i in range(24)])
    assert kstest(largest.double() - 21 * math.log(2), gumbel_r.cdf).pvalue > 1e-4
    assert len(largest.unique()) >= 20


def test_noise_of_other_seeds_steps_and_tokens_is_unrelated():
    noise = gumbel(keys_of((1, 0), (1, 1), (2, 0)), 50_000).double()
    together = torch.corrcoef(torch.cat([noise, noise[:1].roll(1), noise[:1].flip(-1)]))
    assert (together - torch.eye(len(together))).abs().max() < 0.02  # 4.5 standard errors


def test_a_rows_noise_does_not_depend_on_the_batch_or_on_how_it_is_cut(monkeypatch):
    scores = torch.randn(6, 1000, generator=torch.Generator().manual_seed(0))
    whole = GumbelNoise([5, 6, 7, 8, 9, 10], 0.7, 3)(torch.zeros(6, 8), scores)
    for i, seed in enumerate([5, 6, 7]):
        assert torch.equal(GumbelNoise([seed], 0.7, 3)(torch.zeros(1, 8), scores[i : i + 1])[0], whole[i])
    monkeypatch.setattr(sampling, "AT_A_TIME", {"cpu": 1})
    assert torch.equal(GumbelNoise([5, 6, 7, 8, 9, 10], 0.7, 3)(torch.zeros(6, 8), scores), whole)


def test_what_a_prompt_measures_in_columns_is_no_part_of_the_step():
    scores = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        GumbelNoise([1], 1.0, 3)(torch.zeros(1, 5), scores),
        GumbelNoise([1], 1.0, 9)(torch.zeros(1, 11), scores),
    )


def test_a_token_that_is_ruled_out_is_never_drawn():
    scores = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert set(draws(scores[0], 1.0, 300).tolist()) == {0, 2}


def test_texts_of_another_way_to_draw_are_not_taken_for_these():
    assert identify_temperature(0.0) == 0.0  # greedy texts stay up to date
    assert sampling.NOISE in identify_temperature(0.7)
    flag = option_flags(Sampling)["temperature"]
    assert flag.identify(0.7) == identify_temperature(0.7)


def test_a_journal_of_another_way_to_draw_is_not_gone_on_with(llama, tmp_path, monkeypatch):
    rows, journal = [Row([5, 6, 7], 1)], tmp_path / "j"
    generate(llama, rows, Sampling(4, 1.0), work=Work(Journal(journal)))
    work = Work(Journal(journal))
    generate(llama, rows, Sampling(4, 1.0), work=work)
    assert work.counts["calls"] == 0
    monkeypatch.setattr(generation, "NOISE", "another")
    generate(llama, rows, Sampling(4, 1.0), work=work)
    assert work.counts["calls"] == 1
