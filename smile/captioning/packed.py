"""Layers packed for the CPU, for inference only.

torch multiplies float32 matrices with MKL, which reads the weights as they lie. oneDNN, which comes
with torch too, is faster if it may lay them out beforehand in blocks that fit its kernels: on an
AMD EPYC about 1.4 times for an image's patches, and 2 to 5 times for a decoding step's few rows.
The sums are the same, in another order. (torch.compile's "freezing" does the same to a whole graph;
this needs no compiler and no warm-up.)
"""

import torch
from torch import Tensor, nn

from smile.model.cache import KeysValues
from smile.model.captioner import Captioner
from smile.model.layers import MLP, Attention

FEW = 32  # queries of an image, up to which `FewQueriesAttention` is at its best


class PackedLinear(nn.Module):
    """What `nn.Linear` computes, from weights in oneDNN's own layout; without gradients.

    Args:
        relay: lay the weights out anew; else they are read in place, which already does for the
            one or few rows of a decoding step.
        gelu: apply the exact GELU to the result while it is still in the processor's cache.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, relay: bool = True, gelu: bool = False):
        super().__init__()
        self.then = "gelu" if gelu else "none"
        # Not buffers: the layout is opaque, so it can be neither saved nor moved to a device.
        weight = weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if relay else weight
        self.bias = bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) → (..., D_out), float32."""
        operator = torch.ops.mkldnn._linear_pointwise.default  # named, it need not be looked for
        return operator(x, self.weight, self.bias, self.then, [], "none")


def packed(*layers: nn.Linear, relay: bool = True, gelu: bool = False) -> PackedLinear:
    """The packed layer that gives what `layers` give of one input, side by side."""
    weight, bias = layers[0].weight, layers[0].bias
    if len(layers) > 1:
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
    return PackedLinear(weight, bias, relay=relay, gelu=gelu)


def packed_mlp(mlp: MLP, *, relay: bool) -> nn.Module:
    """An MLP with GELU, of packed layers."""
    return nn.Sequential(packed(mlp.fc1, relay=relay, gelu=True), packed(mlp.fc2, relay=relay))


class PackedHead(PackedLinear):
    """The decoder's head, from word embeddings and bias as they were when it was packed."""

    def forward(self, states: Tensor, word_embed: Tensor, bias: Tensor) -> Tensor:
        """(..., D) → (..., V); the decoder hands in its weights, which are not read."""
        return super().forward(states)


class AttentionByViews(Attention):
    """`Attention` that splits and merges heads by views, for speed.

    einops takes about 10 µs a call to look its pattern up. A decoding step, whose arithmetic is
    small, makes six such calls a block.
    """

    def split_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """(B·K, T, D) → (B, heads, K·T, D / heads), not copied."""
        heads = x.view(x.size(0) // copies, -1, self.num_heads, x.size(2) // self.num_heads)
        return heads.transpose(1, 2)

    def merge_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """(B, heads, K·T, D / heads) → (B·K, T, D)."""
        merged = x.transpose(1, 2).flatten(2)
        return merged.view(x.size(0) * copies, -1, merged.size(2))


def use_views(model: nn.Module) -> nn.Module:
    """Makes every `Attention` of a model an `AttentionByViews`, in place: the same numbers.

    On any device, in training too: weights, their names and hooks stay.
    """
    for module in model.modules():
        if type(module) is Attention:
            module.__class__ = AttentionByViews
    return model


class PackedAttention(AttentionByViews):
    """`Attention` of packed layers."""

    def __init__(self, attention: Attention, *, relay: bool):
        nn.Module.__init__(self)
        self.num_heads, self.dropout = attention.num_heads, 0.0
        for name, layer in attention.named_children():
            setattr(self, name, packed(layer, relay=relay))


class JointAttention(AttentionByViews):
    """Self-attention whose queries, keys and values are one product, read faster than three."""

    def __init__(self, attention: Attention):
        nn.Module.__init__(self)
        self.num_heads, self.dropout = attention.num_heads, 0.0
        self.joint = packed(attention.query, attention.key, attention.value)
        self.out = packed(attention.out)

    def project(self, x: Tensor) -> tuple[Tensor, KeysValues]:
        """(B, T, D) → queries, keys and values, (B, heads, T, head_dim)."""
        three = self.joint(x).view(*x.shape[:2], 3, self.num_heads, -1)
        queries, keys, values = three.permute(2, 0, 3, 1, 4).unbind()
        return queries, (keys, values)


class FewQueriesAttention(PackedAttention):
    """Cross-attention by two matrix products, for a decoding step.

    torch's fused attention goes in blocks of 32 queries, of which a caption's next word, or its
    beams', fill only a few.
    """

    def attend(self, queries: Tensor, keys_values: KeysValues, *, causal: bool = False) -> Tensor:
        """(B, heads, T, d) queries → (B, heads, T, d); more than `FEW` go the usual way."""
        if causal or queries.size(2) > FEW:
            return super().attend(queries, keys_values, causal=causal)
        keys, values = keys_values
        return self.weights(queries, keys) @ values


def can_pack(captioner: Captioner) -> bool:
    """Whether this torch has oneDNN's operators and the weights are float32 on the CPU."""
    weight = captioner.decoder.word_embed.weight
    has_operators = torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    )
    return has_operators and weight.device.type == "cpu" and weight.dtype == torch.float32


@torch.no_grad()
def pack(captioner: Captioner, *, relay: bool = True) -> Captioner:
    """Packs every linear layer of a captioner in place; from then on it can only caption.

    The original weights are let go layer by layer, so this takes no second copy of them, except of
    the word embeddings, which are also the head.

    Args:
        relay: lay the weights out anew, which takes about as long as it saves on one image. Else
            oneDNN reads the decoder's in place: at once, without a copy, and for the few rows of a
            decoding step quicker than MKL all the same. The encoder's many rows stay with MKL.

    Raises:
        ValueError: where `can_pack` is false.
    """
    if not can_pack(captioner):
        raise ValueError("this captioner cannot be packed: it takes oneDNN, float32 and the CPU")
    decoder = captioner.decoder
    if relay:
        for module in captioner.modules():
            if isinstance(module, nn.LayerNorm):  # or these few keep a layer's mapping alive
                module.weight.data, module.bias.data = module.weight.clone(), module.bias.clone()
        for block in captioner.vit.blocks:
            block.attention = PackedAttention(block.attention, relay=True)
            block.mlp = packed_mlp(block.mlp, relay=True)
    for block in decoder.blocks:
        text = block.self_attention
        block.self_attention = JointAttention(text) if relay else PackedAttention(text, relay=False)
        block.cross_attention = FewQueriesAttention(block.cross_attention, relay=relay)
        block.mlp = packed_mlp(block.mlp, relay=relay)
    decoder.head_dense = packed(decoder.head_dense, relay=relay)
    decoder.head = PackedHead(decoder.word_embed.weight, decoder.head_bias, relay=relay)
    return captioner.eval()
