"""What the tests of bfloat16 and int8 share: a captioner in float32, and what it computes."""

import copy
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.captioning import packed
from smile.captioning.packed import use_views
from smile.config import Config, DecoderConfig, ViTConfig
from smile.model.captioner import Captioner

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
IDS = torch.randint(200, (8, 10), generator=torch.Generator().manual_seed(2))
# How much of a wrong weight's effect there may be in log-probabilities that are off. Right ones
# reach 0.06 in bfloat16 and 0.29 in int8; with any weight left out, a quarter too large or out of
# order, one reaches 0.53.
SHARE = 0.4


def make_captioner() -> Captioner:
    """Random weights, those too that start at 0 or 1, and so large that every one matters."""
    vit = ViTConfig(image_size=32, patch_size=16, dim=64, depth=2, num_heads=2, mlp_dim=128)
    decoder = DecoderConfig(
        vocab_size=200, dim=64, features_dim=64, depth=2, num_heads=2, mlp_dim=128
    )
    torch.manual_seed(0)
    captioner = Captioner(config=Config(vit=vit, decoder=decoder)).init_weights().eval()
    with torch.no_grad():
        for module in captioner.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(2)
        captioner.decoder.head_norm.weight.mul_(2)
        for name, weight in captioner.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.2)
            elif "norm" in name:
                weight.mul_(1 + 0.3 * torch.randn_like(weight))
        captioner.vit.class_token.normal_()
    return captioner


def wrong(captioner: Captioner, name: str, *, rolled: bool = False) -> Captioner:
    """A copy with a bias left out, or `rolled` out of order; another weight a quarter too large."""
    captioner = copy.deepcopy(captioner)
    weight = captioner.get_parameter(name).data
    if not name.endswith("bias"):
        weight.mul_(1.25)
    elif rolled:
        weight.copy_(weight.roll(1))
    else:
        weight.zero_()
    return captioner


@cache
def effects() -> dict[str, Tensor]:
    """What each weight of `make_captioner()` adds to the log-probabilities when it is `wrong`.

    A key's bias adds the same to all scores of a query, so softmax takes no notice of it.
    """
    captioner = use_views(make_captioner())
    names = [name for name, _ in captioner.named_parameters() if not name.endswith("key.bias")]
    exact = logprobs(captioner)
    return {name: logprobs(wrong(captioner, name)) - exact for name in names}


def suspects(off: Tensor) -> dict[str, float]:
    """The weights that seem to be wrong where log-probabilities are off by this, with their shares.

    Rounding and a wrong weight may be as far off. But rounding is off in no direction, and a wrong
    weight in its own: the share is how much of its effect there is, by least squares.
    """
    shares = {
        name: float((off * effect).sum() / effect.square().sum())
        for name, effect in effects().items()
    }
    return {name: share for name, share in shares.items() if abs(share) > SHARE}


@torch.inference_mode()
def logprobs(captioner: Captioner) -> Tensor:
    """(8, 10, 200), of the next word after each word of eight texts about four images."""
    features = captioner.encode(IMAGES.to(captioner.vit.class_token))
    cache = captioner.new_cache(features, max_length=IDS.size(1), copies=2)
    states = [captioner.decode(IDS[::2, :4], None, cache=cache)]
    cache.spread()  # two texts of an image share its first words
    states = [states[0].repeat_interleave(2, dim=0)]
    for place in range(4, IDS.size(1)):  # then word by word, as captions are made
        states.append(captioner.decode(IDS[:, place : place + 1], None, cache=cache))
    return captioner.logits(torch.cat(states, dim=1)).float().log_softmax(dim=-1)


def put_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts operators in place that compute what oneDNN's do where the CPU multiplies bfloat16."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor, post_op: str, *_: object) -> Tensor:
        assert x.dtype == weight.dtype == bias.dtype
        y = F.linear(x.float(), weight.float(), bias.float())
        return (F.gelu(y) if post_op == "gelu" else y).to(x.dtype)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", torch.clone, raising=False)
    pointwise = SimpleNamespace(default=linear)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", pointwise, raising=False)
    monkeypatch.setattr(packed, "multiplies", lambda dtype: True)
