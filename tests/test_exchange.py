"""Files of vectors: exact there and back, as other tools lay them out, and nothing believed that a file
says.
"""

import io
import json
import pickle
import struct
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from traitscope.analysis.exchange.bundle import Bundle, Shape
from traitscope.analysis.exchange.formats import FORMATS, read_vectors
from traitscope.utils.errors import UserError

SHAPE = Shape(n_layers=6, d_model=16)
FACTS = {
    "made_by": "traitscope",
    "trait": "mood/calm",
    "method": "probe",
    "model_name": "some/model",
    "position": "response[:]",
}
EACH = pytest.mark.parametrize("name", FORMATS)


def vectors(*layers: int, seed: int = 0) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(SHAPE.d_model, generator=generator) for layer in layers}


def write(path: Path, name: str, content: dict[int, torch.Tensor]) -> Path:
    path.write_bytes(FORMATS[name].write(Bundle(content, SHAPE, "llama", FACTS)))
    return path


def refused(path: Path, name: str, content: bytes | None = None) -> str:
    """Return the one line with which a file is refused."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_vectors(path, name, SHAPE)
    said = str(caught.value)
    assert said.startswith(f"{path}")
    assert "\n" not in said
    assert len(said) < 700
    return said


@EACH
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back_bit_by_bit(tmp_path_factory, name, data):
    layers = data.draw(st.sets(st.integers(FORMATS[name].first_layer, SHAPE.n_layers - 1), min_size=1))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    row = st.lists(number, min_size=SHAPE.d_model, max_size=SHAPE.d_model).filter(any)
    sent = {layer: torch.tensor(data.draw(row)) for layer in sorted(layers)}
    found = read_vectors(write(tmp_path_factory.mktemp("x") / "file", name, sent), name, SHAPE).vectors
    assert list(found) == list(sent)
    for layer in sent:
        assert found[layer].dtype == torch.float32
        assert found[layer].numpy().tobytes() == sent[layer].numpy().tobytes()


def test_a_control_vector_is_laid_out_as_llama_cpp_reads_it(tmp_path):
    sent = vectors(1, 3, 5)
    reader = GGUFReader(write(tmp_path / "v.gguf", "gguf", sent))
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    count = reader.get_field("controlvector.layer_count")
    assert (count.contents(), count.types[0].name) == (3, "UINT32")
    assert {t.name: t.tensor_type.name for t in reader.tensors} == {
        f"direction.{layer}": "F32" for layer in sent
    }
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, sent[int(tensor.name.split(".")[1])].numpy())


def test_persona_vectors_lie_one_row_further_down_and_row_0_is_empty(tmp_path):
    sent = vectors(0, 4)
    rows = torch.load(write(tmp_path / "v.pt", "persona_vectors", sent), weights_only=True)
    assert rows.shape == (SHAPE.n_layers + 1, SHAPE.d_model)
    assert [i for i, row in enumerate(rows) if row.any()] == [1, 5]
    assert torch.equal(rows[1], sent[0])


def test_safetensors_carry_the_facts_in_their_header(tmp_path):
    path = write(tmp_path / "v.safetensors", "safetensors", vectors(2))
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["traitscope"]) == FACTS
    assert read_vectors(path, "safetensors", SHAPE).said == {k: FACTS[k] for k in FACTS}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_vectors_in_16_bits_are_read_exactly(tmp_path, dtype):
    rows = torch.zeros(SHAPE.n_layers + 1, SHAPE.d_model, dtype=dtype)
    rows[3] = vectors(2)[2].to(dtype)
    torch.save(rows, tmp_path / "v.pt")
    safetensors.torch.save_file({"layer_2": rows[3].clone()}, tmp_path / "v.safetensors")
    for file, name in (("v.pt", "persona_vectors"), ("v.safetensors", "safetensors")):
        assert torch.equal(read_vectors(tmp_path / file, name, SHAPE).vectors[2], rows[3].float())


@EACH
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path, name, value):
    bad = vectors(2)
    bad[2][7] = value
    assert "layer 2 holds NaN or infinite" in refused(write(tmp_path / "v", name, bad), name)


@pytest.mark.parametrize("name", ["safetensors", "gguf", "repeng"])
def test_a_zero_vector_is_refused(tmp_path, name):
    assert "layer 3 is zero" in refused(
        write(tmp_path / "v", name, vectors(1) | {3: torch.zeros(SHAPE.d_model)}), name
    )


@EACH
def test_a_file_without_vectors_is_refused(tmp_path, name):
    assert "no vector in it" in refused(write(tmp_path / "v", name, {}), name)


@pytest.mark.parametrize("name", ["safetensors", "gguf", "repeng"])
def test_another_model_s_width_or_depth_is_refused(tmp_path, name):
    assert "has shape (8,)" in refused(write(tmp_path / "v", name, {2: torch.ones(8)}), name)
    assert "for layer 6; the model has layers 0 to 5" in refused(
        write(tmp_path / "v", name, {6: torch.ones(16)}), name
    )


@pytest.mark.parametrize(
    "held", [torch.ones(6, 16), torch.ones(7, 15), torch.ones(16), torch.ones(1, 7, 16), torch.tensor(1.0)]
)
def test_a_persona_tensor_of_another_shape_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "v.pt")
    assert "persona_vectors of this model are a tensor (7, 16)" in refused(
        tmp_path / "v.pt", "persona_vectors"
    )


@EACH
def test_a_file_cut_off_anywhere_is_refused(tmp_path, name):
    whole = write(tmp_path / "v", name, vectors(1, 4)).read_bytes()
    for end in sorted({*range(0, 40), *range(40, len(whole) - 1, 29), len(whole) - 1}):
        if name == "persona_vectors" or end < len(whole) - 31:  # the last bytes of a GGUF file are padding
            refused(tmp_path / "v", name, whole[:end])


@EACH
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_gives_vectors_that_can_be_used(tmp_path_factory, name, data):
    path = write(tmp_path_factory.getbasetemp() / f"damaged {name}", name, vectors(1, 4))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 700)))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        found = read_vectors(path, name, SHAPE).vectors
    except UserError:
        refused(path, name)
    else:
        assert all(v.shape == (16,) and v.isfinite().all() and v.any() for v in found.values())


@EACH
@settings(max_examples=40, deadline=None)
@given(head=st.sampled_from([b"", b"GGUF\x03\0\0\0", b"PK\x03\x04"]), tail=st.binary(max_size=300))
def test_a_file_of_noise_is_refused_in_one_line(tmp_path_factory, name, head, tail):
    refused(tmp_path_factory.getbasetemp() / f"noise {name}", name, head + tail)


@EACH
def test_a_file_too_large_for_the_model_is_refused_before_it_is_read(tmp_path, name):
    with open(tmp_path / "v", "wb") as file:
        file.truncate(2**40)  # sparse: to read it would take a terabyte
    assert "it is something else" in refused(tmp_path / "v", name)


@EACH
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name):
    assert "is no file" in refused(tmp_path / "none", name)
    assert "is a folder; it must be a regular file" in refused(tmp_path, name)


class Bomb:
    """What a pickle runs when it is believed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "wrap", [lambda bomb: bomb, lambda bomb: {"vector": torch.ones(7, 16), "more": bomb}, lambda bomb: [bomb]]
)
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, wrap):
    mark = tmp_path / "it ran"
    torch.save(wrap(Bomb(mark)), tmp_path / "zip.pt")
    torch.save(wrap(Bomb(mark)), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(wrap(Bomb(mark))))
    for file in ("zip.pt", "old.pt", "plain.pt"):
        for name in FORMATS:
            refused(tmp_path / file, name)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))  # believed, it would have run
    assert mark.exists()


@pytest.mark.parametrize(
    "held", [{"layer": torch.ones(7, 16)}, [torch.ones(7, 16)], "text", 3, None, torch.nn.Linear(2, 2)]
)
def test_a_torch_file_of_anything_but_a_tensor_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "v.pt")
    assert "tensor" in refused(tmp_path / "v.pt", "persona_vectors")


@pytest.mark.parametrize(
    "held",
    [
        torch.ones(7, 16, dtype=torch.int64),
        torch.ones(7, 16).to_sparse(),
        torch.ones(7, 16, dtype=torch.complex64),
    ],
)
def test_a_tensor_of_other_than_ordinary_numbers_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "v.pt")
    assert "not ordinary numbers" in refused(tmp_path / "v.pt", "persona_vectors")


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save(torch.ones(7, 16), tmp_path / "v.pt")
    packed = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "v.pt") as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member) + (bytes(10_000_000) if member.endswith("data/0") else b""))
    assert "compressed" in refused(tmp_path / "v.pt", "persona_vectors", packed.getvalue())


def test_a_small_storage_that_claims_to_be_a_huge_tensor_is_refused(tmp_path):
    torch.save(torch.ones(1).expand(2**40), tmp_path / "v.pt")
    assert "holds (1099511627776,)" in refused(tmp_path / "v.pt", "persona_vectors")


HUGE = 2**62


@pytest.mark.parametrize(
    ("n_tensors", "n_values", "rest"),
    [
        (HUGE, 0, b""),
        (0, HUGE, b""),
        (1, 0, struct.pack("<Q", HUGE) + b"name"),
        (0, 1, struct.pack("<Q1sIIQ", 1, b"k", 9, 0, HUGE)),  # an array of bytes
        (0, 1, struct.pack("<Q1sIIQ", 1, b"k", 9, 8, HUGE)),  # of texts
        (0, 1, struct.pack("<Q1sIIQ", 1, b"k", 9, 9, HUGE)),  # of arrays
        (0, 1, struct.pack("<Q1sI", 1, b"k", 77)),
    ],
)
def test_a_gguf_header_that_lies_about_its_counts_is_refused_at_once(tmp_path, n_tensors, n_values, rest):
    refused(tmp_path / "v", "gguf", struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, n_values) + rest)


@pytest.mark.parametrize(
    ("kind", "dims", "offset", "reason"),
    [
        (0, (HUGE,), 0, "behind the end"),
        (0, (HUGE, HUGE, HUGE, HUGE), 0, "cannot reshape"),  # the product wraps around to 0
        (0, (16,), HUGE, "behind the end"),
        (0, (16, 1), 0, "has shape (1, 16)"),
        (0, (0,), 0, "has shape (0,)"),
        (2, (32,), 0, "is quantised"),
    ],
)
def test_a_gguf_tensor_that_is_not_there_is_refused(tmp_path, kind, dims, offset, reason):
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    value = text(b"general.architecture") + struct.pack("<I", 8) + text(b"controlvector")
    table = text(b"direction.2") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    assert reason in refused(
        tmp_path / "v", "gguf", struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + value + table + bytes(200)
    )


def test_a_gguf_header_of_many_values_is_refused_before_they_take_long(tmp_path):
    n, text = SHAPE.largest_file - 100, struct.pack("<Q1s", 1, b"k")
    bytes_ = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text + struct.pack("<IIQ", 9, 0, n) + bytes(n)
    nested = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text + struct.pack("<I", 9)
    nested += struct.pack("<IQ", 9, 1) * 80_000
    values = struct.pack("<4sIQQ", b"GGUF", 3, 0, 60_000)
    values += b"".join(struct.pack("<Q5sIB", 5, b"%05d" % i, 0, 0) for i in range(58_000))
    start = time.process_time()
    for content in (bytes_, nested, values):
        refused(tmp_path / "v", "gguf", content)
    assert time.process_time() - start < 5


def test_gguf_tensors_that_overlap_are_refused(tmp_path):
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    value = text(b"general.architecture") + struct.pack("<I", 8) + text(b"controlvector")
    table = b"".join(
        text(b"direction.%d" % i) + struct.pack("<IQIQ", 1, 100_000, 0, 0) for i in range(1, 200)
    )
    head = struct.pack("<4sIQQ", b"GGUF", 3, 199, 1)
    assert "overlap" in refused(tmp_path / "v", "gguf", head + value + table + bytes(400_032))


@pytest.mark.parametrize(
    "kind", [GGMLQuantizationType.F64, GGMLQuantizationType.F16, GGMLQuantizationType.BF16], ids=str
)
def test_gguf_vectors_of_other_floats_are_read_exactly(tmp_path, kind):
    held = vectors(2)[2].bfloat16()
    raw = {
        GGMLQuantizationType.F64: held.double().numpy(),
        GGMLQuantizationType.F16: held.half().numpy(),
        GGMLQuantizationType.BF16: held.view(torch.uint8).numpy(),
    }
    writer = GGUFWriter(tmp_path / "v", "controlvector")
    writer.add_tensor("direction.2", raw[kind], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_vectors(tmp_path / "v", "gguf", SHAPE).vectors[2]
    assert torch.equal(found, held.half().float() if kind == GGMLQuantizationType.F16 else held.float())


def test_a_gguf_file_of_the_other_byte_order_is_refused(tmp_path):
    other = GGUFEndian.BIG if sys.byteorder == "little" else GGUFEndian.LITTLE
    writer = GGUFWriter(tmp_path / "v", "controlvector", endianess=other)
    writer.add_tensor("direction.1", np.ones(16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "byte order" in refused(tmp_path / "v", "gguf")


def test_a_model_in_gguf_is_no_control_vector(tmp_path):
    writer = GGUFWriter(tmp_path / "v", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tensor("direction.1", np.ones(16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "of 'llama', not a control vector" in refused(tmp_path / "v", "gguf")


@pytest.mark.parametrize("names", [["layer_1", "other"], ["model.layers.1"], ["layer_1", "layer_01"]])
def test_safetensors_of_other_names_are_refused(tmp_path, names):
    safetensors.torch.save_file({name: torch.ones(16) for name in names}, tmp_path / "v")
    refused(tmp_path / "v", "safetensors")


@pytest.mark.parametrize(
    "said",
    [
        "[" * 5000,
        "nonsense",
        "[]",
        '{"model_name": {"a": 1}, "trait": 3}',
        '{"made_by": "' + "x" * 5000 + '"}',
    ],
)
def test_what_a_header_says_is_kept_only_as_short_text(tmp_path, said):
    safetensors.torch.save_file({"layer_1": torch.ones(16)}, tmp_path / "v", {"traitscope": said})
    kept = read_vectors(tmp_path / "v", "safetensors", SHAPE).said
    assert all(isinstance(v, str) and len(v) <= 200 for v in kept.values())
    assert kept.keys() <= {"made_by"}


@pytest.mark.parametrize("size", [0, 2**31, 2**63 - 1, 2**64 - 1])
def test_a_safetensors_header_that_lies_about_its_size_is_refused(tmp_path, size):
    refused(
        tmp_path / "v",
        "safetensors",
        struct.pack("<Q", size)
        + b'{"layer_1":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}'
        + bytes(64),
    )
