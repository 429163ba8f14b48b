"""CLIP, both towers, from scratch (Radford et al. 2021): how well a text fits an image.

    clip = load_clip("clip-vit-b-32")
    images = clip.embed_images([photo])              # (1, D)
    texts = clip.embed_texts(["a dog on a beach"])   # (1, D)
    cosine = images @ texts.T

Each tower ends in a projection to a common space, where an image and its caption are close.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from smile.config import ViTConfig
from smile.data.batches import batches_of
from smile.metrics.models.batching import pad
from smile.metrics.models.bpe import ClipTokenizer
from smile.metrics.models.text_transformer import (
    ACTIVATIONS,
    Sizes,
    TextConfig,
    TextTransformer,
    known_activation,
)
from smile.model.images import normalise
from smile.model.vit import ViT
from smile.weights.names import Convention, to_ours
from smile.weights.repository import find_folder
from smile.weights.run_folder import assign_weights
from smile.weights.transformers_folder import check_type, read_folder

KNOWN = {
    "clip-vit-b-32": "openai/clip-vit-base-patch32",
    "clip-vit-l-14": "openai/clip-vit-large-patch14",
}


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes of both towers."""

    image: ViTConfig
    text: TextConfig
    embed_dim: int
    image_activation: str = "quick_gelu"
    end_id: int | None = None  # the token whose state stands for the text; None: the largest id


class Clip(nn.Module):
    """Image tower and text tower, with tokenizer and image transform.

    Args:
        config: sizes.
        tokenizer: needed only by `embed_texts`.
    """

    def __init__(self, *, config: ClipConfig, tokenizer: ClipTokenizer | None = None):
        super().__init__()
        self.config = config
        self._tokenizer = tokenizer
        self.transform = ClipTransform(config.image.image_size)
        act = ACTIVATIONS[config.image_activation]
        self.vit = ViT(config=config.image, clip=True, activation=act)
        self.text = TextTransformer(config=config.text)
        self.image_projection = nn.Linear(config.image.dim, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(config.text.dim, config.embed_dim, bias=False)

    @property
    def tokenizer(self) -> ClipTokenizer:
        """Raises ValueError if the model was made without one."""
        if self._tokenizer is None:
            raise ValueError("this CLIP was made without a tokenizer, so it reads ids only")
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        return self.vit.class_token.device

    def image_features(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, D) of length 1: the class token, projected."""
        return F.normalize(self.image_projection(self.vit(pixels)[:, 0]), dim=-1)

    def text_features(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, D) of length 1: the state at the first end-of-text token, projected.

        Raises:
            ValueError: if T is more than `max_positions` (77); the tokenizer cuts texts to it.
        """
        states = self.text(ids)
        # OpenAI takes the largest id, which is end-of-text in its vocabulary.
        is_end = ids if self.config.end_id is None else (ids == self.config.end_id).int()
        ends = is_end.argmax(dim=1)
        return F.normalize(
            self.text_projection(states[torch.arange(len(ids), device=ids.device), ends]), dim=-1
        )

    @torch.inference_mode()
    def embed_images(
        self,
        images: Iterable[Image.Image],
        *,
        batch_size: int = 32,
        progress: bool = True,
        total: int | None = None,
    ) -> Tensor:
        """RGB pictures of any size → (N, D) float32 features on the CPU.

        Args:
            images: read one batch at a time, so it may be a generator that opens files.
            progress: show a bar on a terminal.
            total: the number of images, for the bar, if `images` has no length.
        """
        total = total or length_hint(images) or None
        bar = tqdm(images, desc="CLIP", unit=" images", total=total, disable=not progress or None)
        pixels = (self.transform(image) for image in bar)
        features = [
            self.image_features(torch.stack(batch).to(self.device)).float().cpu()
            for batch in batches_of(pixels, batch_size)
        ]
        return torch.cat(features) if features else torch.empty(0, self.config.embed_dim)

    @torch.inference_mode()
    def embed_texts(
        self, texts: Sequence[str], prefix: str = "", *, batch_size: int = 128
    ) -> Tensor:
        """Texts, each after `prefix` → (N, D) float32 features on the CPU."""
        limit, end = self.config.text.max_positions, self.tokenizer.end_id
        ids = [self.tokenizer.encode(prefix + text, max_tokens=limit) for text in texts]
        features = [
            self.text_features(pad(batch, value=end, device=self.device)).float().cpu()
            for batch in batches_of(ids, batch_size)
        ]
        return torch.cat(features) if features else torch.empty(0, self.config.embed_dim)


class ClipTransform:
    """RGB picture → (3, size, size) float32 as in CLIP's training.

    The shorter side is resized to `size` (bicubic, by Pillow, on 8-bit samples), the centre square
    is cropped, and the pixels are normalised with CLIP's mean and standard deviation.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        size, shorter = self.size, min(image.size)
        width, height = (size * side // shorter for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        return normalise(resized.crop((left, top, left + size, top + size)))


# Weights ------------------------------------------------------------------------------------------


def _tower(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    """The blocks of either tower; both have the same names."""
    layer = f"{theirs}.encoder.layers.N"
    return (
        (f"{ours}.blocks.N.norm1.*", f"{layer}.layer_norm1.*"),
        (f"{ours}.blocks.N.attention.query.*", f"{layer}.self_attn.q_proj.*"),
        (f"{ours}.blocks.N.attention.key.*", f"{layer}.self_attn.k_proj.*"),
        (f"{ours}.blocks.N.attention.value.*", f"{layer}.self_attn.v_proj.*"),
        (f"{ours}.blocks.N.attention.out.*", f"{layer}.self_attn.out_proj.*"),
        (f"{ours}.blocks.N.norm2.*", f"{layer}.layer_norm2.*"),
        (f"{ours}.blocks.N.mlp.fc1.*", f"{layer}.mlp.fc1.*"),
        (f"{ours}.blocks.N.mlp.fc2.*", f"{layer}.mlp.fc2.*"),
    )


CLIP = Convention(
    name="transformers",
    model="CLIP",
    table=(
        ("vit.class_token", "vision_model.embeddings.class_embedding"),
        ("vit.patch_embed.weight", "vision_model.embeddings.patch_embedding.weight"),
        ("vit.positions", "vision_model.embeddings.position_embedding.weight"),
        ("vit.embed_norm.*", "vision_model.pre_layrnorm.*"),  # so misspelt
        *_tower("vit", "vision_model"),
        ("vit.norm.*", "vision_model.post_layernorm.*"),
        ("image_projection.weight", "visual_projection.weight"),
        ("text.token_embed.weight", "text_model.embeddings.token_embedding.weight"),
        ("text.position_embed.weight", "text_model.embeddings.position_embedding.weight"),
        *_tower("text", "text_model"),
        ("text.norm.*", "text_model.final_layer_norm.*"),
        ("text_projection.weight", "text_projection.weight"),
    ),
    dropped=(
        (r".*\.position_ids", "a constant 0, 1, 2, …"),
        (r"logit_scale", "temperature of the training loss; it changes no cosine"),
    ),
)


def load_clip(source: str | Path = "clip-vit-b-32", *, device: torch.device | str = "cpu") -> Clip:
    """Loads a CLIP in evaluation mode, with its tokenizer and its image transform.

    Args:
        source: a name of `KNOWN`, a `transformers` folder, or a hub id ("owner/name").

    Raises:
        UserError: if it cannot be found, read, or fully accounted for.
    """
    folder = find_folder(source, known=KNOWN, model_type="clip", files=("vocab.json", "merges.txt"))
    config = _read_config(folder)
    weights = to_ours(read_folder(folder), CLIP, source=folder)
    # Ours have a batch dimension.
    weights["vit.class_token"] = weights["vit.class_token"][None, None]
    weights["vit.positions"] = weights["vit.positions"][None]
    with torch.device("meta"):
        clip = Clip(config=config, tokenizer=ClipTokenizer.from_folder(folder))
    assign_weights(clip, weights, source=folder)
    return clip.eval().float().to(device)


def _read_config(folder: Path) -> ClipConfig:
    """The sizes in a folder's `config.json`; a missing one has transformers' default."""
    theirs = Sizes(check_type(folder, "clip"), folder / "config.json")
    vision, text = theirs.part("vision_config"), theirs.part("text_config")
    image_activation, text_activation = (
        known_activation(part.values.get("hidden_act", "quick_gelu"), source=part.source)
        for part in (vision, text)
    )
    end_id = text.get("eos_token_id", 49407)
    image_size, patch_size = vision.multiple("image_size", 224, "patch_size", 32)
    image_dim, image_heads = vision.multiple("hidden_size", 768, "num_attention_heads", 12)
    text_dim, text_heads = text.multiple("hidden_size", 512, "num_attention_heads", 8)
    return ClipConfig(
        image=ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            dim=image_dim,
            depth=vision.get("num_hidden_layers", 12, most=1000),
            num_heads=image_heads,
            mlp_dim=vision.get("intermediate_size", 3072),
            norm_eps=vision.get("layer_norm_eps", 1e-5, most=1),
        ),
        text=TextConfig(
            vocab_size=text.get("vocab_size", 49408),
            max_positions=text.get("max_position_embeddings", 77),
            dim=text_dim,
            depth=text.get("num_hidden_layers", 12, most=1000),
            num_heads=text_heads,
            mlp_dim=text.get("intermediate_size", 2048),
            norm_eps=text.get("layer_norm_eps", 1e-5, most=1),
            activation=text_activation,
        ),
        embed_dim=theirs.get("projection_dim", 512),
        image_activation=image_activation,
        # OpenAI's configs have 2 by mistake; it means the largest id.
        end_id=None if end_id == 2 else end_id,
    )
