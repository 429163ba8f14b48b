"""What makes training faster changes nothing of what is computed."""

import copy
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_fixtures import load_golden
from helpers import config_of, trainer_of
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from smile.captioning import options
from smile.captioning.packed import AttentionByViews
from smile.config import Config, DecoderConfig, ViTConfig, override
from smile.data.batches import Batch
from smile.errors import UserError
from smile.loss import IGNORE
from smile.model.captioner import Captioner
from smile.model.layers import Attention, PreNormBlock
from smile.system.distributed import World
from smile.training import head_loss, speed
from smile.training.head_loss import caption_loss
from smile.training.objective import Objective
from smile.training.onednn import OneDNNLinear, use_mkl, use_onednn
from smile.training.precision import Precision
from smile.training.schedule import Phase
from smile.training.speed import CheckpointedBlock, checkpoint_activations, prepare, train_mode

OBJECTIVES = ("smile", "mle", "reverse")


def small(*, drop_path: float = 0.0) -> Captioner:
    """A captioner without dropout, whose MLP and heads differ in all their sizes."""
    vit = ViTConfig(image_size=32, dim=32, depth=3, num_heads=2, mlp_dim=80, drop_path=drop_path)
    decoder = DecoderConfig(
        vocab_size=60, dim=48, features_dim=32, depth=2, num_heads=3, mlp_dim=64, dropout=0.0
    )
    torch.manual_seed(0)
    return Captioner(config=Config(vit=vit, decoder=decoder)).init_weights().train()


def some_captions() -> torch.Tensor:
    """(3, 4, 9) ids: captions of 1 to 7 words after a prompt of one; images with 4, 2 and 1."""
    ids = torch.randint(3, 60, (3, 4, 9), generator=torch.Generator().manual_seed(0))
    for image, lengths in enumerate([(3, 9, 5, 7), (0, 0, 4, 8), (0, 0, 0, 3)]):
        for slot, length in enumerate(lengths):
            ids[image, slot, length:] = 0
    return ids


def losses_of(captioner: Captioner, images, ids, **settings) -> torch.Tensor:
    """(B, 3, S, S), (B, K, T) → the loss summed over all target tokens."""
    states = captioner.decode(ids[:, :, :-1].flatten(0, 1), captioner.encode(images))
    labels = ids.flatten(0, 1)[:, 1:]
    decoder = captioner.decoder
    return caption_loss(
        states,
        labels.masked_fill(labels == 0, IGNORE),
        weight=decoder.word_embed.weight,
        bias=decoder.head_bias,
        reduction="sum",
        **settings,
    )


def gradients(module: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


# Captions of one image together -------------------------------------------------------------------


@pytest.mark.parametrize("objective", [*OBJECTIVES, "mixed"])
def test_captions_together_and_apart_give_the_same_loss_and_gradients(objective):
    """Unequal numbers of captions, of unequal length: as one pair a row, without the empty rows."""
    settings = {"objective": objective}
    if objective == "mixed":
        settings = {"objective": "smile", "mle_weight": 0.3, "label_smoothing": 0.1}
    captioner, ids = small().double(), some_captions()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    together = losses_of(captioner, images, ids, **settings)
    rows = (ids != 0).any(dim=2).flatten()
    pairs = images.repeat_interleave(4, dim=0)[rows], ids.flatten(0, 1)[rows][:, None]
    apart = losses_of(captioner, *pairs, **settings)
    assert_close(together, apart, check_dtype=False)
    assert apart > 1
    expected = gradients(captioner, apart)
    for name, gradient in gradients(captioner, together).items():
        assert_close(
            gradient, expected[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_caption_an_image_is_the_reference_codes_batch(name, objective):
    golden = load_golden(name)
    length = golden.sizes.prompt_length
    golden.captioner.tokenizer = SimpleNamespace(prompt_ids=lambda prompt: [0] * length, pad_id=0)
    images, ids = golden.expected["image"], golden.expected["ids"]
    batch = Batch(images=images, ids=ids[:, None], names=["photo"] * len(images))
    measure = Objective(golden.captioner)
    loss = measure(batch, objective) / measure.num_targets(batch)
    assert loss.item() == pytest.approx(golden.expected["losses"][objective], rel=1e-5)


def test_groups_by_length_and_stored_features_change_no_loss():
    captioner, ids = small(), some_captions()[:, [0, 2, 3, 1]]  # the longest ones last
    captioner.tokenizer = SimpleNamespace(prompt_ids=lambda prompt: [1], pad_id=0)
    batch = Batch(images=torch.randn(3, 3, 32, 32), ids=ids, names=["a", "b", "c"])
    assert len(batch.ids_by_length()) == 2
    mixed = {"mle_weight": 0.3, "label_smoothing": 0.1}
    captioner.config = override(captioner.config, "loss", mixed)
    expected = losses_of(captioner, batch.images, ids, **mixed)
    measure = Objective(captioner)
    assert_close(measure(batch, "smile"), expected)
    stored = replace(batch, images=captioner.encode(batch.images))
    assert_close(measure(stored, "smile"), expected)


def test_padding_needs_no_mask():
    """Padded states are never scored, and no word looks at what comes after it."""
    captioner, ids = small(), some_captions()
    images = torch.randn(3, 3, 32, 32)
    batch = losses_of(captioner, images, ids)
    alone = torch.zeros(())
    for image, row in zip(images, ids, strict=True):
        for caption in row[(row != 0).any(dim=1)]:
            alone = alone + losses_of(captioner, image[None], caption[caption != 0][None, None])
    assert_close(batch, alone)
    expected = gradients(captioner, alone)
    for name, gradient in gradients(captioner, batch).items():
        assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


# The encoder's blocks -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_checkpointed_blocks_have_the_same_gradients(count):
    """Stochastic depth drops the same samples in the second computation."""
    captioner, ids = small(drop_path=0.5), some_captions()
    images, names = torch.randn(3, 3, 32, 32), list(captioner.state_dict())
    results = []
    for blocks in (count, 0):
        checkpoint_activations(captioner.vit, last=blocks)
        started = []
        with torch.nn.modules.module.register_module_forward_pre_hook(
            lambda module, _, log=started: log.append(isinstance(module, PreNormBlock))
        ):
            torch.manual_seed(1)
            results.append(gradients(captioner, losses_of(captioner, images, ids)))
        assert sum(started) == 3 + blocks
        assert list(captioner.state_dict()) == names
    again, plain = results
    for name in plain:
        assert torch.equal(again[name], plain[name]), name


def test_training_and_captioning_have_the_layers_they_ask_for():
    captioner = small()
    captioner.config = override(captioner.config, "train", {"checkpoint_blocks": 2})
    prepare(captioner)
    kinds = [type(block) for block in captioner.vit.blocks]
    assert kinds == [PreNormBlock, CheckpointedBlock, CheckpointedBlock]
    speed = SimpleNamespace(compile=True)  # compiled when it is first called
    for model in (captioner, options.prepare(small(), speed)):
        attentions = [module for module in model.modules() if isinstance(module, Attention)]
        assert {type(attention) for attention in attentions} == {AttentionByViews}


# oneDNN -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_onednn_gives_what_mkl_gives():
    golden = load_golden("a")
    captioner, names = golden.captioner, list(golden.captioner.state_dict())
    images, ids = golden.expected["image"], golden.expected["ids"][:, None]
    results = []
    for change in (use_mkl, partial(use_onednn, smallest=1)):
        change(captioner)
        loss = losses_of(captioner, images, ids)
        results.append([loss, gradients(captioner, loss)])
    linears = [m for m in captioner.modules() if isinstance(m, nn.Linear)]
    assert len(linears) > 10 and all(type(m) is OneDNNLinear for m in linears)
    assert list(captioner.state_dict()) == names
    (plain, expected), (fast, found) = results
    assert_close(fast, plain)
    assert fast.grad_fn is not None and expected.keys() == found.keys()
    for name in expected:
        assert_close(
            found[name], expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_onednn_leaves_other_arithmetic_alone():
    layer = use_onednn(nn.Linear(3, 2), smallest=1)
    twin = use_mkl(copy.deepcopy(layer))
    assert type(layer) is OneDNNLinear and type(twin) is nn.Linear
    x = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), twin(x)) and layer(x).dtype == torch.bfloat16
    assert torch.equal(layer.double()(x.double()), twin.double()(x.double()))
    assert layer(torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 2)


@pytest.mark.parametrize("outruns", [True, False])
def test_onednn_trains_where_it_is_faster(outruns, monkeypatch):
    monkeypatch.setattr(speed, "outruns_mkl", lambda: outruns)
    monkeypatch.setattr(speed, "use_onednn", partial(use_onednn, smallest=1))
    linears = [m for m in prepare(load_golden("a").captioner).modules() if isinstance(m, nn.Linear)]
    assert {type(layer) for layer in linears} == {OneDNNLinear if outruns else nn.Linear}


def test_train_takes_denormals_for_zero(run_main):
    tiny = torch.tensor(1e-30)
    assert tiny * 1e-10 > 0
    code, _, err = run_main("configs/missing.toml")
    assert code == 2 and "missing.toml" in err
    assert tiny * 1e-10 == 0


def test_onednn_leaves_small_layers_alone():
    layers = use_onednn(nn.Sequential(nn.Linear(512, 511), nn.Linear(512, 512)))
    assert [type(layer) for layer in layers] == [nn.Linear, OneDNNLinear]


def test_onednn_has_gradients_only_where_they_are_wanted():
    layer, x = use_onednn(nn.Linear(3, 2), smallest=1), torch.randn(2, 5, 3, requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert_close(layer.bias.grad, torch.full((2,), 10.0))
    assert_close(x.grad, layer.weight.sum(dim=0).expand(2, 5, 3))


# Precision ----------------------------------------------------------------------------------------


def test_float16_needs_a_gpu():
    with pytest.raises(UserError, match=r'"float16": needs train\.device = "cuda", not cpu'):
        Precision("float16", torch.device("cpu"))


class CastsToBfloat16(TorchDispatchMode):
    """Counts, by the place in memory, the float32 tensors that are cast to bfloat16."""

    def __init__(self):
        super().__init__()
        self.of_place = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **kwargs or {})
        if function is torch.ops.aten._to_copy.default and found.dtype == torch.bfloat16:
            self.of_place[args[0].data_ptr()] += args[0].dtype == torch.float32
        return found


def casts_of_steps(folder: Path, *settings: str) -> tuple[dict[str, int], list[float]]:
    """Three steps in bfloat16: the casts of each weight in the second one, and the losses."""
    trainer = trainer_of(config_of("train.precision=bfloat16", *settings), folder, World())
    train_mode(trainer.captioner)
    phase, batches = Phase.of(trainer.config, 1), list(islice(trainer.batches, 2))
    assert [len(batch.ids_by_length()) for batch in batches] == [2, 2]
    losses = [trainer.step(batches, phase, 0.01)[0]]
    with CastsToBfloat16() as casts:
        losses.append(trainer.step(batches, phase, 0.01)[0])
    losses.append(trainer.step(batches, phase, 0.01)[0])
    weights = trainer.captioner.named_parameters()
    return {name: casts.of_place[weight.data_ptr()] for name, weight in weights}, losses


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_casts_each_weight_once_a_step_and_changes_nothing(
    objective, tmp_path, monkeypatch
):
    """With two batches, groups of captions, blocks of targets, and a block computed again."""
    monkeypatch.setattr(head_loss, "BLOCK", 16)
    settings = (
        "data.num_train=4", "train.batch_size=2", "data.captions_per_image=3",
        "train.checkpoint_blocks=1", f"loss.objective={objective}", "loss.mle_weight=0.1",
    )  # fmt: skip
    casts, losses = casts_of_steps(tmp_path / "once", *settings)
    multiplied = ("attention", "mlp.", "patch_embed", "head_dense", "head_bias", "word_embed")
    assert casts == {name: any(part in name for part in multiplied) for name in casts}
    monkeypatch.setattr(Precision, "sharing_casts", lambda self: nullcontext())
    again, expected = casts_of_steps(tmp_path / "anew", *settings)
    assert set(again.values()) >= {0, 2, 4}
    assert losses == pytest.approx(expected, rel=1e-3)  # some sums are taken in another order


@pytest.mark.parametrize(("grad_clip", "step"), [(5.0, [-3.0, -4.0]), (0.0, [-30.0, -40.0])])
def test_the_gradient_is_clipped_unless_the_limit_is_zero(grad_clip, step):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([30.0, 40.0])
    optimizer = torch.optim.SGD([weight], lr=1.0)
    norm = Precision("float32", torch.device("cpu")).step(optimizer, [weight], grad_clip)
    assert norm.item() == pytest.approx(50.0)
    assert_close(weight.data, torch.tensor(step), rtol=1e-5, atol=0)
