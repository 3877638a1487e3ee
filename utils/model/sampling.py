"""Exact sampling whose draw depends on nothing but a row's seed, the step and the token: not on the batch, its order
or the device.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from traitscope.utils.files.journal import key_of

NOISE = "hashed noise"  # the name of the way in which it is drawn
AT_A_TIME = {"cpu": 1 << 18}  # numbers that are drawn at once: on a CPU, what its caches hold
MANY = 1 << 26  # elsewhere


class GumbelNoise(LogitsProcessor):
    """Turns greedy choice into exact sampling at a temperature: argmax(logits / T + Gumbel noise) is a draw from the
    softmax (Gumbel-max trick: Maddison, Tarlow, Minka 2014).

    The noise of a token is a hash of (seed, step, token), computed where the logits are: nothing is drawn in order.
    """

    def __init__(self, seeds: list[int], temperature: float, prompt_width: int) -> None:
        self.seeds, self.temperature, self.prompt_width = seeds, temperature, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [rows, vocabulary] whose largest is the token drawn."""
        step, size = input_ids.shape[1] - self.prompt_width, scores.shape[1]
        keys = torch.tensor([_words(key_of(seed, step)) for seed in self.seeds], dtype=torch.int32)
        keys, noised = keys.to(scores.device), scores.float() / self.temperature

        rows = max(1, AT_A_TIME.get(scores.device.type, MANY) // size)
        for part, own in zip(noised.split(rows), keys.split(rows), strict=True):
            part += gumbel(own, size)
        return noised


def _words(key: str) -> tuple[int, int]:
    """Return the first 64 bits of a key as two signed whole numbers of 32 bits."""
    high, low = (int(key[i : i + 8], 16) for i in (0, 8))
    return _signed(high), _signed(low)


def gumbel(keys: Tensor, size: int) -> Tensor:
    """Return standard Gumbel noise [n, size], float32, of keys [n, 2]: of every number below `size` its own.

    A number is mixed with one word of the key and then with the other, each time as MurmurHash3 ends (Appleby 2011).
    """
    numbers = torch.arange(1, size + 1, dtype=torch.int32, device=keys.device) * _signed(0x9E3779B1)
    bits = _mix(numbers ^ keys[:, :1])
    bits = _mix(bits.bitwise_xor_(keys[:, 1:]))

    # not as signed numbers: near 0, from where the largest noise comes, float32 must tell them apart
    share = _shifted(bits, 1).float().add_(0.5).mul_(2.0**-31)
    exponential = share.clamp_(max=1 - 2.0**-24).neg_().log1p_().neg_()
    return exponential.log_().neg_()


def _mix(bits: Tensor) -> Tensor:
    """Mix the bits of whole numbers of 32 bits, in place."""
    bits ^= _shifted(bits, 16)
    bits *= _signed(0x85EBCA6B)
    bits ^= _shifted(bits, 13)
    bits *= _signed(0xC2B2AE35)
    bits ^= _shifted(bits, 16)
    return bits


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros; torch's own shift repeats the sign."""
    return (bits >> by).bitwise_and_((1 << (32 - by)) - 1)


def _signed(word: int) -> int:
    """Return 32 bits as torch counts them."""
    return word - (1 << 32) if word >> 31 else word
