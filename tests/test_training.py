"""Training through the frozen model: the upper part is the model, rows are runs, and what was planted is found."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, build

from traitscope.extraction.training.course import Course, Learned, Progress, Start
from traitscope.extraction.training.learning import Learning, factor_at, run_units
from traitscope.extraction.training.loop import Task, learn, learn_all
from traitscope.extraction.training.objectives import LikelyText, PreferredAnswer, ToldModel, pair_up
from traitscope.extraction.training.options import TrainOptions
from traitscope.extraction.training.stage import choose
from traitscope.extraction.training.texts import Texts, fill_budgets
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal
from traitscope.utils.model.generation import Row as Asked
from traitscope.utils.model.generation import Sampling, generate
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.model.steered_costs import Passes, Row, Unit
from traitscope.utils.model.upper import Head, UpperPart
from traitscope.utils.records.own_texts import Text

FEW = ("llama", "gemma2", "gemma3_text", "qwen2", "qwen3", "gpt2", "cohere", "granite", "mixtral")
QUICK = TrainOptions(learning_rates=(0.03,), steps=10, texts_a_step=4, warmup=1, patience=0)


def texts_of(lm, count: int, width: int = 10, seed: int = 0, side: str = "pos") -> list[Text]:
    """Return random texts of different lengths."""
    drawn = torch.Generator().manual_seed(seed)

    def some(n: int) -> list[int]:
        return torch.randint(5, 200, (n,), generator=drawn).tolist()

    return [Text(f"{side}:{i}", side, i, some(3 + i % 4), some(width - i % 3)) for i in range(count)]


def learnt(passes, objective, starts, options, progress) -> list[Learned]:
    """Learn one trait's vectors."""
    return learn(passes, Task(objective, starts, progress), options)


def begun(passes, objective, options, rate: float = 0.1) -> Learning:
    """Return a vector that has its first direction."""
    objective.begin(passes)
    going = Learning(passes, objective, [Start(1, rate, 0, 5.0)], options)
    going.begin(run_units(passes, [going], {0: going.first_units()}, leads_back=True)[0])
    return going


def take_step(going: Learning, step: int, factor: float = 1.0) -> None:
    found = run_units(going.passes, [going], {0: going.step_units(step)}, leads_back=True)
    going.step(found[0], factor)


def passes_of(lm, layers, **options) -> Passes:
    return Passes(UpperPart.of(lm, min(layers)), layers, **options)


def plain_costs(lm, text: Text, push: Push | None = None, first: int = 1) -> torch.Tensor:
    """Return −log p of a text's response tokens by one plain pass of the whole model, pushed behind a block."""
    from traitscope.utils.model.anatomy import hidden_of, layers, with_hidden

    def add(_module, _inputs, output):
        hidden = hidden_of(output).clone()
        hidden[:, first:] += push.coefficient * push.vector
        return with_hidden(output, hidden)

    handle = layers(lm.model)[push.layer].register_forward_hook(add) if push else None
    try:
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([text.ids])).logits[0]
    finally:
        if handle:
            handle.remove()
    start = len(text.prompt_ids)
    return torch.nn.functional.cross_entropy(
        logits[start - 1 : -1].float(), torch.tensor(text.ids[start:]), reduction="none"
    )


@pytest.mark.parametrize("positions", ["all", "response"])
def test_a_batch_of_steered_rows_costs_what_each_costs_in_a_plain_pass(lm, positions):
    texts, layers = texts_of(lm, 6), [1, 2]
    passes = passes_of(lm, layers, positions=positions)
    passes.read(texts)
    vectors = torch.randn(2, lm.d_model, generator=torch.Generator().manual_seed(1))
    units = [Unit((Row(t, i % 2, 0.5 * (i - 2)),), (t,), i % 2) for i, t in enumerate(texts)]

    for unit, costs in zip(units, passes.losses(vectors, units), strict=True):
        row = unit.rows[0]
        first = 1 if positions == "all" else len(row.text.prompt_ids) - 1
        push = Push(layers[row.vector], vectors[row.vector], row.force)
        assert torch.allclose(costs[0], plain_costs(lm, row.text, push, first), atol=1e-4)


def test_a_zero_vector_changes_no_bit(lm):
    text = texts_of(lm, 1)[0]
    passes = passes_of(lm, [1])
    passes.read([text])
    vectors = torch.zeros(1, lm.d_model)
    steered = passes.losses(vectors, [Unit((Row(text, 0, 3.0),), (text,), 0)])[0][0]
    assert torch.equal(steered, plain_costs(lm, text))


@pytest.mark.parametrize("saves_memory", [False, True])
def test_the_upper_part_has_the_gradient_of_the_whole_model_and_leaves_the_weights_alone(lm, saves_memory):
    texts = texts_of(lm, 5)
    gradients = []
    for part in (UpperPart.of(lm, 1), UpperPart.whole(lm, 1)):
        passes = Passes(part, [1, 3], saves_memory=saves_memory)
        passes.read(texts)
        vectors = torch.full((2, lm.d_model), 0.1, requires_grad=True)
        units = [Unit((Row(t, i % 2, 1.0),), (t,), i % 2) for i, t in enumerate(texts)]
        sum(c[0].sum() for c in passes.losses(vectors, units)).backward()
        gradients.append(vectors.grad)

    assert gradients[0].norm() > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())


def test_logits_in_chunks_have_the_same_costs_and_gradients(llama, monkeypatch):
    text = texts_of(llama, 1)[0]
    found = []
    for size in (1 << 28, 4 * llama.n_tokens * 3):  # all at once; three at a time
        monkeypatch.setattr("traitscope.utils.model.steered_costs.FEW_HEAD_BYTES", size)
        passes = passes_of(llama, [1])
        passes.read([text])
        vectors = torch.full((1, llama.d_model), 0.1, requires_grad=True)
        costs = passes.losses(vectors, [Unit((Row(text, 0, 1.0),), (text,), 0)])[0][0]
        costs.sum().backward()
        found.append((costs.detach(), vectors.grad))

    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_costs_that_weigh_differently_have_the_gradient_that_the_whole_model_gives(llama):
    text, weights = texts_of(llama, 1)[0], torch.linspace(-1, 2, 10)
    passes = passes_of(llama, [1])
    passes.read([text])
    vectors = torch.full((1, llama.d_model), 0.1, requires_grad=True)
    costs = passes.losses(vectors, [Unit((Row(text, 0, 1.0),), (text,), 0)])[0][0]
    found = torch.autograd.grad((costs * weights).square().sum(), vectors)[0][0]

    pushed = torch.zeros(len(text.ids), 1)
    pushed[1:] = 1.0
    vector = torch.full((llama.d_model,), 0.1, requires_grad=True)
    handle = llama.model.model.layers[1].register_forward_hook(lambda _m, _i, out: out + pushed * vector)
    logits = llama.model(input_ids=torch.tensor([text.ids])).logits[0]
    handle.remove()
    start = len(text.prompt_ids)
    plain = torch.nn.functional.cross_entropy(
        logits[start - 1 : -1], torch.tensor(text.response_ids), reduction="none"
    )
    wanted = torch.autograd.grad((plain * weights).square().sum(), vector)[0]
    assert torch.allclose(costs, plain, atol=1e-5)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)


WITHOUT_HEAD = ("llama4",)  # its text model stands behind a wrapper that asks for more than states


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_of_every_family_that_loads_the_upper_part_reads_and_leads_back_like_the_whole(tmp_path, name):
    try:
        lm = load_lm(ModelOptions(model=str(build(tmp_path, name)), device="cpu"))
    except Exception:  # refused when it is loaded, or by transformers itself: test_families says which
        pytest.skip("does not load")
    if name in WITHOUT_HEAD:
        with pytest.raises(UserError, match="its head cannot be run without its blocks"):
            UpperPart.of(lm, 0)
        return
    _is_like_the_whole(lm)


@pytest.mark.parametrize("name", [name for name in FEW if name in FAMILIES])
def test_the_upper_part_reads_and_leads_back_like_the_whole(tmp_path, name):
    lm = load_lm(ModelOptions(model=str(build(tmp_path, name)), device="cpu"))
    _is_like_the_whole(lm)
    assert UpperPart.of(lm, 0).wrap is not None  # and saves what lies below


def _is_like_the_whole(lm) -> None:
    layer = (lm.n_layers - 1) // 2
    part, whole = UpperPart.of(lm, layer), UpperPart.whole(lm, layer)
    ids = torch.randint(5, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    states = part.states(ids)
    found = []
    for way in (part, whole):
        vector = torch.full((lm.d_model,), 0.05, requires_grad=True)
        output = way.run(ids, states, {layer: lambda hidden, v=vector: hidden + v.to(hidden.dtype)})
        logits = part.head.read(output, output.last_hidden_state[:, -1])
        torch.log_softmax(logits.float(), -1)[:, 7].sum().backward()
        found.append((logits.detach(), vector.grad))

    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


def test_the_head_is_the_models_own(lm):
    ids = torch.tensor([[7, 8, 9, 10]])
    with torch.no_grad():
        output = lm.model.base_model(input_ids=ids, use_cache=False)
        ours = Head.of(lm).read(output, output.last_hidden_state[0])
        assert torch.allclose(ours, lm.model(input_ids=ids).logits[0], atol=1e-5)


def test_rows_of_one_pass_are_runs_of_their_own(lm, tmp_path):
    texts = Texts(texts_of(lm, 8), texts_of(lm, 4, seed=9), [])
    starts = [Start(layer, rate, seed, 5.0) for layer in (1, 2) for rate, seed in ((0.01, 0), (0.05, 1))]

    def run(starts, name):
        passes = passes_of(lm, [s.layer for s in starts])
        return learnt(passes, LikelyText(texts), starts, QUICK, Progress(Journal(tmp_path / name)))

    together = run(starts, "together")
    for i, start in enumerate(starts):
        alone = run([start], f"alone_{i}")[0]
        assert torch.cosine_similarity(together[i].values, alone.values, dim=0) > 0.9999
        assert together[i].course.best_loss == pytest.approx(alone.course.best_loss, rel=1e-4)
        assert together[i].course.tokens_seen == alone.course.tokens_seen


def taught(lm, vector: torch.Tensor, layer: int, count: int, seed: int) -> list[Text]:
    """Return what the model writes, at random, while it is steered by a vector from the last prompt token on."""
    drawn = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(5, 200, (4,), generator=drawn).tolist() for _ in range(count)]
    push = (Push(layer, vector, 1.0),)
    rows = [Asked(prompt, seed * count + i, push) for i, prompt in enumerate(prompts)]
    written = generate(lm, rows, Sampling(24, 1.0), "response")
    return [
        Text(f"pos:{seed}:{i}", "pos", i, p, c.ids)
        for i, (p, c) in enumerate(zip(prompts, written, strict=True))
        if c.ids
    ]


def test_traits_that_share_passes_learn_what_each_learns_alone_and_go_on_by_themselves(llama, tmp_path):
    """Two traits with other texts, layers and lengths; the second ends early. What was kept of both serves each."""
    options = replace(QUICK, steps=12, epochs=3.0)

    def task(name: str, seed: int, layer: int, count: int) -> Task:
        train, val = texts_of(llama, count, seed=seed), texts_of(llama, 4, seed=seed + 50)
        train, val = (
            [replace(t, key=f"{seed}/{n}/{t.key}") for t in part] for n, part in enumerate((train, val))
        )
        starts = [Start(layer, 0.05, 0, 5.0), Start(layer, 0.1, 1, 5.0)]
        return Task(LikelyText(Texts(train, val, [])), starts, Progress(Journal(tmp_path / f"{name}{seed}")))

    def tasks(name: str) -> list[Task]:
        return [task(name, 1, 1, 16), task(name, 2, 2, 8)]

    both = tasks("both")
    layers = [start.layer for t in both for start in t.starts]
    runs = learn_all(passes_of(llama, layers), both, options, "")
    assert [run.done for run in runs] == [12, 6]

    for alone, known in zip(tasks("alone"), tasks("both"), strict=True):
        layers = [start.layer for start in alone.starts]
        wanted = learn(passes_of(llama, layers), alone, options)
        found = learn(passes_of(llama, layers), known, options)  # all its steps are taken
        for one, other in zip(wanted, found, strict=True):
            assert torch.cosine_similarity(one.values, other.values, dim=0) > 0.9999
            assert one.course.best_loss == pytest.approx(other.course.best_loss, rel=1e-4)
            assert one.course.tokens_seen == other.course.tokens_seen


@pytest.mark.parametrize("free_norm", [False, True])
def test_a_teachers_vector_is_found_in_the_texts_that_it_wrote(llama, tmp_path, free_norm):
    layer, mean_norm = 1, 8.0
    direction = torch.randn(llama.d_model, generator=torch.Generator().manual_seed(3))
    vector = direction / direction.norm() * 0.5 * mean_norm
    texts = Texts(taught(llama, vector, layer, 256, 1), taught(llama, vector, layer, 32, 2), [])
    options = replace(
        QUICK, free_norm=free_norm, steps=120, texts_a_step=32, train_doses=(0.5,), schedule="cosine"
    )

    passes = passes_of(llama, [layer], positions="response")
    learned = learnt(
        passes,
        LikelyText(texts),
        [Start(layer, 0.1, 0, mean_norm)],
        options,
        Progress(Journal(tmp_path / "j")),
    )[0]

    assert torch.cosine_similarity(learned.values, vector, dim=0) > 0.95
    assert learned.course.best_loss < learned.plain_loss
    if free_norm:
        assert float(learned.values.norm()) == pytest.approx(float(vector.norm()), rel=0.5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_removal_takes_away_what_points_along_the_vector_and_nothing_else(llama, sign):
    """Each row of a mixed batch costs what it costs alone in a plain pass of the whole model."""
    from traitscope.utils.model.anatomy import hidden_of, layers, with_hidden

    texts = texts_of(llama, 2)
    passes = passes_of(llama, [1])
    passes.read(texts)
    states = passes.known[texts[0].key][2]
    vector = sign * (states + 0.1 * torch.randn(llama.d_model, generator=torch.Generator().manual_seed(1)))
    removed, pushed = Row(texts[0], 0, 0.3, removes=True), Row(texts[1], 0, 0.3)
    found = passes.losses(vector[None], [Unit((removed, pushed), (texts[0],), 0)])[0]

    def project(_module, _inputs, output):
        hidden, unit = hidden_of(output).clone(), vector / vector.norm()
        hidden[:, 1:] -= torch.relu(hidden[:, 1:] @ unit)[..., None] * unit
        return with_hidden(output, hidden)

    handle = layers(llama.model)[1].register_forward_hook(project)
    wanted = plain_costs(llama, texts[0])
    handle.remove()
    assert torch.allclose(found[0], wanted, atol=1e-4)
    assert torch.allclose(found[1], plain_costs(llama, texts[1], Push(1, vector, 0.3)), atol=1e-4)
    assert torch.allclose(found[0], plain_costs(llama, texts[0]), atol=1e-4) == (
        not (passes.known[texts[0].key][1:] @ vector > 0).any()
    )


def test_nothing_is_removed_along_a_vector_of_zeros_and_its_gradient_is_finite(llama):
    text = texts_of(llama, 1)[0]
    passes = passes_of(llama, [1])
    passes.read([text])
    vectors = torch.zeros(1, llama.d_model, requires_grad=True)
    costs = passes.losses(vectors, [Unit((Row(text, 0, 1.0, removes=True),), (text,), 0)])[0][0]
    costs.sum().backward()
    assert torch.equal(costs.detach(), plain_costs(llama, text))
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("opposite", ["negative", "null"])
def test_of_two_answers_the_vector_prefers_the_one_and_its_opposite_the_other(llama, tmp_path, opposite):
    layer, mean_norm = 1, 8.0
    direction = torch.randn(llama.d_model, generator=torch.Generator().manual_seed(3))
    vector = direction / direction.norm() * 0.5 * mean_norm

    def answers(seed, count):
        up = taught(llama, vector, layer, count, seed)
        down = taught(llama, -vector if opposite == "negative" else 0 * vector, layer, count, seed)
        return [*up, *(replace(t, key=f"neg{t.key}", side="neg") for t in down)]

    objective = PreferredAnswer(Texts(answers(1, 128), answers(2, 16), []), opposite)
    options = replace(QUICK, steps=80, texts_a_step=16, train_doses=(0.5,))
    passes = passes_of(llama, [layer], positions="response")
    learned = learnt(
        passes, objective, [Start(layer, 0.1, 0, mean_norm)], options, Progress(Journal(tmp_path / "j"))
    )[0]

    assert torch.cosine_similarity(learned.values, vector, dim=0) > 0.8
    assert learned.course.best_loss < learned.plain_loss


def test_the_divergence_from_a_told_model_is_that_of_its_whole_distribution(llama, monkeypatch):
    """With all tokens told apart it is exact; with some it is a little less (the others are taken as one)."""
    text = replace(texts_of(llama, 1)[0], told_ids=[9, 8, 7, 6, 5])
    n = len(text.response_ids)
    with torch.no_grad():
        told, plain = (
            torch.log_softmax(llama.model(input_ids=torch.tensor([ids])).logits[0, -n - 1 : -1], -1)
            for ids in (text.told_ids + text.response_ids, text.ids)
        )
    exact = (told.exp() * (told - plain)).sum(-1)

    found = {}
    for size in (64, llama.n_tokens):
        monkeypatch.setattr("traitscope.utils.model.steered_costs.TOLD", size)
        passes = passes_of(llama, [1])
        passes.read([text])
        passes.teach([text])
        found[size] = passes.losses(torch.zeros(1, llama.d_model), [Unit((Row(text, 0, 1.0),), (text,), 0)])[
            0
        ][0]
    assert torch.allclose(found[llama.n_tokens], exact, atol=1e-4)
    assert (found[64] <= exact + 1e-4).all()
    assert (found[64] >= 0.2 * exact).all()


def test_a_model_that_is_told_by_a_vector_is_followed_by_it(llama, tmp_path):
    """The told model here is the same model under a vector, so that the vector is what being told does."""
    layer, mean_norm = 1, 8.0
    direction = torch.randn(llama.d_model, generator=torch.Generator().manual_seed(3))
    vector = direction / direction.norm() * 0.5 * mean_norm
    train, val = (
        [replace(t, told_ids=t.prompt_ids) for t in texts_of(llama, n, seed=s)] for n, s in ((48, 1), (12, 2))
    )

    class Steered(ToldModel):
        def begin(self, passes):
            with steer(llama.model, [(Push(layer, vector, 1.0),)], "all"):
                super().begin(passes)
            passes.known.clear()
            passes.read([*train, *val])

    options = replace(QUICK, steps=120, texts_a_step=16, train_doses=(0.5,))
    start = [Start(layer, 0.1, 0, mean_norm)]
    learned = learnt(
        passes_of(llama, [layer]),
        Steered(Texts(train, val, [])),
        start,
        options,
        Progress(Journal(tmp_path / "j")),
    )[0]
    assert torch.cosine_similarity(learned.values, vector, dim=0) > 0.95
    assert learned.course.best_loss < 0.2 * learned.plain_loss


def test_the_preference_loss_is_its_formula(llama):
    pos, neg = texts_of(llama, 1)[0], texts_of(llama, 1, seed=5, side="neg")[0]
    neg = replace(neg, prompt_ids=pos.prompt_ids)
    objective = PreferredAnswer(Texts([pos, neg], [pos, neg], []))
    objective._totals = {pos.key: -40.0, neg.key: -30.0}
    costs = [torch.tensor([c, c + 0.2]) for c in (1.0, 2.0, 3.0, 1.5)]  # S: −1.1, −2.1, −3.1, −1.6

    sigmoid = torch.sigmoid
    wanted = -torch.log(sigmoid(torch.tensor(10 * -1.1 + 2.1))) - torch.log(
        sigmoid(torch.tensor(1 * -1.6 + 3.1))
    )
    assert float(objective.loss((pos, neg), costs)) == pytest.approx(float(wanted), rel=1e-5)


def test_pairs_are_answers_of_both_sides_to_one_prompt(llama):
    pos, neg = texts_of(llama, 4), texts_of(llama, 4, side="neg")
    neg = [replace(text, response_ids=text.response_ids[::-1]) for text in neg]
    assert [(p.key, n.key) for p, n in pair_up([*pos[:3], *neg[1:]])] == [
        ("pos:1", "neg:1"),
        ("pos:2", "neg:2"),
    ]
    same = [replace(n, response_ids=p.response_ids) for p, n in zip(pos, neg, strict=True)]
    with pytest.raises(UserError, match="no prompt here has different answers of both sides"):
        pair_up([*pos, *same])
    with pytest.raises(UserError, match="no prompt here has different answers of both sides"):
        pair_up(pos)


@pytest.mark.parametrize("seed", range(5))
def test_budgets_are_filled_by_whole_groups_that_are_in_one_part_alone(llama, seed):
    texts = [replace(t, group=i // 3, key=f"{i}") for i, t in enumerate(texts_of(llama, 60))]
    found = fill_budgets(texts, 150, 60, seed)
    parts = (found.train, found.val, found.left)

    assert sorted(t.key for part in parts for t in part) == sorted(t.key for t in texts)
    groups = [{t.group for t in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    tokens = [sum(len(t.response_ids) for t in part) for part in parts]
    assert 150 <= tokens[0] < 150 + 30
    assert 60 <= tokens[1] < 60 + 30
    assert found.as_json()["left_tokens"] == tokens[2]
    assert found == fill_budgets(texts, 150, 60, seed)


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        (10_000, 0, "540 response tokens in all, which gives .* of 10000 training tokens"),
        (0, 10_000, "540 of 10000 validation tokens"),
        (100_000, 10_000, "540 of 10000 validation tokens and 0 of 100000 training tokens"),
    ],
)
def test_a_budget_that_the_texts_cannot_fill_says_what_there_is(llama, train, val, says):
    texts = texts_of(llama, 60)
    assert sum(len(t.response_ids) for t in texts) == 540
    with pytest.raises(UserError, match=says):
        fill_budgets(texts, train, val, 0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_texts_are_refused_in_one_line(llama, count):
    with pytest.raises(UserError, match=f"there are {count} texts") as caught:
        fill_budgets(texts_of(llama, count), 0, 0, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_rises_over_the_warmup_and_then_falls_as_its_schedule_says(schedule):
    options = TrainOptions(schedule=schedule, warmup=5)
    factors = [factor_at(step, 100, options) for step in range(100)]
    assert factors[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert factors[5] == 1
    assert factors[-1] == pytest.approx({"constant": 1, "linear": 1 / 95, "cosine": 0}[schedule], abs=1e-3)
    assert factors[52] == pytest.approx({"constant": 1, "linear": 48 / 95, "cosine": 0.5}[schedule], abs=0.02)


def test_a_run_shorter_than_its_warmup_still_reaches_the_full_rate():
    assert factor_at(2, 3, TrainOptions(warmup=50)) == 1


def test_scripted_losses_end_a_vector_at_the_right_step_and_keep_the_right_one():
    course = Course()
    best = [
        step
        for step, loss in enumerate([5, 4, 4.5, 3, 3.5, 3.2, 3.1, 1])
        if not course.ended and course.look(step, None, loss, 3)
    ]
    assert best == [0, 1, 3]
    assert (course.best_step, course.best_loss, course.ended) == (3, 3, "no lower loss in 3 validations")


def test_a_loss_that_is_not_finite_ends_that_vector_alone():
    course = Course()
    course.look(0, None, 2.0, 3)
    assert not course.look(10, None, float("nan"), 3)
    assert "not finite at step 10" in course.ended
    assert course.best_step == 0


def scripted(monkeypatch, losses: dict[int, list[float]]) -> None:
    """Let the vectors' validations find these losses, one after the other."""
    given = {i: iter(values) for i, values in losses.items()}
    monkeypatch.setattr(
        Learning,
        "mean_losses",
        lambda self, found: {i: next(given[i]) for i in dict.fromkeys(u.vector for u, _ in found.losses)},
    )


def test_the_best_vector_is_restored_and_one_that_ended_stands_still(llama, tmp_path, monkeypatch):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])
    starts = [Start(1, 0.05, 0, 5.0), Start(1, 0.05, 0, 5.0)]
    falling, rising = [10.0 - i for i in range(20)], [5.0, 4.0, *(9.0 for _ in range(20))]
    scripted(monkeypatch, {0: falling, 1: rising})
    kept = {}
    look = Learning.validate

    def validate(self, step, *given):
        looks = look(self, step, *given)
        kept[step] = [p.detach().clone() for p in self.parameters]
        return looks

    monkeypatch.setattr(Learning, "validate", validate)
    options = replace(QUICK, steps=20, patience=3)
    learned = learnt(
        passes_of(llama, [1, 1]), LikelyText(texts), starts, options, Progress(Journal(tmp_path / "j"))
    )

    assert [v.course.best_step for v in learned] == [20, 2]
    assert learned[1].course.ended == "no lower loss in 3 validations"
    for vector, step in enumerate((20, 2)):
        cosine = torch.cosine_similarity(learned[vector].values, kept[step][vector], dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-6)
    assert torch.equal(kept[8][1], kept[20][1])
    assert not torch.equal(kept[8][0], kept[20][0])


def test_validation_is_asked_at_least_eight_times_however_short_the_run(llama, tmp_path):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])
    learned = learnt(
        passes_of(llama, [1]),
        LikelyText(texts),
        [Start(1, 0.01, 0, 5.0)],
        replace(QUICK, steps=9),
        Progress(Journal(tmp_path / "j")),
    )[0]
    assert len(learned.course.losses) >= 8
    assert [step for step, *_ in learned.course.losses] == sorted(
        {step for step, *_ in learned.course.losses}
    )


@pytest.mark.parametrize("free_norm", [False, True])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(llama, tmp_path, monkeypatch, free_norm):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])
    starts = [Start(1, 0.02, seed, 5.0) for seed in (0, 1)]
    options = replace(QUICK, steps=20, free_norm=free_norm, patience=3)

    def run(name):
        return learnt(
            passes_of(llama, [1, 1]), LikelyText(texts), starts, options, Progress(Journal(tmp_path / name))
        )

    whole = run("whole")
    steps = 0
    own = Learning.step

    def step(self, *given):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        own(self, *given)

    monkeypatch.setattr(Learning, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    monkeypatch.setattr(Learning, "step", own)
    resumed = run("killed")

    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.values, other.values)
        assert one.course == other.course
    assert (tmp_path / "killed").stat().st_size < 60_000


def test_another_training_does_not_go_on_from_this_one(llama, tmp_path):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])
    others = Texts(texts_of(llama, 8, seed=4), texts.val, [])
    journal = Journal(tmp_path / "j")
    start, options = [Start(1, 0.02, 0, 5.0)], replace(QUICK, steps=10)

    def run(texts, options, journal):
        return learnt(passes_of(llama, [1]), LikelyText(texts), start, options, Progress(journal))[0]

    run(texts, options, journal)
    for given in ((others, options), (texts, replace(options, learning_rates=(1.0,)))):
        fresh = run(*given, Journal(tmp_path / "fresh"))
        assert torch.equal(run(*given, journal).values, fresh.values)
        (tmp_path / "fresh").unlink()


def test_parameters_stay_float32_under_a_model_of_sixteen_bits(tmp_path, tiny_folders):
    lm = load_lm(ModelOptions(model=tiny_folders["llama"], device="cpu", dtype="bfloat16"))
    texts = Texts(texts_of(lm, 8), texts_of(lm, 4, seed=9), [])
    objective, options = LikelyText(texts), replace(QUICK, steps=4)
    going = begun(passes_of(lm, [1]), objective, options, 1e-4)
    before = going.parameters[0].detach().clone()
    take_step(going, 0)

    assert going.parameters[0].dtype == torch.float32
    moved = going.parameters[0].detach() - before
    assert 0 < moved.norm() < 1e-2  # so little that sixteen bits would hide it
    assert all(p.grad is None for p in lm.model.parameters())


def test_a_direction_keeps_its_length_and_a_free_vector_stays_within_its_bound(llama):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])
    root = llama.d_model**0.5
    for free_norm in (False, True):
        objective, options = LikelyText(texts), replace(QUICK, steps=10, free_norm=free_norm)
        going = begun(passes_of(llama, [1]), objective, options)
        factors = [factor_at(step, 10, options) for step in range(10)]
        for step, factor in enumerate(factors):
            take_step(going, step, factor)
        length = float(going.parameters[0].detach().norm())
        if free_norm:  # ‖v‖ ≤ lr · m · Σ schedule, a bound on the dose
            assert 0 < length * going.force(0, 0.0) <= 0.1 * 5.0 * sum(factors) * 1.05
        else:
            assert length == pytest.approx(root, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"learning_rates": ()}, "--learning-rates"),
        ({"learning_rates": (0.1, -0.1)}, "--learning-rates"),
        ({"steps": 0}, "--steps"),
        ({"texts_a_step": 0}, "--texts-a-step"),
        ({"train_doses": (0.0,)}, "--train-doses"),
        ({"patience": -1}, "--patience"),
        ({"epochs": -1.0}, "--epochs"),
        ({"train_seeds": 0}, "--train-seeds"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(given, says):
    with pytest.raises(UserError, match=says):
        replace(TrainOptions(), **given).check()


def test_when_nothing_stays_finite_one_line_says_so(llama, tmp_path, monkeypatch):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])
    scripted(monkeypatch, {0: [float("nan")] * 5})
    with pytest.raises(UserError, match="nothing was learnt: the loss was not finite at step 0"):
        learnt(
            passes_of(llama, [1]),
            LikelyText(texts),
            [Start(1, 0.1, 0, 5.0)],
            QUICK,
            Progress(Journal(tmp_path / "j")),
        )


def test_memory_that_runs_out_halves_the_pass_and_changes_nothing(llama, tmp_path, monkeypatch):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])

    def run(name):
        start = [Start(1, 0.02, 0, 5.0)]
        return learnt(
            passes_of(llama, [1]), LikelyText(texts), start, QUICK, Progress(Journal(tmp_path / name))
        )[0]

    whole = run("whole")
    own = Passes.losses

    def scarce(self, vectors, units):
        if len(units) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return own(self, vectors, units)

    monkeypatch.setattr(Passes, "losses", scarce)
    assert torch.cosine_similarity(run("halved").values, whole.values, dim=0) > 0.9999


def test_a_vector_whose_loss_ceases_to_be_finite_costs_the_others_nothing_not_even_a_resumption(
    llama, tmp_path, monkeypatch
):
    texts = Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), [])
    starts = [Start(1, 0.02, 0, 5.0), Start(1, 0.02, 1, 5.0)]
    options = replace(QUICK, steps=20)

    def run(name):
        return learnt(
            passes_of(llama, [1, 1]), LikelyText(texts), starts, options, Progress(Journal(tmp_path / name))
        )

    sound = run("sound")
    own_losses, own_step, steps = Passes.losses, Learning.step_units, []

    def spoiled(self, vectors, units):
        found = own_losses(self, vectors, units)
        is_late = len(steps) > 5 and torch.is_grad_enabled()
        return [
            [c * float("nan") if is_late and u.vector == 1 else c for c in costs]
            for u, costs in zip(units, found, strict=True)
        ]

    def step(self, *given):
        steps.append(given[0])
        if len(steps) == 15:
            raise KeyboardInterrupt
        return own_step(self, *given)

    monkeypatch.setattr(Passes, "losses", spoiled)
    monkeypatch.setattr(Learning, "step_units", step)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    resumed = run("killed")
    assert steps[15] == 14  # from the last validation, where one vector was lost already
    assert resumed[1].course.ended == "the gradient was not finite"
    assert torch.cosine_similarity(resumed[0].values, sound[0].values, dim=0) > 0.9999
    assert resumed[1].values.isfinite().all()
    assert resumed[0].plain_loss == pytest.approx(sound[0].plain_loss)


def test_the_unsteered_loss_is_the_models_own(lm, tmp_path):
    texts = Texts(texts_of(lm, 8), texts_of(lm, 4, seed=9), [])
    learned = learnt(
        passes_of(lm, [1]),
        LikelyText(texts),
        [Start(1, 0.02, 0, 5.0)],
        QUICK,
        Progress(Journal(tmp_path / "j")),
    )[0]
    plain = torch.cat([plain_costs(lm, text) for text in texts.val]).mean()
    assert learned.plain_loss == pytest.approx(float(plain), rel=1e-4)


def test_the_gradient_turns_a_direction_and_does_not_stretch_it(llama):
    objective = LikelyText(Texts(texts_of(llama, 8), texts_of(llama, 4, seed=9), []))
    going = begun(passes_of(llama, [1]), objective, QUICK)
    before = going.parameters[0].detach().clone()
    take_step(going, 0)
    own = going.parameters[0].grad
    assert own.norm() > 0
    assert abs(torch.cosine_similarity(own, before, dim=0)) < 1e-4


def test_a_learning_rate_that_lost_a_seed_comes_after_one_that_lost_none():
    def learned(rate: float, seed: int, loss: float) -> Learned:
        course = Course(best_loss=loss)
        return Learned(Start(1, rate, seed, 5.0), torch.ones(4), course, 3.0, {})

    lucky, lost = learned(0.1, 0, 1.0), learned(0.1, 1, float("inf"))
    steady = [learned(0.03, seed, 2.0 - seed / 10) for seed in (0, 1)]
    assert choose([lucky, lost, *steady]) == [steady[1]]
    assert choose([lucky, *steady]) == [lucky]
    with pytest.raises(UserError, match="nothing was learnt at layer 1"):
        choose([lost])
