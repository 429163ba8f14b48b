"""Linear layers that train by oneDNN's matrix product, on a CPU in float32.

torch multiplies float32 matrices with MKL. oneDNN, which comes with torch too, does the same sums
in another order, on an AMD EPYC about a tenth faster. torch has no switch for it, so here is the
derivative of a linear layer by hand, in three products:

    y = x Wᵀ + b        dx = dy W        dW = dyᵀ x        db = Σ dy

Weights and names stay those of `nn.Linear`. Where a layer cannot go this way (another device,
autocast, torch.compile, no oneDNN) it goes the usual one. For inference there is `packed.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 512 * 512  # weights of a layer


class OneDNNLinear(nn.Linear):
    """An `nn.Linear` with another way to the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) → (..., D_out)."""
        if _takes(x) and self.weight.dtype == torch.float32:
            return _Product.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


def use_onednn(model: nn.Module, *, smallest: int = LARGE) -> nn.Module:
    """Makes the `nn.Linear`s of a model `OneDNNLinear`s, in place; undone by `use_mkl`.

    The layers stay what they are, with their weights and hooks; only `forward` differs. Those of
    fewer than `smallest` weights are left: there oneDNN gains nothing, and it keeps a kernel for
    every shape it meets, which in a small model's memory shows.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= smallest:
            module.__class__ = OneDNNLinear
    return model


def use_mkl(model: nn.Module) -> nn.Module:
    """Makes every `OneDNNLinear` an `nn.Linear` again, in place."""
    for module in model.modules():
        if type(module) is OneDNNLinear:
            module.__class__ = nn.Linear
    return model


def _takes(x: Tensor) -> bool:
    """Whether oneDNN can multiply `x` here and now."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
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
        # MKL's product: oneDNN's would first have to lay dyᵀ out anew, which costs what it gains.
        grad_weight = rows.t() @ x.flatten(0, -2) if needs_weight else None
        return grad_x, grad_weight, rows.sum(dim=0) if needs_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, without a derivative."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "none")
