"""The cross-entropy of predicted codes, some rows at a time: the logits of all rows are never in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["CodeLoss", "code_logits", "code_loss"]

_LOGITS_AT_ONCE_CPU = 2**20
"""The logits that are in memory at a time: 4 MB, which stay in a processor's cache."""
_LOGITS_AT_ONCE = 2**25
"""The same for other devices, whose kernels need large batches: 128 MB."""


class CodeLoss(NamedTuple):
    """The loss of predicted codes, with two figures to report."""

    loss: Tensor
    """The mean cross-entropy in nats, () float32, with label smoothing. Only this has a gradient."""
    plain: Tensor
    """The same without label smoothing."""
    right: Tensor
    """The share () of the rows whose likeliest code is the right one."""


def code_loss(
    vectors: Tensor, table: Tensor, bias: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> CodeLoss:
    """Return the loss of the logits `vectors @ table.T + bias` for the codes in `targets`.

    `vectors` are (R, C), the `table` of codes (K, C), which gets no gradient, `bias` (K,) and `targets` (R,)
    int64. It is computed in float32 at least, also under autocast, and has a first derivative only. Under
    torch.compile the plain formula is compiled, which has the logits of all rows in memory.
    """
    if torch.compiler.is_compiling():
        return _all_at_once(vectors, table.detach(), bias, targets, label_smoothing)
    if not torch.is_grad_enabled():  # subtle: a Function would still be told that parameters need gradients
        vectors, bias = vectors.detach(), bias.detach()
    apply: Any = _CodeLoss.apply
    return CodeLoss(*apply(vectors, bias, table.detach(), targets, label_smoothing))


def code_logits(vectors: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    """Return the logits (R, K) of vectors (R, C), in float32 at least, also under autocast."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        return F.linear(vectors.to(dtype), table.to(dtype), bias.to(dtype))


def _all_at_once(
    vectors: Tensor, table: Tensor, bias: Tensor, targets: Tensor, label_smoothing: float
) -> CodeLoss:
    logits = code_logits(vectors, table, bias)
    loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    plain = F.cross_entropy(logits.detach(), targets) if label_smoothing else loss.detach()
    return CodeLoss(loss, plain, (logits.detach().argmax(1) == targets).float().mean())


class _CodeLoss(torch.autograd.Function):
    """The loss and its gradients, which are computed together while a part of the logits is in memory."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, bias: Tensor, table: Tensor, targets: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        rows, codes = _rows_at_once(vectors.device, len(table)), len(table)
        vectors_gradient = torch.zeros_like(vectors, dtype=dtype) if ctx.needs_input_grad[0] else None
        bias_gradient = torch.zeros_like(bias, dtype=dtype) if ctx.needs_input_grad[1] else None
        loss, plain, right = vectors.new_zeros(3, dtype=dtype).unbind()
        with torch.autocast(vectors.device.type, enabled=False):
            table, start = table.to(dtype), 0
            for part, expected in zip(torch.split(vectors, rows), torch.split(targets, rows), strict=True):
                logits = torch.addmm(bias.to(dtype), part.to(dtype), table.T)
                largest, likeliest = logits.max(1, keepdim=True)
                expected = expected[:, None]
                right = right + (likeliest == expected).sum()
                mean = logits.mean(1, keepdim=True) if smoothing else 0.0
                at_target = logits.gather(1, expected)
                shares = logits.sub_(largest).exp_()
                total = shares.sum(1, keepdim=True)
                log_total = total.log() + largest
                plain = plain + (log_total - at_target).sum()
                loss = loss + (log_total - (1 - smoothing) * at_target - smoothing * mean).sum()
                if vectors_gradient is not None or bias_gradient is not None:
                    shares.div_(total)
                    if smoothing:
                        shares.sub_(smoothing / codes)
                    shares.scatter_(1, expected, shares.gather(1, expected) - (1 - smoothing))
                if vectors_gradient is not None:
                    torch.mm(shares, table, out=vectors_gradient[start : start + len(part)])
                if bias_gradient is not None:
                    bias_gradient += shares.sum(0)
                start += len(part)
        count = len(vectors)
        ctx.count = count
        ctx.save_for_backward(vectors_gradient, bias_gradient)
        plain, right = plain / count, right / count
        ctx.mark_non_differentiable(plain, right)
        return loss / count, plain, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scale = loss / ctx.count
        gradients = [None if each is None else each * scale for each in ctx.saved_tensors]
        return (*gradients, None, None, None)


def _rows_at_once(device: torch.device, codes: int) -> int:
    numbers = _LOGITS_AT_ONCE_CPU if device.type == "cpu" else _LOGITS_AT_ONCE
    return max(1, numbers // codes)
