"""Weights in bfloat16 on the CPU: as good as can be, in half the memory, and nothing unsaid."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, make_photos, make_run
from precisions import effects, logprobs, make_captioner, put_onednn, suspects, wrong
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import evaluate
import sample
import smile
from smile.captioning import options, packed
from smile.captioning.packed import Float32Head, PackedHead, can_pack, made_fast, pack
from smile.config import load_config
from smile.errors import UserError
from smile.evaluation import models
from smile.model.captioner import Captioner
from smile.model.layers import Attention
from smile.system import bfloat16
from smile.training import checks
from smile.weights.fingerprint import fingerprint, fingerprint_of
from smile.weights.run_folder import save_run

MEAN, MOST = 0.021, 0.15  # how far log-probabilities may be off; they have a deviation of 1.1


# The numbers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return make_captioner()


def in_bfloat16(captioner: Captioner, way: str, request: pytest.FixtureRequest) -> Captioner:
    """A copy with weights in bfloat16, ready to caption in one of the ways there are."""
    if way.startswith("stand-in"):
        put_onednn(request.getfixturevalue("monkeypatch"))
    rounded = copy.deepcopy(captioner).to(torch.bfloat16)
    if way == "plain":
        request.getfixturevalue("monkeypatch").setattr(packed, "can_pack", lambda _: False)
    elif not can_pack(rounded):
        pytest.skip("this processor multiplies no bfloat16")
    made = made_fast(rounded, repack=not way.endswith("in place"))
    assert type(made.decoder.head) is (Float32Head if way == "plain" else PackedHead)
    return made


WAYS = ("plain", "stand-in", "stand-in, in place", "oneDNN", "oneDNN, in place")


@pytest.mark.parametrize("way", WAYS)
def test_log_probabilities_are_close_to_those_of_float32(captioner, way, request):
    exact = logprobs(captioner)
    rounded = in_bfloat16(captioner, way, request)
    off = logprobs(rounded) - exact
    assert 0 < off.abs().mean() < MEAN and off.abs().max() < MOST
    assert not suspects(off)
    head = rounded.decoder.head(torch.zeros(1, 64, dtype=torch.bfloat16))
    assert head.dtype == torch.float32


def test_every_weight_that_is_wrong_is_noticed(captioner, request):
    """Those of the decoder's blocks: in int8, whose rounding is larger (test_int8.py)."""
    exact, missed = logprobs(captioner), []
    names = [name for name in effects() if not name.startswith("decoder.blocks.")]
    assert len(names) == 4 + 2 * 15 + 2 + 9
    for name in names:
        rounded = in_bfloat16(wrong(captioner, name, rolled=True), "plain", request)
        if not suspects(logprobs(rounded) - exact):
            missed.append(name)
    assert not missed


@pytest.mark.parametrize("repack", [True, False])
def test_the_head_is_packed_in_float32(repack, captioner, monkeypatch):
    put_onednn(monkeypatch)
    laid_out = []
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda w: laid_out.append(w))
    pack(copy.deepcopy(captioner).to(torch.bfloat16), repack=repack)
    heads = [weight.dtype for weight in laid_out if weight.shape == (200, 64)]
    assert heads == [torch.float32] * repack


def test_norms_and_softmax_compute_in_float32():
    """A mean far from 0, and scores that bfloat16 cannot tell apart, are no trouble to float32."""
    x = torch.randn(4, 64).add(100).bfloat16()
    exact = F.layer_norm(x.float(), (64,))
    assert (F.layer_norm(x, (64,)) - exact).abs().max() < 0.01
    attention = packed.FewQueriesAttention(Attention(dim=4, num_heads=1))
    queries, keys = torch.full((1, 1, 1, 4), 8.0), torch.full((1, 1, 2, 4), 8.0)
    keys[:, :, 1, 0] += 0.0625  # scores of 128 and 128.25
    values = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand(-1, -1, -1, 4).contiguous()
    exact = attention.attend(queries, (keys, values))
    found = attention.attend(queries.bfloat16(), (keys.bfloat16(), values.bfloat16()))
    assert (found - exact).abs().max() < 0.004
    assert attention.weights(queries.bfloat16(), keys.bfloat16()).equal(
        attention.weights(queries, keys)
    )


# Loading ------------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """The float32 tensors on the CPU that operators make, by their number of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float32 and not result.is_meta:
            before = {one.data_ptr() for one in args if isinstance(one, Tensor)}
            if result.data_ptr() not in before:
                self.made.append(result.numel())
        return result


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32, torch.float16])
def test_loading_widens_nothing_but_positions(stored, tmp_path):
    """Positions may be interpolated, which is done in float32."""
    whole = smile.load(make_run(tmp_path / "run"))
    exact = {name: weight.clone() for name, weight in whole.state_dict().items()}
    save_run(tmp_path / "run", whole.to(stored))
    with Allocations() as allocations:
        loaded = smile.load(tmp_path / "run", dtype=torch.bfloat16)
    positions = loaded.vit.positions.numel()
    assert all(made in (1, positions) for made in allocations.made)
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, exact[name].to(stored).bfloat16()), name


def test_another_type_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"dtype = torch.float16: expected torch.float32 or torch"):
        smile.load(run, dtype=torch.float16)


def test_numbers_beyond_bfloat16_are_named(tmp_path):
    captioner = smile.load(make_run(tmp_path / "run"))
    captioner.decoder.head_bias.data[3] = torch.finfo(torch.float32).max
    save_run(tmp_path / "run", captioner)
    smile.load(tmp_path / "run")
    with pytest.raises(UserError, match=r"head_bias holds numbers beyond 3.4e\+38, bfloat16's"):
        smile.load(tmp_path / "run", dtype=torch.bfloat16)


@pytest.mark.parametrize("half", [False, True])
def test_a_fingerprint_is_of_the_weights_before_rounding(half, tmp_path):
    captioner = smile.load(make_run(tmp_path / "run"))
    save_run(tmp_path / "run", captioner, half=half)
    whole, rounded = (
        smile.load(tmp_path / "run", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert fingerprint_of(tmp_path / "run") == fingerprint(whole) != fingerprint(rounded)


# The scripts --------------------------------------------------------------------------------------


@pytest.fixture
def unit(monkeypatch):
    """Gives this processor other instructions: `unit("AMX")`."""

    def put(name: str) -> None:
        for module in (options, checks):
            monkeypatch.setattr(module, "bfloat16_unit", lambda: name)
        monkeypatch.setattr(bfloat16, "is_intel", lambda: False)

    put("")
    return put


@pytest.mark.slow
def test_sample_describes_in_bfloat16_and_says_what_it_costs(
    tmp_path, unit, run_script, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")
    photos = make_photos(tmp_path / "photos", 3)

    def run(*words: object) -> tuple[int, str, str]:
        return run_script(sample.main, "photos", "--model", "run", "--workers", 0, *words)

    code, _, err = run("--precision", "bfloat16")
    assert code == 0 and err.count("\n") == 1
    assert "--precision bfloat16: oneDNN uses no instructions for it here" in err
    unit("AMX")
    code, _, err = run("--precision", "bfloat16", "--out", "c.jsonl")
    assert code == 0 and err.count("\n") == 1 and "3 images described" in err
    assert json.loads((tmp_path / "c.jsonl.run.json").read_text())["precision"] == "bfloat16"
    code, _, err = run("--precision", "bfloat16", "--out", "c.jsonl")
    assert code == 0 and "3 had their captions already" in err
    code, _, err = run("--out", "c.jsonl")
    assert code == 2 and '--precision was "bfloat16", is "float32" now' in err
    assert "--model" not in err
    words = ("--model", "run", "--precision", "bfloat16", "--explain", "e.png")
    code, _, err = run_script(sample.main, photos[0], *words)
    assert code == 0 and (tmp_path / "e.png").stat().st_size and not err


@pytest.mark.slow
def test_sample_says_of_many_images_what_would_be_gained(tmp_path, unit, run_script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")
    monkeypatch.setattr(sample, "MANY", 4)
    photos = make_photos(tmp_path / "photos", sample.MANY)
    unit("AMX")
    words = ("--model", "run", "--workers", 0, "--num-beams", 1, "--txt")
    code, _, err = run_script(sample.main, "photos", *words)
    assert code == 0 and err.count("\n") == 2
    assert "(AMX): --precision bfloat16 makes BLIP's captions about 1.9 times as fast" in err
    code, _, err = run_script(sample.main, *photos[1:], *words)
    assert code == 0 and "bfloat16" not in err


@pytest.mark.parametrize(
    ("name", "precision", "device", "said"),
    [
        ("AMX", "auto", "cpu", "(AMX): --precision bfloat16 makes BLIP's captions about 1.9 times"),
        ("AMX", "float32", "cpu", ""),
        ("AMX", "bfloat16", "cpu", ""),
        ("AMX", "auto", "cuda", ""),
        (
            "AVX-512 BF16",
            "auto",
            "cpu",
            "faster, which was not measured with AVX-512 BF16",
        ),
        ("AVX-512 BF16", "float32", "cpu", ""),
        ("AVX-512 BF16", "bfloat16", "cpu", ""),
        ("", "auto", "cpu", ""),
        ("", "float32", "cpu", ""),
        ("", "bfloat16", "cuda", ""),
        ("", "bfloat16", "cpu", "no instructions for it here (AMX, AVX-512 BF16 or Arm BF16)"),
    ],
)
def test_a_line_says_what_bfloat16_gains_or_costs_here(name, precision, device, said, unit):
    unit(name)
    asked, device = SimpleNamespace(precision=precision), torch.device(device)
    for is_long in (True, False):
        line = options.about_bfloat16(asked, device, is_long=is_long)
        assert said in line if is_long or precision == "bfloat16" else line == ""
        assert bool(line) == bool(said and (is_long or precision == "bfloat16"))


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [
        ("AMX", "auto", "BLIP base 1.7 times as fast, a captioner of 7 million weights 1.3 times"),
        ("AMX", "float32", ""),
        ("AMX", "bfloat16", ""),
        ("Arm BF16", "auto", "may well train faster, which was not measured with Arm BF16"),
        ("Arm BF16", "float32", ""),
        ("", "auto", ""),
        ("", "bfloat16", 'train.precision = "bfloat16": oneDNN uses no instructions for it here'),
    ],
)
def test_training_says_so_too(name, precision, said, unit):
    unit(name)
    settings = [f"train.precision={precision}", "train.device=cpu"]
    lines = checks.advice(
        load_config(ROOT / "configs" / "shapes.toml", settings),
        {"train": [None], "val": [None], "test": []},
        steps=1000,
    )
    assert [said in line for line in lines] == [True] * bool(said)


@pytest.mark.parametrize(
    ("precision", "said"),
    [("auto", ""), ("float32", ""), ("bfloat16", "with AVX-512 BF16 but no AMX")],
)
def test_avx512_alone_is_not_advised_on_an_intel(precision, said, unit, monkeypatch):
    unit("AVX-512 BF16")
    monkeypatch.setattr(bfloat16, "is_intel", lambda: True)
    asked = SimpleNamespace(precision=precision)
    line = options.about_bfloat16(asked, torch.device("cpu"), is_long=True)
    settings = [f"train.precision={precision}", "train.device=cpu"]
    lines = checks.about_bfloat16(load_config(ROOT / "configs" / "shapes.toml", settings))
    for found in ([line] if line else [], lines):
        assert [said in one for one in found] == [True] * bool(said)


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize(("device", "autocast"), [("cpu", False), ("meta", True)])
def test_weights_are_rounded_on_the_cpu_and_by_autocast_elsewhere(
    device, autocast, compiles, tmp_path, monkeypatch
):
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    device = torch.device(device)
    asked = SimpleNamespace(
        precision="bfloat16", compile=compiles, batch_size=None, workers=0, seed=0
    )
    dtype = options.weights_dtype(asked, device)
    assert dtype == (torch.float32 if autocast else torch.bfloat16)
    captioner = smile.load(make_run(tmp_path / "run"), dtype=dtype).to(device)
    made = options.prepare(captioner, asked)
    assert options.speed(asked, made)["autocast"] == autocast
    assert options.precision(asked, made.device) == "bfloat16"
    exact = (Float32Head, PackedHead)
    assert isinstance(made.decoder.head, exact) != autocast


@pytest.mark.slow
def test_evaluate_describes_in_bfloat16_and_judges_in_float32(
    tmp_path, unit, run_script, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run")
    photos = make_photos(tmp_path / "photos", 3)
    (tmp_path / "refs.json").write_text(json.dumps({str(photo): ["a dog"] for photo in photos}))
    judges = []

    def judge(*args: object, **settings: object) -> object:
        judges.append(args[0])
        return scores(*args, **settings)

    scores = models.log_likelihoods
    monkeypatch.setattr(models, "log_likelihoods", judge)
    words = ("--model", run, "--references", "refs.json", "--judge", run, "--precision", "bfloat16")
    more = ("--clip", "none", "--gpt2", "none", "--draws", 5, "--workers", 0, "--out", "report")
    code, _, err = run_script(evaluate.main, *words, *more)
    assert code == 0 and "--precision bfloat16: oneDNN uses no instructions for it here" in err
    [one] = json.loads((tmp_path / "report" / "report.json").read_text())["systems"]
    assert one["precision"] == "bfloat16" and one["weights"] == fingerprint(smile.load(run))
    assert judges[0].vit.class_token.dtype == torch.float32


# The processor ------------------------------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch):
    """Gives this machine another processor: `processor("x86_64", {"onednn", "amx"})`."""

    def put(machine: str, can: set[str]) -> None:
        monkeypatch.setattr(bfloat16.platform, "machine", lambda: machine)
        monkeypatch.setattr(bfloat16, "multiplies", lambda dtype: "onednn" in can)
        for place, function, what in (
            (torch.ops.mkldnn, "_is_mkldnn_bf16_supported", "arm"),
            (torch.cpu, "_is_amx_tile_supported", "amx"),
            (torch.cpu, "_is_avx512_bf16_supported", "avx512"),
        ):
            has = what in can
            monkeypatch.setattr(place, function, lambda has=has: has, raising=False)

    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    return put


@pytest.mark.parametrize(
    ("machine", "can", "name"),
    [
        ("x86_64", {"onednn", "amx", "avx512"}, "AMX"),
        ("AMD64", {"onednn", "avx512"}, "AVX-512 BF16"),  # what Windows calls it
        ("x86_64", {"onednn", "arm"}, ""),  # AVX-512 alone: oneDNN takes bfloat16, slowly
        ("x86_64", {"amx", "avx512"}, ""),  # torch without oneDNN, or one that refuses
        ("aarch64", {"onednn", "arm"}, "Arm BF16"),
        ("aarch64", {"arm"}, ""),
        ("arm64", {"onednn"}, ""),
        ("arm64", {"arm"}, ""),  # as on macOS
        ("riscv64", {"onednn"}, ""),
    ],
)
def test_the_processor_s_unit(machine, can, name, processor):
    processor(machine, can)
    assert bfloat16.bfloat16_unit() == name


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ("", "AMX"),
        ("ALL", "AMX"),
        ("avx512_core_amx", "AMX"),
        ("avx512_core_bf16", "AVX-512 BF16"),
        ("AVX512_CORE_FP16", "AVX-512 BF16"),
        ("AVX512_CORE", ""),
        ("avx2", ""),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_onednn_may_be_told_to_use_less_than_there_is(
    limit, name, variable, processor, monkeypatch
):
    processor("x86_64", {"onednn", "amx", "avx512"})
    monkeypatch.setenv(variable, limit)
    assert bfloat16.bfloat16_unit() == name


@pytest.mark.parametrize(
    ("capability", "said"),
    [("AVX2", "take 3 to 5 times as long"), ("AVX512", "not measured"), ("DEFAULT", "not meas")],
)
def test_a_cost_is_told_only_where_it_was_measured(capability, said, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert said in bfloat16.cost("3 to 5 times")


def test_a_torch_that_cannot_tell_has_none(processor, monkeypatch):
    processor("x86_64", {"onednn"})
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert bfloat16.bfloat16_unit() == ""
