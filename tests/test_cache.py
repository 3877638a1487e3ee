"""A cache with room set aside holds what transformers' own holds, and copies nothing while there is room."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from traitscope.utils.model.cache import RoomyLayer, make_room


def states(n: int, seed: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = torch.randn(2, batch, 3, n, 4, generator=torch.Generator().manual_seed(seed))
    return keys, values


def assert_same(roomy: RoomyLayer, plain: DynamicLayer) -> None:
    assert torch.equal(roomy.keys, plain.keys)
    assert torch.equal(roomy.values, plain.values)
    assert roomy.get_seq_length() == plain.get_seq_length()


def test_it_holds_what_the_plain_layer_holds_beyond_its_room_as_well():
    roomy, plain = RoomyLayer(3), DynamicLayer()
    for i, n in enumerate((5, 1, 1, 1, 1, 1, 4, 1)):
        for layer in (roomy, plain):
            keys, values = layer.update(*states(n, i))
            assert torch.equal(keys, layer.keys)
            assert torch.equal(values, layer.values)
        assert_same(roomy, plain)


def test_nothing_moves_while_there_is_room():
    layer = RoomyLayer(4)
    layer.update(*states(5, 0))
    places = set()
    for i in range(4):
        layer.update(*states(1, i))
        places.add(layer.keys.data_ptr())
    assert len(places) == 1


@pytest.mark.parametrize("change", ["select", "repeat", "crop", "same rows"])
def test_what_changes_the_rows_or_the_length_is_followed(change):
    roomy, plain = RoomyLayer(8), DynamicLayer()
    for layer in (roomy, plain):
        layer.update(*states(5, 0))
        layer.update(*states(1, 1))
        if change == "crop":
            layer.crop(-2)
        elif change == "repeat":
            layer.batch_repeat_interleave(2)
        else:
            layer.batch_select_indices(torch.tensor([1, 0, 1] if change == "select" else [1, 0]))
        batch = layer.keys.shape[0]
        layer.update(*states(1, 2, batch))
        layer.update(*states(1, 3, batch))
    assert_same(roomy, plain)


def test_windowed_layers_are_left_alone_and_a_filled_cache_keeps_its_content(gemma, llama):
    kinds = [type(layer).__name__ for layer in make_room(None, gemma.model.config, 4).layers]
    assert kinds == ["DynamicSlidingWindowLayer", "RoomyLayer"] * 2
    with torch.inference_mode():
        cache = llama.model.base_model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
        before = [layer.keys.clone() for layer in cache.layers]
        roomy = make_room(cache, llama.model.config, 4)
    assert isinstance(roomy, DynamicCache)
    assert all(torch.equal(layer.keys, kept) for layer, kept in zip(roomy.layers, before, strict=True))


def test_the_vocabulary_projection_gets_whole_tensors(llama):
    seen = []
    handle = llama.model.lm_head.register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].is_contiguous())
    )
    with torch.inference_mode():
        llama.model(torch.tensor([[5, 6, 7], [8, 9, 10]]), logits_to_keep=1)
    handle.remove()
    assert seen == [True]  # of a slice, some of torch's products copy the matrix once a row
