"""A key–value cache that grows into room set aside, where transformers' own copies everything so far for every new token."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values: views of larger tensors, [batch, heads, room, head_dim], that new tokens are written into."""

    def __init__(self, room: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.room = room  # tokens to come, when the next tensor is made
        self._whole: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, [batch, heads, new, head_dim], and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        old, new = self.get_seq_length(), key_states.shape[-2]
        if self._whole is None or not _is_part(self.keys, self._whole[0]) or old + new > self._whole[0].shape[-2]:
            self._whole = _widen(self.keys, key_states, old, self.room), _widen(self.values, value_states, old, self.room)
        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[..., old : old + new, :] = states
        self.keys, self.values = (whole[..., : old + new, :] for whole in self._whole)
        return self.keys, self.values


def make_room(cache: DynamicCache | None, config: Any, room: int) -> DynamicCache:
    """Return a cache (a new one for None) whose ordinary layers have room for so many further tokens; windowed layers stay as they are."""
    cache = cache or DynamicCache(config=config)
    cache.layers = [_with_room(layer, room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _with_room(layer: DynamicLayer, room: int) -> RoomyLayer:
    roomy = RoomyLayer(room)
    vars(roomy).update(vars(layer))
    return roomy


def _is_part(states: Tensor, whole: Tensor) -> bool:
    """Tell whether these are still the states that lie in `whole`, and not a selection or a copy of them."""
    return states.data_ptr() == whole.data_ptr() and states.shape[0] == whole.shape[0]


def _widen(states: Tensor, new: Tensor, old: int, room: int) -> Tensor:
    whole = new.new_empty((*new.shape[:-2], old + new.shape[-2] + room, new.shape[-1]))
    if old:
        whole[..., :old, :] = states
    return whole
