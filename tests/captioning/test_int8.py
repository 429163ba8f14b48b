"""The decoder's weights in int8: as near to float32 as can be, and nothing else changes."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import make_photos, make_run
from precisions import IMAGES, effects, logprobs, make_captioner, put_onednn, suspects, wrong
from torch import Tensor, nn
from torch.testing import assert_close

import sample
import smile
from smile.captioning import int8, options, packed
from smile.captioning.int8 import Int8Linear, int8_engine, quantized
from smile.captioning.packed import PackedHead, made_fast
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.system import bfloat16

MEAN, MOST = 0.065, 0.5  # how far log-probabilities may be off; they have a deviation of 1.1


# One layer ----------------------------------------------------------------------------------------


def product_of_integers(x: Tensor, layer: nn.Linear, *, levels: int) -> Tensor:
    """What int8 should give, by integers without any limit.

    The input is cut into `levels` steps from its smallest number (or 0) to its largest (or 0).
    """
    weight, x = layer.weight.double(), x.double()
    scales = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
    weights = (weight / scales).round()
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    step = (high - low) / levels
    zero = (-low / step).round()
    inputs = (x / step + zero).round().clamp(0, levels) - zero
    return (inputs @ weights.T) * step * scales.T + layer.bias.double()


@pytest.mark.parametrize("rows", [1, 3, 24])
def test_a_layer_is_the_product_of_rounded_numbers(rows):
    torch.manual_seed(rows)
    layer = nn.Linear(96, 40)
    layer.weight.data[7] *= 1000  # its own scale spares the others
    layer.weight.data[8] = 0
    x = torch.randn(rows, 96) + 0.5
    found = quantized(layer)(x)
    levels = 127 if Int8Linear(layer.weight, layer.bias).narrow else 255
    expected = product_of_integers(x, layer, levels=levels)
    assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    unrounded = layer(x)
    error = (found - unrounded).abs().mean(dim=0) / unrounded.abs().mean(dim=0)
    assert 0 < error.median() < 0.03 and found[:, 8].equal(layer.bias[8].expand(rows))


def test_the_largest_products_are_not_cut():
    """Without VNNI two of them have one sum of 16 bits."""
    ones = torch.ones(32, 512)
    found = Int8Linear(ones, torch.zeros(32))(ones)
    assert (found - 512).abs().max() < 1


def test_layers_are_concatenated_and_followed_by_gelu():
    torch.manual_seed(0)
    layers, x = [nn.Linear(64, 32) for _ in range(3)], torch.randn(5, 64)
    apart = torch.cat([quantized(layer)(x) for layer in layers], dim=1)
    assert_close(quantized(*layers)(x), apart, rtol=1e-5, atol=1e-6)  # with AMX not bit for bit
    assert_close(quantized(layers[0], gelu=True)(x), F.gelu(apart[:, :32]))
    assert quantized(layers[0])(x.bfloat16()).dtype == torch.bfloat16


def test_others_find_torch_s_engine_as_it_was():
    before = torch.backends.quantized.engine
    quantized(nn.Linear(8, 8))
    assert torch.backends.quantized.engine == before


# A captioner --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return make_captioner()


def in_int8(captioner: Captioner, rest: torch.dtype = torch.float32) -> nn.Module:
    return made_fast(copy.deepcopy(captioner).to(rest), int8=True)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def rest(request, monkeypatch) -> torch.dtype:
    """What is not in int8; in bfloat16 as where the processor multiplies that."""
    if request.param == torch.bfloat16:
        put_onednn(monkeypatch)
    return request.param


def test_log_probabilities_are_close_to_those_of_float32(captioner, rest):
    made = in_int8(captioner, rest)
    off = logprobs(made) - logprobs(captioner)
    assert 0 < off.abs().mean() < MEAN and off.abs().max() < MOST
    assert not suspects(off)
    assert made.encode(IMAGES.to(rest)).dtype == rest


def test_every_weight_of_the_decoder_that_is_wrong_is_noticed(captioner, rest):
    exact, missed = logprobs(captioner), []
    names = [name for name in effects() if name.startswith("decoder.blocks.")]
    assert len(names) == 2 * (2 * 7 + 4 + 3 * 2)
    for name in names[rest == torch.float32 :: 2]:  # half of them each way, to save time
        made = in_int8(wrong(captioner, name, rolled=True), rest)
        if not suspects(logprobs(made) - exact):
            missed.append(name)
    assert not missed


@torch.inference_mode()
def test_encoder_embeddings_and_head_stay_in_float32(captioner):
    exact, made = made_fast(copy.deepcopy(captioner)), in_int8(captioner)
    assert torch.equal(made.encode(IMAGES), exact.encode(IMAGES))
    states = torch.randn(3, 64)
    assert type(made.decoder.head) is PackedHead
    assert torch.equal(made.logits(states), exact.logits(states))
    assert made.decoder.word_embed.weight.dtype == torch.float32
    kinds = [type(part) for part in made.decoder.blocks.modules()]
    assert nn.Linear not in kinds and kinds.count(Int8Linear) == 2 * 8  # three are one


# Options ------------------------------------------------------------------------------------------


def asked(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{"precision": "int8", "compile": False} | changes)


def test_int8_is_for_cpus_that_have_it(monkeypatch):
    cpu = torch.device("cpu")
    rest = [("", torch.float32), ("AMX", torch.bfloat16), ("AVX-512 BF16", torch.float32)]
    monkeypatch.setattr(bfloat16, "is_intel", lambda: True)
    for unit, dtype in rest:
        monkeypatch.setattr(bfloat16, "bfloat16_unit", lambda unit=unit: unit)
        assert options.weights_dtype(asked(), cpu) == dtype
    monkeypatch.setattr(bfloat16, "is_intel", lambda: False)
    assert options.weights_dtype(asked(), cpu) == torch.bfloat16  # AMD's AVX-512 BF16
    with pytest.raises(UserError, match="--precision int8 is for CPUs, and this is cuda:1"):
        options.weights_dtype(asked(), torch.device("cuda:1"))
    with pytest.raises(UserError, match="--precision int8 does not go with --compile"):
        options.weights_dtype(asked(compile=True), cpu)
    for name, value in (("int8_engine", lambda: ""), ("multiplies", lambda dtype: False)):
        with monkeypatch.context() as one, pytest.raises(UserError, match="has no int8 product"):
            one.setattr(options, name, value)
            options.weights_dtype(asked(), cpu)


def test_a_captioner_is_prepared_where_the_processor_has_bfloat16_and_onednn_does_not(
    captioner, monkeypatch
):
    """As Linux on Arm may be: the rest is in float32."""
    monkeypatch.setattr(bfloat16, "_instructions", lambda: "Arm BF16")
    monkeypatch.setattr(bfloat16, "multiplies", lambda dtype: dtype == torch.float32)
    dtype = options.weights_dtype(asked(), torch.device("cpu"))
    made = options.prepare(copy.deepcopy(captioner).to(dtype), asked())
    assert made.encode(IMAGES).dtype == torch.float32


def test_int8_goes_before_leaving_float32_to_mkl(captioner, monkeypatch):
    """As for one image on an Intel without AMX."""
    monkeypatch.setattr(packed, "outruns_mkl", lambda: False)
    made = made_fast(copy.deepcopy(captioner), repack=False, int8=True)
    assert any(isinstance(module, Int8Linear) for module in made.modules())


def test_the_engine_is_the_fastest_that_multiplies(monkeypatch):
    tried = []

    def multiplies(engine: str) -> bool:
        tried.append(engine)
        return engine == "onednn"

    monkeypatch.setattr(int8, "_multiplies", multiplies)
    for unit, order in (("", ["fbgemm", "onednn"]), ("AMX", ["onednn"])):
        monkeypatch.setattr(int8, "bfloat16_unit", lambda unit=unit: unit)
        tried.clear()
        assert int8_engine.__wrapped__() == "onednn" and tried == order
    monkeypatch.setattr(int8, "_multiplies", lambda engine: False)
    assert int8_engine.__wrapped__() == ""


def test_a_torch_without_quantised_tensors_has_none(monkeypatch):
    monkeypatch.delattr(torch, "quantize_per_channel")
    assert int8_engine.__wrapped__() == ""


@pytest.mark.slow
def test_sample_describes_in_int8(tmp_path, run_script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")
    photos = make_photos(tmp_path / "photos", 3)
    words = ("--model", "run", "--workers", 0, "--precision", "int8")
    code, _, err = run_script(sample.main, "photos", *words, "--out", "c.jsonl")
    assert code == 0 and err.count("\n") == 1 and "3 images described" in err
    assert json.loads((tmp_path / "c.jsonl.run.json").read_text())["precision"] == "int8"
    code, _, err = run_script(sample.main, photos[0], *words, "--explain", "e.png")
    assert code == 0 and (tmp_path / "e.png").stat().st_size and not err
    code, _, err = run_script(sample.main, photos[0], *words, "--compile")
    assert code == 2 and "sample.py: --precision int8 does not go with --compile" in err


@pytest.mark.slow
def test_a_describer_does_too(tmp_path):
    run, [photo] = make_run(tmp_path / "run"), make_photos(tmp_path / "photos", 1)
    batch = smile.Describer(run, precision="int8")({"image": [str(photo)]})
    assert batch["caption"][0] and not batch["error"][0]
    with pytest.raises(UserError, match="precision=int8 does not go with compile: leave"):
        smile.Describer(run, precision="int8", compile=True)({"image": [str(photo)]})
