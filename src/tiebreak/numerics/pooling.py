"""Max pooling whose derivative at ties is an argument.

The value is the maximum, bit for bit that of `torch.nn.functional.max_pool2d`; the rule at ties acts in the
backward pass only. That pass is linear in the gradient and its own derivative is the Jacobian applied
forward, so derivatives of every order and both modes come from two linear maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, Forward, PoolJacobian
from tiebreak.numerics import kernels, pool_autograd, pool_controls
from tiebreak.numerics.geometry import PoolGeometry, Size
from tiebreak.numerics.switch import JacobianSwitch, PoolEvent, observer

__all__ = ["JacobianSwitch", "MaxPool2d", "PoolEvent", "max_pool2d", "pool"]


def max_pool2d(
    x: Tensor,
    *,
    kernel: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    jacobian: PoolJacobian | JacobianSwitch = NATIVE,
) -> Tensor:
    """Maximum over windows, with a chosen derivative where several entries attain it.

    At a window with n tied maxima and incoming gradient g the beta family sends beta * g / n to each of them
    and (1 - beta) * g to the first; a window without a tie passes g on untouched, whatever the rule. With
    `Forward.BLENDED` the value is the published `beta * minimal + (1 - beta) * native`, computed in the
    dtype of x: its rounding error grows like beta unit roundoffs and its gradient has the same error. The two
    controls of `Forward` have one of these errors each.

    Args:
        x: (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64; any strides.
        kernel: entries of a window, one number or (rows, columns).
        stride: pixels from a window to the next; None for the kernel.
        padding: pixels that the first window starts before the image; padded entries never win.
        dilation: pixels from an entry to the next.
        ceil_mode: whether a last window that the border cuts counts.
        jacobian: the rule, or a switch that is read when the backward pass runs. A blended value is made of
            the rule in force in the forward pass, and so is its gradient. Under `torch.compile` a switch is
            read when the graph is called.

    Returns:
        (N, C, rows, columns) or (C, rows, columns) in the dtype and memory format of x.

    Raises:
        DesignError: a geometry, dtype or shape that cannot be pooled.

    Source:
        The family: R. Boustany, On the numerical reliability of nonsmooth autodiff: a MaxPool case study,
        TMLR 2024. The exact forward pass: ours.

    Example:
        >>> x = torch.tensor([[[3.0, 3.0], [1.0, 3.0]]], requires_grad=True)
        >>> max_pool2d(x, kernel=2, jacobian=PoolJacobian(beta=1)).backward()
        >>> x.grad.tolist()[0][1]
        [0.0, 0.3333333432674408]
    """
    geometry = PoolGeometry.of(kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    return pool(x, geometry=geometry, jacobian=jacobian)


def pool(x: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian | JacobianSwitch = NATIVE) -> Tensor:
    """`max_pool2d` for a geometry that is already checked.

    Args:
        x: as for `max_pool2d`.
        geometry: the windows.
        jacobian: the rule or switch.

    Raises:
        DesignError: a dtype or shape that cannot be pooled.
    """
    _check(x, geometry, jacobian)
    rule, events = (
        (jacobian.jacobian, jacobian.events) if isinstance(jacobian, JacobianSwitch) else (jacobian, None)
    )
    if events is not None and _is_traced():
        raise DesignError(
            "a JacobianSwitch records events in plain eager mode only, got a traced or transformed call. "
            "Set its events to None."
        )
    match rule.forward:
        case Forward.EXACT:
            output, mask = pool_autograd.exact(x, geometry=geometry, jacobian=jacobian)
        case Forward.BLENDED:
            output, mask = _blended(x, geometry, rule.beta), None
        case Forward.BLENDED_VALUE | Forward.BLENDED_GRADIENT:
            native, mask = pool_autograd.exact(x, geometry=geometry, jacobian=NATIVE)
            if rule.forward is Forward.BLENDED_VALUE:
                output = pool_controls.with_value(native, value=_blended(x.detach(), geometry, rule.beta))
            else:
                output = pool_controls.with_rounded_gradient(native, beta=rule.beta)
    watching = observer()
    if events is not None or watching is not None:
        if mask is None:
            mask = kernels.forward(x.detach(), geometry=geometry)[1]
        event = PoolEvent(x, output, mask, geometry)
        if events is not None:
            events.append(event)
        if watching is not None:
            watching(event)
    return output


class MaxPool2d(nn.Module):
    """Module of `max_pool2d`; takes the place of `torch.nn.MaxPool2d`, whose positional arguments it shares.

    Args:
        kernel: entries of a window, one number or (rows, columns).
        stride: pixels from a window to the next; None for the kernel.
        padding: pixels that the first window starts before the image.
        dilation: pixels from an entry to the next.
        ceil_mode: whether a last window that the border cuts counts.
        jacobian: the rule or switch; the attribute of that name may be set at any time.

    Raises:
        DesignError: a geometry that cannot be.

    Example:
        >>> MaxPool2d(2)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(
        self,
        kernel: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        jacobian: PoolJacobian | JacobianSwitch = NATIVE,
    ) -> None:
        super().__init__()
        self.geometry = PoolGeometry.of(
            kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
        )
        self.jacobian = jacobian

    def forward(self, x: Tensor) -> Tensor:
        """Pools x; see `max_pool2d`."""
        return pool(x, geometry=self.geometry, jacobian=self.jacobian)

    def extra_repr(self) -> str:
        """Geometry and rule, for printing."""
        kind = self.jacobian.jacobian if isinstance(self.jacobian, JacobianSwitch) else self.jacobian
        geometry = self.geometry
        return (
            f"kernel={geometry.kernel}, stride={geometry.stride}, padding={geometry.padding}, "
            f"dilation={geometry.dilation}, ceil_mode={geometry.ceil_mode}, jacobian={kind.label}"
        )


_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _check(x: Tensor, geometry: PoolGeometry, jacobian: PoolJacobian | JacobianSwitch) -> None:
    if not isinstance(jacobian, PoolJacobian | JacobianSwitch):
        raise DesignError(
            f"jacobian of a pool must be a PoolJacobian or a JacobianSwitch, got {jacobian!r}. "
            "Use PoolJacobian(beta=...)."
        )
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        got = f"layout {x.layout}" if isinstance(x, Tensor) else f"{type(x).__name__}"
        raise DesignError(
            f"max_pool2d takes a dense tensor, got {got}. Convert the input, for example with .to_dense()."
        )
    if x.dtype not in _DTYPES:
        raise DesignError(
            f"max_pool2d differentiates float16, bfloat16, float32 and float64, got {x.dtype}. Convert the "
            "input, for example with .float()."
        )
    if x.dim() not in (3, 4) or 0 in x.shape[-3:]:
        raise DesignError(
            "max_pool2d takes (N, C, H, W) or (C, H, W) with at least one channel, row and column, got shape "
            f"{tuple(x.shape)}."
        )


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _blended(x: Tensor, geometry: PoolGeometry, beta: float) -> Tensor:
    minimal = pool(x, geometry=geometry, jacobian=MINIMAL)
    native = functional.max_pool2d(
        x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.ceil_mode
    )
    return beta * minimal + (1 - beta) * native
