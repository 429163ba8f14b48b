"""Weights as people keep them: any wrapping and floating-point dtype; and what is no weights."""

import contextlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import smile
from smile.config import Config, DecoderConfig, ViTConfig
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.weights import file as weight_file
from smile.weights.dtypes import FLOATS, to_dtype, to_float32, unusable
from smile.weights.export import export_transformers
from smile.weights.file import read_file, read_safetensors
from smile.weights.names import BLIP, from_ours, to_ours
from smile.weights.run_folder import assign_weights, build, load_run, save_run

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", "b", "c"]
BIAS = "text_decoder.cls.predictions.bias"
TIED_BIAS = "text_decoder.cls.predictions.decoder.bias"
QUERY = "text_decoder.bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    vit = ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, num_heads=1, mlp_dim=16)
    decoder = DecoderConfig(
        vocab_size=12, dim=8, features_dim=8, depth=1, num_heads=1, mlp_dim=16, max_positions=64
    )
    captioner = Captioner(config=Config(vit=vit, decoder=decoder), tokenizer=Tokenizer(WORDS))
    torch.manual_seed(0)
    for parameter in captioner.parameters():
        nn.init.normal_(parameter)
    return captioner.eval()


@pytest.fixture
def theirs(captioner) -> dict[str, Tensor]:
    """The captioner's weights by BLIP's names."""
    weights = {name: tensor.detach() for name, tensor in captioner.state_dict().items()}
    return {name: tensor.clone() for name, tensor in from_ours(weights, BLIP).items()}


@pytest.fixture
def load(tmp_path):
    """Saves something as a .pth with a vocabulary beside it, and loads that."""

    def load(content, **options) -> Captioner:
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        torch.save(content, tmp_path / "a.pth", **options)
        return smile.load(tmp_path / "a.pth")

    return load


def save_other_run(folder: Path, captioner: Captioner, weights: dict[str, Tensor]) -> None:
    """A run folder with other weights, as somebody else's program writes it: without checksum."""
    save_run(folder, captioner)
    (folder / "model.safetensors.sha256").unlink()
    save_file(weights, folder / "model.safetensors")


def check_same(found: Captioner, expected: Captioner) -> None:
    expected = dict(expected.state_dict())
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected.pop(name)), name
    assert not expected


@contextlib.contextmanager
def refused(message: str):
    with pytest.raises(UserError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)


# --- dtypes --------------------------------------------------------------------------------------


def rounded(captioner: Captioner, dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.detach().to(dtype, copy=True) for k, v in captioner.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("pth", dtype) for dtype in FLOATS),
        *(("run", dtype) for dtype in (torch.float16, torch.float64)),
        *((kind, torch.bfloat16) for kind in ("run", "transformers", "bin")),
    ],
    ids=str,
)
def test_every_floating_point_dtype_becomes_float32(captioner, tmp_path, dtype, kind):
    weights = rounded(captioner, dtype)
    expected = build(captioner.config, None, {k: v.float() for k, v in weights.items()}, source="")
    if kind == "run":
        save_other_run(tmp_path, captioner, weights)
    elif kind == "pth":
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        torch.save({"model": from_ours(weights, BLIP)}, tmp_path / "a.pth")
    else:
        export_transformers(captioner, tmp_path)
        theirs = read_safetensors(tmp_path / "model.safetensors")
        theirs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in theirs.items()}
        if kind == "bin":
            (tmp_path / "model.safetensors").unlink()
            torch.save(theirs, tmp_path / "pytorch_model.bin")
        else:
            save_file(theirs, tmp_path / "model.safetensors")
    check_same(smile.load(tmp_path / "a.pth" if kind == "pth" else tmp_path), expected)


def test_one_tensor_of_another_dtype(captioner, theirs, load):
    theirs[QUERY] = theirs[QUERY].bfloat16()
    assert {p.dtype for p in load(theirs).parameters()} == {torch.float32}


def test_positions_in_half_precision_are_resized_in_float32(captioner, tmp_path):
    save_other_run(tmp_path, captioner, rounded(captioner, torch.float16))
    exact = {k: v.float() for k, v in rounded(captioner, torch.float16).items()}
    found = load_run(tmp_path, image_size=16)
    check_same(found, build(found.config, None, exact, source=""))


def quantized() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(8, 8), 0.1, 0, torch.quint8)


STRANGE = {
    "int": lambda: torch.ones(8, 8, dtype=torch.int64),
    "bool": lambda: torch.ones(8, 8, dtype=torch.bool),
    "complex": lambda: torch.ones(8, 8, dtype=torch.complex64),
    "sparse": lambda: torch.eye(8).to_sparse(),
    "sparse rows": lambda: torch.eye(8).to_sparse_csr(),
    "quantised": quantized,
    "meta": lambda: torch.ones(8, 8, device="meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STRANGE)
def test_a_weight_that_is_no_floating_point_tensor_is_named(theirs, load, kind):
    value = STRANGE[kind]()
    load(theirs | {"queue_ptr": value, "visual_encoder_m.x": value})  # dropped anyway
    with refused(f"{QUERY}.*expected"):
        load(theirs | {QUERY: value})
    with refused(f"{TIED_BIAS}.*expected"):
        load(theirs | {TIED_BIAS: value})


@pytest.mark.parametrize("kind", ["int", "bool", "complex", "sparse"])
def test_whatever_model_takes_weights_names_them_so(kind):
    with torch.device("meta"):
        model = nn.Linear(8, 8, bias=False)
    with refused(r"here does not fit: weight is .*expected a plain tensor of floating-point"):
        assign_weights(model, {"weight": STRANGE[kind]()}, source="here")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_what_is_not_finite_is_refused(captioner, tmp_path, value, dtype):
    weights = rounded(captioner, dtype)
    weights["vit.norm.bias"][3] = float(value)
    save_other_run(tmp_path, captioner, weights)
    with refused(r"vit\.norm\.bias holds NaN or infinity"):
        smile.load(tmp_path)


def test_float64_never_becomes_infinite(theirs, load):
    theirs = {name: tensor.double() for name, tensor in theirs.items()}
    theirs[QUERY][0, 0] = 1e300
    with refused(r"self_attention\.query\.weight holds numbers beyond 3\.4e\+38"):
        load(theirs)
    big = torch.tensor([3e38, 3e38])  # finite, though their sum is not
    assert torch.equal(to_float32(big), big)


def test_nan_in_tied_weights_is_called_that(theirs, load):
    for name in (BIAS, TIED_BIAS):
        theirs[name][2] = float("nan")
    with refused(r"decoder\.head_bias holds NaN"):
        load(theirs)


def test_widening_keeps_one_tensor_twice_at_most():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    weights = {f"{n}.weight": torch.ones(4, 4).half() for n in range(3)}
    left = []

    def watch(tensor, dtype):
        left.append(len(weights))
        return to_dtype(tensor, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smile.weights.run_folder.to_dtype", watch)
        assign_weights(model, weights, source="")
    assert left == [2, 1, 0]


def test_float32_weights_are_not_copied(theirs):
    place = theirs[QUERY].data_ptr()
    ours = to_ours(theirs, BLIP, source="")
    assert to_float32(ours["decoder.blocks.0.self_attention.query.weight"]).data_ptr() == place
    assert not unusable(nn.Parameter(torch.ones(2)))
    assert type(to_float32(nn.Parameter(torch.ones(2)))) is Tensor


# --- wrappings -----------------------------------------------------------------------------------


def named(prefix: str):
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


WRAPPINGS = {
    "bare": lambda w: w,
    "model": lambda w: {"model": w, "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    "state_dict": lambda w: {"state_dict": w},
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": {}, "epoch": 4},
    "moving average": lambda w: {"model_ema": w},
    "both": lambda w: {"model_ema": {k: v + 1 for k, v in w.items()}, "model": w},
    "net": lambda w: {"net": w},
    "nested": lambda w: {"state": {"model": w}, "best": 0.5},
    "unusual": lambda w: {"captioner weights": w, "optimizer": {"state": {}}},
    "DDP": lambda w: {"model": named("module.")(w)},
    "compiled": lambda w: {"model": named("_orig_mod.")(w)},
    "DDP and compiled": lambda w: {"model": named("module._orig_mod.")(w)},
    "compiled and DDP": lambda w: {"model": named("_orig_mod.module.")(w)},
    "parts compiled": lambda w: {
        k.replace("visual_encoder.", "visual_encoder._orig_mod."): v for k, v in w.items()
    },
    "FSDP": named("_fsdp_wrapped_module."),
    "Lightning": lambda w: {"state_dict": named("model.")(w), "pytorch-lightning_version": "2.0"},
    "PEFT": named("base_model.model."),
    "any attribute": named("captioner.blip."),
    "averaged": lambda w: {"n_averaged": torch.tensor(5), **named("module.")(w)},
    "Parameters": lambda w: {k: nn.Parameter(v) for k, v in w.items()},
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_weights_are_found_in_every_wrapping(captioner, theirs, load, kind):
    check_same(load(WRAPPINGS[kind](theirs)), captioner)


def test_a_transformers_folder_with_a_wrapper_left_in(captioner, tmp_path):
    export_transformers(captioner, tmp_path)
    theirs = read_safetensors(tmp_path / "model.safetensors")
    save_file(named("base_model.model.")(theirs), tmp_path / "model.safetensors")
    check_same(smile.load(tmp_path), captioner)


REFUSED = {
    "number as a name": (lambda w: {3: w[QUERY]}, r"expected text as names of weights, found 3"),
    "tuple as a name": (lambda w: {("a", 1): w[QUERY]}, r"found \('a', 1\) \(tuple\)"),
    "none as a name": (lambda w: w | {None: w[QUERY]}, r"names of weights, found None"),
    "nothing": (lambda w: {}, "found nothing"),
    "no weights": (lambda w: {"epoch": 3}, r"alone or under 'model', found 'epoch' \(int\)"),
    "a whole model": (lambda w: {"model": nn.Linear(2, 2)}, r"found 'model' \(<torch.*not loaded"),
    "twice": (lambda w: w | named("module.")(w), "with and without a wrapper's name"),
    "two models": (
        lambda w: named("student.")(w) | named("teacher.")(w),
        r"expected one captioner, found student\.BLIP; teacher\.BLIP",
    ),
    "LoRA": (
        lambda w: {f"base_model.model.{QUERY}".replace("weight", "lora_A.weight"): w[QUERY]},
        r"is a LoRA adapter or holds one, not a whole model: merge it first",
    ),
    "BLIP-2": (
        lambda w: {"query_tokens": w[QUERY], "visual_encoder.x": w[QUERY], "Qformer.x": w[QUERY]},
        "not a BLIP captioner but weights of BLIP-2",
    ),
    "CLIP": (
        lambda w: {"vision_model.x": w[QUERY], "text_model.y": w[QUERY]},
        "not a BLIP captioner but weights of CLIP",
    ),
    "something": (lambda w: {"conv.weight": w[QUERY]}, r"not a BLIP model; its keys are conv\.w"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_captioner_is_called_what_it_is(theirs, load, kind):
    make, message = REFUSED[kind]
    with refused(message):
        load(make(theirs))


SHAPES = {
    "flat patches": ("visual_encoder.patch_embed.proj.weight", (8, 48), "patch_embed.weight is"),
    "scalar": ("visual_encoder.pos_embed", (), r"vit\.positions is \(\), expected 3 sizes"),
    "no positions": ("visual_encoder.pos_embed", (1, 1, 8), "one for the class token"),
    "not square": ("visual_encoder.pos_embed", (1, 4, 8), "each patch of a square image"),
    "patch of 0": ("visual_encoder.patch_embed.proj.weight", (8, 3, 0, 0), "sizes above 0"),
    "scalar words": ("text_decoder.bert.embeddings.word_embeddings.weight", (), "word_embed"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_without_a_size_get_one_line(theirs, load, kind):
    name, shape, message = SHAPES[kind]
    theirs[name] = torch.zeros(shape)
    theirs.pop("text_decoder.cls.predictions.decoder.weight")
    with refused(message):
        load(theirs)


def test_no_layers_at_all(theirs, load):
    with refused(r"vit\.blocks\.0\.mlp\.fc1\.weight is missing"):
        load({name: tensor for name, tensor in theirs.items() if ".blocks." not in name})


# --- files ---------------------------------------------------------------------------------------


def test_the_format_is_told_by_the_content(captioner, theirs, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    save_file(theirs, tmp_path / "a.pth")
    check_same(smile.load(tmp_path / "a.pth"), captioner)
    torch.save(theirs, tmp_path / "a.safetensors")  # torch would go by the name
    with refused(r"was written by torch\.save: rename it so that it ends in \.pth"):
        smile.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"<!doctype html>", "is a web page"),
        (b"", "is empty"),
        (b"\x09\0\0\0\0\0\0\0{", "cannot be read as safetensors"),
    ],
)
def test_what_a_file_is_instead(captioner, tmp_path, name, content, message):
    if name == "model.safetensors":  # of a run
        save_run(tmp_path, captioner)
    (tmp_path / name).write_bytes(content)
    with refused(message):
        smile.load(tmp_path if name == "model.safetensors" else tmp_path / name)


def test_a_runs_weights_named_as_a_file(captioner, tmp_path):
    save_run(tmp_path, captioner)
    with refused("weights of a run folder, .*: name the folder"):
        smile.load(tmp_path / "model.safetensors")


def test_an_adapter_folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"x.lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    with refused(r"is an adapter \(LoRA or the like\), not a whole model: merge it first"):
        smile.load(tmp_path)
    with refused("is a LoRA adapter or holds one"):
        smile.load(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize(("count", "most"), [(3, 4), (8, 9), (9, 2), (20, 2)])
def test_a_safetensors_file_is_opened_a_bounded_number_of_times(tmp_path, monkeypatch, count, most):
    weights = {f"layer.{n}.weight": torch.ones(1) for n in range(count)}
    save_file(weights, tmp_path / "a.safetensors")
    opened = []
    real = weight_file.safe_open
    monkeypatch.setattr(weight_file, "MOST_MAPPINGS", 8)
    monkeypatch.setattr(
        weight_file, "safe_open", lambda *args, **kw: opened.append(1) or real(*args, **kw)
    )
    assert read_file(tmp_path / "a.safetensors").keys() == weights.keys()
    assert len(opened) == most


def test_a_pipe_is_no_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    with refused("not a regular file"):
        read_file(Path(tmp_path / "a.pth"))
