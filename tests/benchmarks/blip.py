"""BLIP with random weights in two forms, transformers' and ours: the same weights, any size."""

from dataclasses import dataclass

import project  # noqa: F401
import torch

import smile.data.augment  # noqa: F401  (makes torchvision importable for transformers)
from smile.config import Config, DecoderConfig, ViTConfig
from smile.model.captioner import Captioner
from smile.weights.names import TRANSFORMERS, to_ours
from smile.weights.run_folder import build

PROMPT = [30522, 1037, 3861, 1997]  # [DEC] a picture of
SEP, VOCAB, PATCH = 102, 30524, 16


@dataclass(frozen=True)
class Sizes:
    """Widths, layers and heads of the encoder and of the decoder; MLPs are four times as wide."""

    name: str
    vit_dim: int
    vit_depth: int
    vit_heads: int
    dim: int = 768
    depth: int = 12
    heads: int = 12

    def patches(self, image_size: int) -> int:
        """Tokens that the encoder makes of an image, the class token among them."""
        return (image_size // PATCH) ** 2 + 1


BASE = Sizes("base", 768, 12, 12)
LARGE = Sizes("large", 1024, 24, 16)
TINY = Sizes("tiny", 32, 2, 2, dim=32, depth=2, heads=2)


def make_theirs(sizes: Sizes, image_size: int, device: str = "cpu"):
    """transformers' captioner, made on the device: drawn on the CPU, large takes seconds."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    config = BlipConfig(
        vision_config={
            "image_size": image_size,
            "patch_size": PATCH,
            "hidden_size": sizes.vit_dim,
            "num_hidden_layers": sizes.vit_depth,
            "num_attention_heads": sizes.vit_heads,
            "intermediate_size": 4 * sizes.vit_dim,
        },
        text_config={
            "vocab_size": VOCAB,
            "encoder_hidden_size": sizes.vit_dim,
            "hidden_size": sizes.dim,
            "num_hidden_layers": sizes.depth,
            "num_attention_heads": sizes.heads,
            "intermediate_size": 4 * sizes.dim,
            "bos_token_id": PROMPT[0],
            "sep_token_id": SEP,
            "eos_token_id": SEP,
            "pad_token_id": 0,
        },
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = BlipForConditionalGeneration(config).eval()
    with torch.no_grad():  # spread the scores out, so that no caption hangs on a rounding error
        model.text_decoder.cls.predictions.transform.LayerNorm.weight.mul_(4)
    return model


def make_ours(theirs, sizes: Sizes, image_size: int) -> Captioner:
    """Our captioner, with a copy of their weights, where and of the type they are."""
    weights = to_ours(dict(theirs.state_dict()), TRANSFORMERS, source="transformers")
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    vit = ViTConfig(
        image_size=image_size,
        patch_size=PATCH,
        dim=sizes.vit_dim,
        depth=sizes.vit_depth,
        num_heads=sizes.vit_heads,
        mlp_dim=4 * sizes.vit_dim,
        norm_eps=1e-5,
    )
    decoder = DecoderConfig(
        vocab_size=VOCAB,
        dim=sizes.dim,
        features_dim=sizes.vit_dim,
        depth=sizes.depth,
        num_heads=sizes.heads,
        mlp_dim=4 * sizes.dim,
    )
    config = Config(vit=vit, decoder=decoder)
    return build(config, None, weights, source="transformers").to(theirs.dtype)
