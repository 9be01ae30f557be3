"""Max pooling whose derivative at ties is an argument.

The value is the maximum, bit for bit that of `torch.nn.functional.max_pool2d`; the rule at ties acts in the
backward pass only. That pass is linear in the gradient and its own derivative is the Jacobian applied
forward, so derivatives of every order and both modes come from two linear maps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, Forward, PoolJacobian
from tiebreak.numerics import kernels, pool_ops
from tiebreak.numerics.geometry import PoolGeometry, Size


@dataclass(frozen=True, eq=False)
class PoolEvent:
    """One eager forward pass of a pool, as the tensors that it left.

    Args:
        input: what was pooled; the very tensor of the graph.
        output: the pooled tensor, of the graph too, so that a backward pass can stop or start there.
        mask: tied entries, uint8 of shape (planes, *output shape): bit j % 8 of plane j // 8 says that entry
            j of the window (row by row) equals its maximum. In a window with NaN only the last NaN is marked.
        geometry: the windows.
    """

    input: Tensor
    output: Tensor
    mask: Tensor
    geometry: PoolGeometry


@dataclass(eq=False)
class JacobianSwitch:
    """A Jacobian that can be changed between the forward and the backward pass.

    Pools that hold the same switch read `jacobian` when their backward pass runs, so one retained graph
    serves any number of Jacobians with bits equal to those of separate runs.

    Args:
        jacobian: the rule in force.
        events: None, or a list to which each eager forward pass appends its `PoolEvent`, in order.

    Example:
        >>> x = torch.ones(1, 1, 2, 2, requires_grad=True)
        >>> switch = JacobianSwitch(NATIVE)
        >>> y = max_pool2d(x, kernel=2, jacobian=switch).sum()
        >>> torch.autograd.grad(y, x, retain_graph=True)[0].flatten().tolist()
        [1.0, 0.0, 0.0, 0.0]
        >>> switch.jacobian = MINIMAL
        >>> torch.autograd.grad(y, x)[0].flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    jacobian: PoolJacobian = NATIVE
    events: list[PoolEvent] | None = field(default=None)


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
    dtype of x: its rounding error grows like beta unit roundoffs and its gradient has the same error.

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
    """`max_pool2d` for a geometry that is already checked."""
    _check(x, geometry, jacobian)
    switch = jacobian if isinstance(jacobian, JacobianSwitch) else None
    rule = switch.jacobian if switch is not None else jacobian
    events = switch.events if switch is not None else None
    if events is not None and _is_traced(x):
        raise DesignError(
            "a JacobianSwitch records events in plain eager mode only, got a traced or transformed call. "
            "Set its events to None."
        )
    if rule.forward is Forward.BLENDED:  # pyright: ignore[reportAttributeAccessIssue]
        output, mask = _blended(x, geometry, rule.beta), None  # pyright: ignore[reportAttributeAccessIssue]
    else:
        output, mask = _exact(x, geometry, jacobian)
    if events is not None:
        if mask is None:
            mask = kernels.forward(x.detach(), geometry=geometry)[1]
        events.append(PoolEvent(x, output, mask, geometry))
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


def _is_traced(x: Tensor) -> bool:
    return torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)


def _blended(x: Tensor, geometry: PoolGeometry, beta: float) -> Tensor:
    minimal = pool(x, geometry=geometry, jacobian=MINIMAL)
    native = functional.max_pool2d(
        x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.ceil_mode
    )
    return beta * minimal + (1 - beta) * native


def _exact(
    x: Tensor, geometry: PoolGeometry, jacobian: PoolJacobian | JacobianSwitch
) -> tuple[Tensor, Tensor]:
    """Value and mask by the way that suits who is calling."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter):
        return pool_ops.max_pool2d(x, geometry=geometry, jacobian=_rule(jacobian))
    kind = _MaxPool if torch._C._are_functorch_transforms_active() else _EagerMaxPool
    return kind.apply(x, geometry, jacobian)  # pyright: ignore[reportReturnType]


def _rule(jacobian: PoolJacobian | JacobianSwitch) -> PoolJacobian:
    rule = jacobian.jacobian if isinstance(jacobian, JacobianSwitch) else jacobian
    if rule.forward is not Forward.EXACT:
        raise DesignError(
            f"a backward pass with pool.forward={rule.forward} needs a forward pass with it, got one with "
            "pool.forward=exact. Run the forward pass again after setting the switch."
        )
    return rule


class _MaxPool(torch.autograd.Function):
    """Value and mask; the rule is looked up when the backward pass runs."""

    @staticmethod
    def forward(x: Tensor, geometry: PoolGeometry, jacobian: Any) -> tuple[Tensor, Tensor]:
        return kernels.forward(x, geometry=geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.geometry, ctx.jacobian = inputs
        ctx.size, ctx.memory_format = x.shape, kernels.memory_format_of(x)
        mask = output[1]
        ctx.mark_non_differentiable(mask)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask)
        ctx.save_for_forward(mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, None, None]:
        if gradient is None:
            return None, None, None
        (mask,) = ctx.saved_tensors
        layout, rule = (ctx.size, ctx.memory_format), _rule(ctx.jacobian)
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return _Scatter.apply(gradient, mask, layout, ctx.geometry, rule), None, None  # pyright: ignore[reportReturnType]
        return _scatter(gradient, mask, layout, ctx.geometry, rule), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _Gather.apply(tangent, mask, ctx.geometry, _rule(ctx.jacobian)), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, geometry: PoolGeometry, jacobian: Any) -> Any:
        x = x.movedim(in_dims[0], 0)  # the value knows no neighbours: any batch of images will do
        images = x.flatten(0, -4)
        output, mask = _MaxPool.apply(images, geometry, jacobian)  # pyright: ignore[reportGeneralTypeIssues]
        leading = x.shape[:-3]
        return (output.unflatten(0, leading), mask.unflatten(1, leading)), (0, 1)


class _EagerMaxPool(torch.autograd.Function):
    """`_MaxPool` in the older form, whose call costs a quarter as much but cannot be transformed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: PoolGeometry, jacobian: Any) -> tuple[Tensor, Tensor]:
        result = kernels.forward(x, geometry=geometry)
        _MaxPool.setup_context(ctx, (x, geometry, jacobian), result)
        return result

    backward = _MaxPool.backward
    jvp = _MaxPool.jvp


def _scatter(
    gradient: Tensor, mask: Tensor, layout: Any, geometry: PoolGeometry, rule: PoolJacobian
) -> Tensor:
    size, order = layout
    return kernels.scatter(gradient, mask, size=size, memory_format=order, geometry=geometry, jacobian=rule)


class _Scatter(torch.autograd.Function):
    """The transposed Jacobian applied to a gradient; linear, its derivative is `_Gather`."""

    @staticmethod
    def forward(
        gradient: Tensor, mask: Tensor, layout: Any, geometry: PoolGeometry, rule: PoolJacobian
    ) -> Tensor:
        return _scatter(gradient, mask, layout, geometry, rule)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, mask, ctx.layout, ctx.geometry, ctx.rule = inputs
        ctx.save_for_backward(mask)
        ctx.save_for_forward(mask)

    @staticmethod
    def backward(ctx: Any, vector: Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        return _Gather.apply(vector, mask, ctx.geometry, ctx.rule), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (mask,) = ctx.saved_tensors
        return _Scatter.apply(tangent, mask, ctx.layout, ctx.geometry, ctx.rule)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        gradient: Tensor,
        mask: Tensor,
        layout: Any,
        geometry: Any,
        rule: PoolJacobian,
    ) -> tuple[Tensor, int]:
        def one(gradient: Tensor, mask: Tensor) -> Tensor:
            return _Scatter.apply(gradient, mask, layout, geometry, rule)  # pyright: ignore[reportReturnType]

        return _each(one, info.batch_size, in_dims, gradient, mask)


class _Gather(torch.autograd.Function):
    """The Jacobian applied to a vector; linear, its derivative is `_Scatter`."""

    @staticmethod
    def forward(vector: Tensor, mask: Tensor, geometry: PoolGeometry, rule: PoolJacobian) -> Tensor:
        return kernels.gather(vector, mask, geometry=geometry, jacobian=rule)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        vector, mask, ctx.geometry, ctx.rule = inputs
        ctx.layout = (vector.shape, kernels.memory_format_of(vector))
        ctx.save_for_backward(mask)
        ctx.save_for_forward(mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        return _Scatter.apply(gradient, mask, ctx.layout, ctx.geometry, ctx.rule), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (mask,) = ctx.saved_tensors
        return _Gather.apply(tangent, mask, ctx.geometry, ctx.rule)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, vector: Tensor, mask: Tensor, geometry: Any, rule: PoolJacobian
    ) -> tuple[Tensor, int]:
        def one(vector: Tensor, mask: Tensor) -> Tensor:
            return _Gather.apply(vector, mask, geometry, rule)  # pyright: ignore[reportReturnType]

        return _each(one, info.batch_size, in_dims, vector, mask)


def _each(one: Any, batch_size: int, in_dims: Any, first: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """Example by example: each gets what it would have got alone, random choices included."""
    firsts = [first] * batch_size if in_dims[0] is None else first.unbind(in_dims[0])
    masks = [mask] * batch_size if in_dims[1] is None else mask.unbind(in_dims[1])
    return torch.stack([one(*pair) for pair in zip(firsts, masks, strict=True)]), 0
