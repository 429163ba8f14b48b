"""Linear layers packed for the CPU, for inference only.

torch multiplies float32 matrices with MKL, which reads the weights as they lie. oneDNN, which comes
with torch too, is faster if it may lay them out beforehand in blocks that fit its kernels: on an
AMD EPYC about 1.4 times for an image's patches, and 2 to 5 times for a decoding step's few rows.
The sums are the same, in another order. (torch.compile's "freezing" does the same to a whole graph;
this needs no compiler and no warm-up.)
"""

import torch
from torch import Tensor, nn

from smile.captioner import Captioner
from smile.layers import MLP


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
    packed = captioner if relay else captioner.decoder
    for module in packed.modules():
        if isinstance(module, nn.LayerNorm):  # or these few numbers keep a layer's mapping alive
            module.weight.data, module.bias.data = module.weight.clone(), module.bias.clone()
    # A list without the layers themselves, or it would hold on to the weights of all of them.
    for module in [m for m in packed.modules() if not isinstance(m, nn.Linear | MLP)]:
        for name, child in list(module.named_children()):
            if isinstance(child, MLP):
                fc1 = PackedLinear(child.fc1.weight, child.fc1.bias, relay=relay, gelu=True)
                fc2 = PackedLinear(child.fc2.weight, child.fc2.bias, relay=relay)
                setattr(module, name, nn.Sequential(fc1, fc2))
            elif isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight, child.bias, relay=relay))
    decoder = captioner.decoder
    decoder.packed_head = PackedLinear(decoder.word_embed.weight, decoder.head_bias, relay=relay)
    return captioner.eval()
