"""What oneDNN multiplies here is tried, and whatever it answers is no traceback."""

from types import SimpleNamespace

import pytest
import torch

from smile.system import onednn


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *_: object) -> torch.Tensor:
    return x @ weight.T + bias


def refuses(*_: object) -> torch.Tensor:
    raise RuntimeError("could not create a primitive descriptor for a matmul primitive")


def operators(**changed: object) -> SimpleNamespace:
    """oneDNN's, as where all is well."""
    return SimpleNamespace(
        **{"_reorder_linear_weight": torch.clone, "_linear_pointwise": product} | changed
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("found", "multiplies"),
    [
        (operators(), True),
        (operators(_linear_pointwise=refuses), False),
        (operators(_reorder_linear_weight=refuses), False),
        (operators(_linear_pointwise=lambda x, *_: x), False),  # wrong
        (SimpleNamespace(), False),  # missing
    ],
)
def test_a_product_is_tried(dtype, found, multiplies, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", found)
    assert onednn.multiplies.__wrapped__(dtype) == multiplies
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not onednn.multiplies.__wrapped__(dtype)


@pytest.mark.parametrize(
    ("found", "fuses"),
    [
        ({}, True),
        ({"_is_mkldnn_acl_supported": lambda: False}, True),
        ({"_is_mkldnn_acl_supported": lambda: True}, False),
    ],
)
def test_nothing_is_joined_to_a_product_of_arm_s_library(found, fuses, monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", operators(**found))
    assert onednn.fuses.__wrapped__() == fuses


@pytest.mark.parametrize(
    ("cpuinfo", "name", "has_mkl", "outruns"),
    [
        ("processor : 0\nvendor_id : AuthenticAMD\n", "", True, True),
        ("processor : 0\nvendor_id : GenuineIntel\n", "", True, False),
        ("processor : 0\nvendor_id : GenuineIntel\n", "", False, True),
        (None, "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", True, True),  # Windows
        (None, "Intel64 Family 6 Model 207 Stepping 2, GenuineIntel", True, False),
        ("processor : 0\nCPU implementer : 0x41\n", "", False, True),  # Arm
    ],
)
def test_mkl_is_left_to_intel_s_processors(cpuinfo, name, has_mkl, outruns, monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(onednn, "CPUINFO", path)
    monkeypatch.setattr(onednn.platform, "processor", lambda: name)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    monkeypatch.setattr(onednn, "is_intel", onednn.is_intel.__wrapped__)
    assert onednn.outruns_mkl.__wrapped__() == outruns
