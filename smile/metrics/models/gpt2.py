"""GPT-2, from scratch (Radford et al. 2019): how likely a text is as English.

    gpt2 = load_gpt2()
    states = gpt2(ids)               # (B, T, D)
    logits = gpt2.logits(states)     # (B, T, V): scores of every token as the next one

The head is tied to the token embedding, so it has no weights of its own.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.errors import UserError
from smile.metrics.models.bpe import Gpt2Tokenizer
from smile.metrics.models.text_transformer import (
    Sizes,
    TextConfig,
    TextTransformer,
    known_activation,
)
from smile.weights.names import Convention, to_ours
from smile.weights.repository import find_folder
from smile.weights.run_folder import assign_weights
from smile.weights.transformers_folder import check_type, read_folder

KNOWN = {"gpt2": "openai-community/gpt2"}


class GPT2(nn.Module):
    """A causal Transformer with a tied head, and its tokenizer.

    Args:
        config: sizes.
        tokenizer: not needed by `forward` and `logits`.
    """

    def __init__(self, *, config: TextConfig, tokenizer: Gpt2Tokenizer | None = None):
        super().__init__()
        self.config = config
        self._tokenizer = tokenizer
        self.transformer = TextTransformer(config=config)

    @property
    def tokenizer(self) -> Gpt2Tokenizer:
        """Raises ValueError if the model was made without one."""
        if self._tokenizer is None:
            raise ValueError("this GPT-2 was made without a tokenizer, so it reads ids only")
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        return self.transformer.token_embed.weight.device

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, T, D) states; padding goes to the right."""
        return self.transformer(ids)

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) → (..., V)."""
        return F.linear(states, self.transformer.token_embed.weight)


# Weights ------------------------------------------------------------------------------------------


def convention(prefix: str) -> Convention:
    """The library's names; their prefix is "transformer." if the head was saved too, else ""."""
    layer = f"{prefix}h.N"
    attention = "transformer.blocks.N.attention"
    return Convention(
        name="transformers",
        model="GPT-2",
        table=(
            ("transformer.token_embed.weight", f"{prefix}wte.weight"),
            ("transformer.position_embed.weight", f"{prefix}wpe.weight"),
            ("transformer.blocks.N.norm1.*", f"{layer}.ln_1.*"),
            # Theirs are "Conv1D": a linear layer whose weight is transposed.
            (
                " + ".join(f"{attention}.{part}.*" for part in ("query", "key", "value")),
                f"{layer}.attn.c_attn.*^T",
            ),
            (f"{attention}.out.*", f"{layer}.attn.c_proj.*^T"),
            ("transformer.blocks.N.norm2.*", f"{layer}.ln_2.*"),
            ("transformer.blocks.N.mlp.fc1.*", f"{layer}.mlp.c_fc.*^T"),
            ("transformer.blocks.N.mlp.fc2.*", f"{layer}.mlp.c_proj.*^T"),
            ("transformer.norm.*", f"{prefix}ln_f.*"),
        ),
        dropped=((r".*\.attn\.(masked_)?bias", "the causal mask, a constant"),),
        tied={"lm_head.weight": f"{prefix}wte.weight"},
    )


def load_gpt2(source: str | Path = "gpt2", *, device: torch.device | str = "cpu") -> GPT2:
    """Loads a GPT-2 in evaluation mode, with its tokenizer.

    Args:
        source: a name of `KNOWN`, a `transformers` folder, or a hub id ("owner/name").

    Raises:
        UserError: if it cannot be found, read, or fully accounted for.
    """
    folder = find_folder(source, known=KNOWN, model_type="gpt2", files=("vocab.json", "merges.txt"))
    config = _read_config(folder)
    theirs = read_folder(folder)
    prefix = "transformer." if "transformer.wte.weight" in theirs else ""
    weights = to_ours(theirs, convention(prefix), source=folder)
    with torch.device("meta"):
        gpt2 = GPT2(config=config, tokenizer=Gpt2Tokenizer.from_folder(folder))
    assign_weights(gpt2, weights, source=folder)
    return gpt2.eval().float().to(device)


def _read_config(folder: Path) -> TextConfig:
    """The sizes in a folder's `config.json`; a missing one has transformers' default."""
    theirs = check_type(folder, "gpt2")
    source = folder / "config.json"
    sizes = Sizes(theirs, source)
    # Variants of attention that we do not implement; ignoring them would give wrong numbers.
    for key, ours in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if theirs.get(key, ours) != ours:
            raise UserError(f"{source}: {key} is {theirs[key]}, but only {ours} is implemented")
    dim, num_heads = sizes.multiple("n_embd", 768, "n_head", 12)
    return TextConfig(
        vocab_size=sizes.get("vocab_size", 50257),
        max_positions=sizes.get("n_positions", 1024),
        dim=dim,
        depth=sizes.get("n_layer", 12, most=1000),
        num_heads=num_heads,
        mlp_dim=sizes.get("n_inner", 4 * dim),
        norm_eps=sizes.get("layer_norm_epsilon", 1e-5, most=1),
        activation=known_activation(theirs.get("activation_function", "gelu_new"), source=source),
    )
