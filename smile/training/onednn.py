"""Linear layers that train with oneDNN's matrix product, on a CPU in float32.

torch multiplies float32 matrices with MKL. oneDNN, which also comes with torch, computes the same
sums in another order, about a tenth faster on an AMD EPYC, and a tenth slower on an Intel Xeon
(`outruns_mkl`). torch has no switch for it, so the backward pass of a linear layer is written out
here, in three products:

    y = x Wᵀ + b        dx = dy W        dW = dyᵀ x        db = Σ dy

Weights and names stay those of `nn.Linear`. Where oneDNN cannot be used (another device, autocast,
torch.compile, no oneDNN) a layer computes as usual. For inference there is `packed.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.system.onednn import multiplies

LARGE = 512 * 512  # weights of a layer


class OneDNNLinear(nn.Linear):
    """An `nn.Linear` that multiplies with oneDNN where possible."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) → (..., D_out)."""
        if _takes(x) and self.weight.dtype == torch.float32:
            return _Product.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


def use_onednn(model: nn.Module, *, smallest: int = LARGE) -> nn.Module:
    """Turns the `nn.Linear`s of a model into `OneDNNLinear`s, in place; undone by `use_mkl`.

    The modules keep their weights and hooks; only `forward` differs. Layers of fewer than
    `smallest` weights are left as they are: oneDNN gains nothing there, and the kernel that it
    caches for every shape would take a notable part of a small model's memory.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= smallest:
            module.__class__ = OneDNNLinear
    return model


def use_mkl(model: nn.Module) -> nn.Module:
    """Turns every `OneDNNLinear` into an `nn.Linear` again, in place."""
    packed: list[nn.Module] = [part for part in model.modules() if type(part) is OneDNNLinear]
    for module in packed:
        module.__class__ = nn.Linear
    return model


def _takes(x: Tensor) -> bool:
    """Whether oneDNN can multiply `x` here."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and multiplies(torch.float32)
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        grad_x = _product(grad, weight.t()) if needs_x else None
        # With MKL: oneDNN would first copy dyᵀ to another layout, which costs what it gains.
        grad_weight = rows.t() @ x.flatten(0, -2) if needs_weight else None
        return grad_x, grad_weight, rows.sum(dim=0) if needs_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, without a derivative."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "none")
