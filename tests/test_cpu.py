import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from traitscope.utils.model import cpu

# multiplies ever new numbers of rows, and says by how many MiB the process grew while it did
GROWTH = """
import traitscope, torch
from pathlib import Path
def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))
weight = torch.randn(64, 64)
def multiply(rows): torch.ops.mkldnn._linear_pointwise(torch.randn(rows, 64), weight, None, "none", [], "")
for rows in range(500, 550): multiply(rows)
before = held()
for rows in range(200, 450): multiply(rows)
print(held() - before)
"""


@pytest.fixture
def on_amd(monkeypatch):
    """As on a CPU that MKL does not serve well."""
    cpu.prefers_onednn.cache_clear()
    monkeypatch.setattr(cpu, "prefers_onednn", lambda: True)
    yield
    monkeypatch.undo()
    cpu.prefers_onednn.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (2, 4, 5)])
def test_routed_layers_compute_the_same_products(on_amd, bias, shape):
    layer, x = nn.Linear(5, 7, bias=bias).requires_grad_(False), torch.randn(shape)
    expected = layer(x)
    assert cpu.speed_up_linear_layers(nn.Sequential(layer)) == 1
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert layer(x).shape == expected.shape


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 4, 5)])
def test_routed_layers_have_the_same_gradients(on_amd, shape, is_frozen):
    layer = nn.Linear(5, 7).requires_grad_(not is_frozen)
    x, weights = torch.randn(shape, requires_grad=True), torch.randn(7)
    expected = torch.autograd.grad((layer(x) * weights).square().sum(), x)[0]
    cpu.speed_up_linear_layers(nn.Sequential(layer))

    y = layer(x)
    assert torch.allclose(torch.autograd.grad((y * weights).square().sum(), x)[0], expected, atol=1e-5)
    summed = torch.autograd.grad(layer(x).sum(), x)[0]  # its gradient is one number, seen at every place
    assert torch.allclose(summed, layer.weight.sum(0).expand(shape), atol=1e-6)


def test_weights_that_are_not_frozen_get_their_gradient(on_amd):
    layer = nn.Linear(5, 7)
    cpu.speed_up_linear_layers(layer)
    x = torch.randn(3, 5, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.detach().sum(0).expand(7, 5), atol=1e-6)


def test_only_float32_layers_are_routed(on_amd):
    assert cpu.speed_up_linear_layers(nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.LayerNorm(2))) == 0


@pytest.mark.parametrize(
    ("vendor", "setting", "expected"),
    [("AuthenticAMD", "1", True), ("AuthenticAMD", "0", False), ("GenuineIntel", "1", False)],
)
def test_the_choice_goes_by_the_maker_and_can_be_overridden(monkeypatch, tmp_path, vendor, setting, expected):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setattr(cpu, "Path", lambda _: info)
    monkeypatch.setenv("TRAITSCOPE_ONEDNN", setting)
    cpu.prefers_onednn.cache_clear()
    assert cpu.prefers_onednn() is (expected and torch.backends.mkldnn.is_available())
    cpu.prefers_onednn.cache_clear()


def test_no_speed_up_where_the_rule_says_no(monkeypatch):
    monkeypatch.setattr(cpu, "prefers_onednn", lambda: False)
    assert cpu.speed_up_linear_layers(nn.Linear(2, 2)) == 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no resident memory")
def test_memory_does_not_grow_with_the_numbers_of_rows_that_are_multiplied():
    done = subprocess.check_output([sys.executable, "-c", GROWTH], cwd=Path(__file__).parents[1], text=True)
    assert float(done) < 30  # of 250 sizes; with torch's own caches it is 140
