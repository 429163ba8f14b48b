"""Layers packed for inference on the CPU, and attention that splits heads by views.

torch multiplies float32 matrices with MKL, which reads weights in their usual layout. oneDNN, which
comes with torch too, is faster with weights in its own blocked layout: on an AMD EPYC about 1.4
times for an image's patches, and 2 to 5 times for a decoding step's few rows. On an Intel Xeon both
are equally fast for the patches; for the rows of a decoding step (24 with 8 images and 3 beams)
packed oneDNN is 1.1 to 1.2 times as fast. The sums are the same, in another order. (torch.compile's
"freezing" does this to a whole graph; here no compiler and no warm-up are needed.)

Weights in bfloat16 are packed likewise, where the CPU can multiply them. On an Intel Xeon with AMX
that is 1.1 times as fast for an image's patches, and 1.6 times for a decoding step's few rows, as
bfloat16 in its usual layout. The head stays in float32 (`Float32Head`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.captioning.int8 import quantized
from smile.model.cache import KeysValues
from smile.model.captioner import Captioner
from smile.model.decoder import DecoderBlock
from smile.model.layers import MLP, Attention, PreNormBlock
from smile.system.onednn import fuses, multiplies, outruns_mkl

FEW = 32  # the most queries of an image for which `FewQueriesAttention` is faster


class PackedLinear(nn.Module):
    """What `nn.Linear` computes, by oneDNN and without gradients.

    Args:
        repack: copy the weights into oneDNN's blocked layout; otherwise they are read in place,
            which on an AMD is fast enough for the few rows of a decoding step.
        gelu: apply the exact GELU to the result, if oneDNN can while it is still in the processor's
            cache.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, repack: bool = True, gelu: bool = False):
        super().__init__()
        self.post_op = "gelu" if gelu and fuses() else "none"
        self.gelu_apart = gelu and not fuses()
        # Not a buffer: the layout is opaque, so it can be neither saved nor moved to a device.
        weight = weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if repack else weight
        self.bias = bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) → (..., D_out), of the type of the weights."""
        operator = torch.ops.mkldnn._linear_pointwise.default  # `.default` skips overload lookup
        y = operator(x, self.weight, self.bias, self.post_op, [], "none")
        return F.gelu(y) if self.gelu_apart else y

    def _save_to_state_dict(self, *_: Any) -> NoReturn:
        """Called by `state_dict()`, which would leave these weights out without a word."""
        raise ValueError("a packed captioner can only caption: load it again to save or export it")


def packed(*layers: nn.Linear, repack: bool = True, gelu: bool = False) -> PackedLinear:
    """A packed layer whose output is that of all `layers`, concatenated."""
    weight: Tensor = layers[0].weight
    bias: Tensor = layers[0].bias
    if len(layers) > 1:
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
    return PackedLinear(weight, bias, repack=repack, gelu=gelu)


Make = Callable[..., nn.Module]  # a layer of one or several: `packed`, or `quantized` of int8.py


def made_mlp(mlp: MLP, make: Make) -> nn.Module:
    """An MLP with GELU, of layers made so."""
    return nn.Sequential(make(mlp.fc1, gelu=True), make(mlp.fc2))


class PackedHead(PackedLinear):
    """The decoder's head, with the word embeddings and bias of the time of packing, in float32."""

    def forward(self, x: Tensor, *unread: Tensor) -> Tensor:
        """(..., D) → (..., V), float32. The two weights that the decoder passes are not read."""
        return super().forward(x.float())


class Float32Head(nn.Module):
    """A head that computes float32 logits of states in bfloat16, with the weights of its making.

    bfloat16 has no numbers between 8 and 8.0625. Logits rounded so far let words that are nearly as
    likely change places: a captioner of Flickr8k described 30 of 40 pictures as it does in float32,
    and 36 with this head.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = weight.detach().float(), bias.detach().float()

    def forward(self, x: Tensor, *unread: Tensor) -> Tensor:
        """(..., D) → (..., V), float32. The two weights that the decoder passes are not read."""
        return F.linear(x.float(), self.weight, self.bias)


class AttentionByViews(Attention):
    """`Attention` that splits and merges heads by views instead of einops, for speed.

    An einops call costs about 10 µs more than a view. A decoding step, whose arithmetic is small,
    makes six of them a block.
    """

    def split_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """(B·K, T, D) → (B, heads, K·T, D / heads)."""
        heads = x.view(x.size(0) // copies, -1, self.num_heads, x.size(2) // self.num_heads)
        return heads.transpose(1, 2)

    def merge_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """(B, heads, K·T, D / heads) → (B·K, T, D)."""
        merged = x.transpose(1, 2).flatten(2)
        return merged.view(x.size(0) * copies, -1, merged.size(2))


def use_views(model: nn.Module) -> nn.Module:
    """Turns every `Attention` of a model into an `AttentionByViews`, in place.

    It computes the same numbers, on any device and in training too. Weights, names and hooks stay.
    """
    for module in model.modules():
        if type(module) is Attention:
            module.__class__ = AttentionByViews
    return model


class PackedAttention(AttentionByViews):
    """`Attention` with layers made so."""

    def __init__(self, attention: Attention, make: Make = packed):
        nn.Module.__init__(self)
        self.num_heads, self.dropout = attention.num_heads, 0.0
        for name in ("query", "key", "value", "out"):
            self.add_module(name, make(getattr(attention, name)))


class JointAttention(AttentionByViews):
    """Self-attention whose queries, keys and values are one product, which is faster than three."""

    def __init__(self, attention: Attention, make: Make = packed):
        nn.Module.__init__(self)
        self.num_heads, self.dropout = attention.num_heads, 0.0
        self.joint = make(attention.query, attention.key, attention.value)
        self.add_module("out", make(attention.out))

    def project(self, x: Tensor) -> tuple[Tensor, KeysValues]:
        """(B, T, D) → queries, keys and values, (B, heads, T, head_dim)."""
        three = self.joint(x).view(*x.shape[:2], 3, self.num_heads, -1)
        queries, keys, values = three.permute(2, 0, 3, 1, 4).unbind()
        return queries, (keys, values)


class FewQueriesAttention(PackedAttention):
    """Cross-attention by two matrix products, for a decoding step.

    torch's fused attention works on blocks of 32 queries. The next words of an image's few beams
    fill only a part of one. In bfloat16 it is used all the same: its softmax is in float32.
    """

    def attend(self, queries: Tensor, keys_values: KeysValues, *, causal: bool = False) -> Tensor:
        """(B, heads, T, d) queries → (B, heads, T, d); above `FEW`, by torch's attention."""
        if causal or queries.size(2) > FEW or queries.dtype != torch.float32:
            return super().attend(queries, keys_values, causal=causal)
        keys, values = keys_values
        return self.weights(queries, keys) @ values


def can_pack(captioner: Captioner) -> bool:
    """Whether oneDNN multiplies these weights here: on the CPU, not packed yet, of a type it takes.

    That is float32, and bfloat16 on many processors.
    """
    if isinstance(captioner.decoder.head, PackedLinear):
        return False
    weight = captioner.decoder.word_embed.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    return multiplies(weight.dtype)


@torch.no_grad()
def pack(captioner: Captioner, *, repack: bool = True, int8: bool = False) -> Captioner:
    """Packs every linear layer of a captioner in place; after that it can only caption.

    The original weights are freed layer by layer, so there is never a second copy of all of them.
    Only the word embeddings, which are also the head, exist twice: the head in float32.

    Args:
        repack: copy the weights into oneDNN's blocked layout, which takes about as long as it saves
            on one image. Otherwise the encoder stays with MKL, and oneDNN reads the decoder's
            weights in place: no copy, and on AMD's processors still faster than MKL on the few rows
            of a decoding step.
        int8: quantise the linear layers of the decoder's blocks (`Int8Linear`).

    Raises:
        ValueError: `can_pack` is false, or torch multiplies no int8 here.
    """
    if not can_pack(captioner):
        raise ValueError(
            "this captioner cannot be packed: that needs the CPU, weights in float32 or bfloat16 "
            "that oneDNN multiplies here, and that it is not packed already"
        )
    decoder = captioner.decoder
    if repack:
        _pack_encoder(captioner)
    make = quantized if int8 else partial(packed, repack=repack)
    for block in decoder.blocks:
        assert isinstance(block, DecoderBlock)  # what a ModuleList holds has no type
        joins = repack or int8  # joined weights are copied
        kind = JointAttention if joins else PackedAttention
        block.self_attention = kind(block.self_attention, make)
        block.cross_attention = FewQueriesAttention(block.cross_attention, make)
        block.add_module("mlp", made_mlp(block.mlp, make))
    decoder.add_module("head_dense", packed(decoder.head_dense, repack=repack))
    weight, bias = decoder.word_embed.weight, decoder.head_bias
    head = PackedHead(weight.float(), bias.float(), repack=repack)
    decoder.add_module("head", head)
    return captioner.eval()


def _pack_encoder(captioner: Captioner) -> None:
    for module in captioner.modules():
        # Clone them: a norm's few weights would keep the whole layer's memory map alive.
        if isinstance(module, nn.LayerNorm):
            module.weight.data, module.bias.data = module.weight.clone(), module.bias.clone()
    for block in captioner.vit.blocks:
        assert isinstance(block, PreNormBlock)
        block.attention = PackedAttention(block.attention)
        block.add_module("mlp", made_mlp(block.mlp, packed))


def made_fast(captioner: Captioner, *, repack: bool = True, int8: bool = False) -> Captioner:
    """A captioner made ready to caption on its device, in place: packed where that can be.

    Without oneDNN's help weights in bfloat16 still get a head that computes in float32. Weights in
    float32 that are not to be copied stay with MKL where that is faster. `int8` as in `pack`, where
    there must be oneDNN.
    """
    use_views(captioner)
    is_float32 = captioner.decoder.word_embed.weight.dtype == torch.float32
    is_left = is_float32 and not (repack or outruns_mkl())
    if int8 or (can_pack(captioner) and not is_left):
        return pack(captioner, repack=repack, int8=int8)
    return exact_head(captioner)


def exact_head(captioner: Captioner) -> Captioner:
    """Gives a captioner in bfloat16 on the CPU a `Float32Head`, in place; leaves others alone."""
    decoder = captioner.decoder
    weight = decoder.word_embed.weight
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
        decoder.add_module("head", Float32Head(weight, decoder.head_bias))
    return captioner
