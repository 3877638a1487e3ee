"""Key–value caches that do not copy everything so far for every new token, as transformers' own does: one
grows into room set aside, one never moves.
"""

from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values: views of larger tensors, [batch, heads, room, head_dim], that new
    tokens are written into.
    """

    def __init__(self, room: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.room = room  # tokens to come, when the next tensor is made
        self._whole: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values, [batch, heads, new, head_dim], and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        old, new = self.get_seq_length(), key_states.shape[-2]
        if (
            self._whole is None
            or not _is_part(self.keys, self._whole[0])
            or old + new > self._whole[0].shape[-2]
        ):
            self._whole = (
                _widen(self.keys, key_states, old, self.room),
                _widen(self.values, value_states, old, self.room),
            )

        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[..., old : old + new, :] = states
        self.keys, self.values = (whole[..., : old + new, :] for whole in self._whole)
        return self.keys, self.values


def make_room(cache: DynamicCache | None, config: Any, room: int) -> DynamicCache:
    """Return a cache (a new one for None) whose ordinary layers have room for so many further tokens;
    windowed layers stay as they are.
    """
    cache = cache or DynamicCache(config=config)
    cache.layers = [
        _with_room(layer, room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
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


class FixedLayer(CacheLayerMixin):
    """One layer's keys and values in tensors that never move, [batch, heads, slots, head_dim]; a tensor
    says which slot the next token takes.

    Args:
        slot: [1], counted from the batch's first token, and advanced by whoever decodes.
        first: The slot that the tensors begin with: a window has dropped those before.
    """

    keys: Tensor
    values: Tensor
    # so that transformers builds masks for all slots, and never looks at a value to see whether it can do
    # without
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor, first: int, is_sliding: bool) -> None:
        super().__init__()
        self.keys, self.values, self.slot, self.first, self.is_sliding = keys, values, slot, first, is_sliding
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: a fixed layer begins filled."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values, [batch, heads, 1, head_dim], and return all slots; the mask
        closes those still to come.
        """
        place = self.slot - self.first if self.first else self.slot
        self.keys.index_copy_(2, place, key_states)
        self.values.index_copy_(2, place, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many slots a mask covers, and which is the first."""
        return self.get_max_length(), self.first

    def get_seq_length(self) -> int:
        """Return how many tokens came before."""
        return self.slot  # type: ignore[return-value]  # a tensor, as transformers' own static layers give

    def get_max_length(self) -> int:
        """Return the number of slots."""
        return self.keys.shape[-2]


def fix(cache: DynamicCache, slot: Tensor, slots: int) -> list[FixedLayer]:
    """Turn the layers of a filled cache, which `make_room` made, into fixed ones with so many slots, and
    return them.

    What already lies in its own room stays there; a windowed layer is copied, one at a time.
    """
    for i, layer in enumerate(cache.layers):
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        first = layer.get_seq_length() - layer.keys.shape[-2]
        wholes = (isinstance(layer, RoomyLayer) and layer._whole) or (None, None)
        keys, values = (
            _fill(states, whole, slots - first)
            for states, whole in zip((layer.keys, layer.values), wholes, strict=True)
        )
        cache.layers[i] = FixedLayer(keys, values, slot, first, layer.is_sliding)
    return cache.layers  # type: ignore[return-value]


def _fill(states: Tensor, whole: Tensor | None, slots: int) -> Tensor:
    """Return states followed by zeros, where they lie if that has the size: a masked slot still is
    multiplied by zero, so it must be finite.
    """
    old = states.shape[-2]
    if whole is None or whole.shape[-2] != slots:
        return nn.functional.pad(states, (0, 0, 0, slots - old))
    whole[..., old:, :] = 0
    return whole
