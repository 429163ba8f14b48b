"""What the tests of bfloat16 and int8 share: a captioner in float32, and what it computes."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.captioning import packed
from smile.config import Config, DecoderConfig, ViTConfig
from smile.model.captioner import Captioner

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
IDS = torch.randint(200, (8, 10), generator=torch.Generator().manual_seed(2))


def make_captioner() -> Captioner:
    """Random weights, so large that every layer matters."""
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
    return captioner


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
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(packed, "takes_bfloat16", lambda: True)
