"""The reference code's random checkpoints and what it computed with them, loaded into our model."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from smile.config import Config, DecoderConfig, ViTConfig
from smile.loss import IGNORE
from smile.model.captioner import Captioner
from smile.weights.names import BLIP, from_ours, to_ours

GOLDEN = Path(__file__).parent / "golden"


def golden_config(sizes: dict) -> Config:
    """The fixture's own description of its model as a config of ours."""
    vit = ViTConfig(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        dim=sizes["vision_width"],
        depth=sizes["vision_depth"],
        num_heads=sizes["vision_heads"],
        mlp_dim=4 * sizes["vision_width"],
        norm_eps=sizes["vision_layer_norm_eps"],
    )
    decoder = DecoderConfig(
        vocab_size=sizes["vocab_size"],
        dim=sizes["text_width"],
        features_dim=sizes["vision_width"],
        depth=sizes["text_layers"],
        num_heads=sizes["text_heads"],
        mlp_dim=sizes["text_ffn"],
        max_positions=sizes["max_positions"],
        norm_eps=sizes["text_layer_norm_eps"],
    )
    return Config(vit=vit, decoder=decoder)


@dataclass
class Golden:
    """One fixture: our captioner with its weights, its inputs, and the reference's outputs."""

    captioner: Captioner
    expected: dict

    @property
    def sizes(self) -> SimpleNamespace:
        return SimpleNamespace(**self.expected["config"])

    @property
    def labels(self) -> torch.Tensor:
        """(B, T - prompt) ids to predict, -100 at padding."""
        labels = self.expected["ids"][:, self.sizes.prompt_length :]
        return labels.masked_fill(labels == self.sizes.pad, IGNORE)

    def states(self) -> torch.Tensor:
        """(B, T - prompt, D) states that predict the labels, with gradients."""
        features = self.captioner.encode(self.expected["image"])
        states = self.captioner.decode(self.expected["ids"], features)
        return states[:, self.sizes.prompt_length - 1 : -1]

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients by BLIP's names."""
        parameters = self.captioner.named_parameters()
        return from_ours({name: parameter.grad for name, parameter in parameters}, BLIP)


def load_golden(name: str) -> Golden:
    """Fixture "a" or "b", as a fresh model."""
    expected = torch.load(GOLDEN / f"blip_tiny_{name}_expected.pt", weights_only=True)
    checkpoint = torch.load(GOLDEN / f"blip_tiny_{name}.pth", weights_only=True)
    captioner = Captioner(config=golden_config(expected["config"]))
    captioner.load_state_dict(to_ours(checkpoint["model"], BLIP, source=f"blip_tiny_{name}.pth"))
    return Golden(captioner.eval(), expected)
