"""What a small language model makes of a text: the states in which it leaves the embedded chat model.

A sentence embedding says what a text is about; "nobody should hope" and "everybody should hope" are neighbours
there. A model that predicts the next word has to know which of them was said. Its upper middle layers hold
that where a sentence ends.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from traitscope.utils.model.cpu import speed_up_linear_layers
from traitscope.utils.model.gguf import converted, embedded_gguf

READER = "SmolLM2-135M-Instruct"
LONGEST = 256  # tokens of a text that are read
# layers whose output is read, of 30: the mean of all tokens, and twice the mean of those that end a sentence
WHOLE, ENDS = 16, (18, 22)
SHAPE = (1 + len(ENDS), 576)
_CHARACTERS = 8 * LONGEST  # a token has four or so: what lies behind is not even cut into tokens
_STOPS = (".", "!", "?", ":", ";")


@cache
def _model() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder = converted(embedded_gguf())
    # the layers above the last that is read are not even loaded
    model = AutoModel.from_pretrained(folder, num_hidden_layers=max(ENDS), dtype=torch.float32).eval()
    model.norm = nn.Identity()  # belongs behind the last layer of all
    speed_up_linear_layers(model)
    return AutoTokenizer.from_pretrained(folder), model


def read_texts(texts: Sequence[str]) -> np.ndarray:
    """Return the states that texts leave, [n, 3, 576]; no text is blank.

    Padding changes the last bits of a state, so each text is read alone: its score cannot depend on its
    neighbours.
    """
    return np.stack([_read(text.strip()[:_CHARACTERS]) for text in texts])


@cache
def _read(text: str) -> np.ndarray:
    tokenizer, model = _model()
    # a text that spells a control token is a text
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids[:LONGEST]
    with torch.inference_mode():
        states = model(
            input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False
        ).hidden_states

    # the first token, an attention sink, says nothing but that it is the first
    whole = states[WHOLE][0, min(1, len(ids) - 1) :].mean(0)
    ends = _ends(tokenizer.convert_ids_to_tokens(ids))
    return np.stack([whole.numpy(), *(states[layer][0, ends].mean(0).numpy() for layer in ENDS)])


def _ends(tokens: Sequence[str]) -> list[int]:
    """Return where sentences end, the last token always among them."""
    last = len(tokens) - 1
    return [i for i, token in enumerate(tokens) if i == last or (i and token.endswith(_STOPS))]
