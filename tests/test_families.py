"""Any causal language model: what it writes, reads and is steered to, against the plainest way to get the same;
or one line that says why not.
"""

import re
from contextlib import suppress

import pytest
from families import FAMILIES, build

from traitscope.inference.checking.model_check import _check_parts, check_model
from traitscope.utils.errors import UserError
from traitscope.utils.model.admission import Habits
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.model.parts import parts_of

# the fast suite has few; each is here for what it alone does differently
FEW = (
    "gpt2",  # other names of sizes, positions that are learned
    "qwen3_5_text",  # layers that keep a state, no keys
)
REFUSED = {
    "gemma3n_text": r"block 0 puts out \(2, 1, 10, 32\), not one residual stream",
    "deepseek_v4": "not one residual stream",
    "deepseek_v32": "looks at what scores highest",
    "roberta": "in generation it reads a text otherwise",
    "paligemma": "look at those that come after",
    "xlnet": "does not run with this transformers",
    # settings that this transformers itself cannot build or run: other settings of the family stand beside them
    "zamba2": "layer_types",
    "granitemoehybrid_dense": "mamba_n_heads must divide",
    "longcat": "does not run with this transformers",
    "kimi_linear": "does not run with this transformers",
}
# their parts do not sum: normalised after the sum, further parts, or none but one
WITHOUT_PARTS = {
    *(
        "opt",
        "opt_proj",
        "llama4_text",
        "llama4",
        "mamba",
        "mamba2",
        "falcon_mamba",
        "falcon_h1",
        "rwkv",
        "minimax",
        "bert",
    ),
    *(
        "gemma4_text",
        "gemma4_text_shared",
        "gemma4",
        "gpt1",
        "zamba2_layers",
        "longcat_heads",
        "lfm3",
        "nemotron_h",
    ),
}


def refusal(folder, name: str) -> str:
    """Return why a family is refused when it is loaded, "" where it is not; its abilities are checked then."""
    if name in REFUSED:
        with suppress(Exception):  # transformers refuses some of these settings, and so must we
            build(folder, name)
    else:
        build(folder, name)

    try:
        lm = load_lm(ModelOptions(model=str(folder), device="cpu"))
    except UserError as error:
        return str(error)
    findings = {finding.what: finding for finding in check_model(lm)}
    assert all(finding.is_right for finding in findings.values()), findings
    assert findings["parts"].is_refused == (name in WITHOUT_PARTS), findings["parts"]
    return ""


@pytest.mark.parametrize("name", FEW)
def test_a_family_is_exact(name, tmp_path):
    assert refusal(tmp_path / name, name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "bloom",  # the MLP adds the stream itself
        "olmo2",  # normalised after attention and MLP
        "granite_mult",  # both are scaled
    ],
)
def test_the_parts_of_a_block_sum_to_its_change(name, tmp_path):
    lm = load_lm(ModelOptions(model=str(build(tmp_path, name)), device="cpu"))
    found = _check_parts(lm)
    assert found.is_right
    assert not found.is_refused


def test_rows_that_do_not_stay_apart_are_fed_one_at_a_time(tmp_path):
    lm = load_lm(ModelOptions(model=str(build(tmp_path, "rwkv")), device="cpu"))
    assert lm.habits == Habits(keeps_tokens=False, rows="single", takes_steps=False)


def test_what_was_written_before_does_not_change_what_is_written_next(tmp_path):
    """RecurrentGemma keeps its state inside itself, and goes on from it where a prompt is one token long."""
    lm = load_lm(ModelOptions(model=str(build(tmp_path, "recurrent_gemma")), device="cpu"))
    assert not lm.habits.forgets
    first = generate(lm, [Row([70])], Sampling(6))
    generate(lm, [Row([80, 90, 100, 110])], Sampling(6))
    assert generate(lm, [Row([70])], Sampling(6)) == first


def test_a_component_is_refused_where_the_parts_do_not_sum(tmp_path):
    lm = load_lm(ModelOptions(model=str(build(tmp_path, "minimax")), device="cpu"))
    with pytest.raises(UserError, match="--component mlp_out: in MiniMaxForCausalLM, layer 0"):
        parts_of(lm.model, "mlp_out")


@pytest.mark.parametrize("name", ["gemma3n_text", "roberta", "paligemma"])
def test_a_family_that_cannot_be_used_is_refused_when_it_loads(name, tmp_path):
    assert re.search(REFUSED[name], refusal(tmp_path / name, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(FEW)))
def test_every_family_is_exact_or_refused_in_one_line(name, tmp_path):
    said = refusal(tmp_path / name, name)
    assert "\n" not in said
    assert bool(said) == (name in REFUSED), said
    assert re.search(REFUSED.get(name, ""), said)
