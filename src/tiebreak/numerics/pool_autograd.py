"""The exact pool and its derivatives as nodes of PyTorch's graphs."""
# The nodes name their arguments; PyTorch declares them as *args, which no fixed signature matches.
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor

from tiebreak.design.axes import DesignError, Forward, PoolJacobian
from tiebreak.numerics import kernels, pool_ops
from tiebreak.numerics.geometry import PoolGeometry, memory_format_of
from tiebreak.numerics.switch import JacobianSwitch


def exact(
    x: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian | JacobianSwitch
) -> tuple[Tensor, Tensor]:
    """Value and mask of the exact pool, by the way that suits who is calling.

    Args:
        x: (N, C, H, W) or (C, H, W).
        geometry: the windows.
        jacobian: the rule or switch.

    Returns:
        The output, differentiable any number of times in either mode, and the mask of the tied entries.
    """
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter):
        return pool_ops.max_pool2d(x, geometry=geometry, jacobian=_rule(jacobian))
    kind = _MaxPool if torch._C._are_functorch_transforms_active() else _EagerMaxPool
    return kind.apply(x, geometry, jacobian)


def own_switch(output: Tensor) -> JacobianSwitch:
    """A switch for the one pass that made `output`, in place of what all passes of its pool share.

    Args:
        output: what an exact pool returned in eager mode, before anything changed it in place.

    Returns:
        The switch, set to PyTorch's rule; without effect where the pass takes no part in differentiation.

    Raises:
        DesignError: a pass whose rule was fixed when it ran: that of a subclass of tensors.
    """
    switch, node = JacobianSwitch(), output.grad_fn
    if node is not None:
        if getattr(node, "_forward_cls", None) not in (_EagerMaxPool, _MaxPool):
            raise DesignError(
                f"the rule of this pool was fixed when it ran, on {type(output).__name__}. Use plain tensors."
            )
        node.jacobian = switch  # pyright: ignore[reportAttributeAccessIssue]  # the node is the pass's context
    return switch


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
        ctx.size, ctx.memory_format = x.shape, memory_format_of(x)
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
            return _Scatter.apply(gradient, mask, layout, ctx.geometry, rule), None, None
        return _scatter(gradient, mask, layout, ctx.geometry, rule), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _Gather.apply(tangent, mask, ctx.geometry, _rule(ctx.jacobian)), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, geometry: PoolGeometry, jacobian: Any) -> Any:
        x = x.movedim(in_dims[0], 0)  # the value knows no neighbours: any batch of images will do
        images = x.flatten(0, -4)
        output, mask = _MaxPool.apply(images, geometry, jacobian)
        leading = x.shape[:-3]
        return (output.unflatten(0, leading), mask.unflatten(1, leading)), (0, 1)


class _EagerMaxPool(torch.autograd.Function):
    """`_MaxPool` in the older form, whose call costs a quarter as much but cannot be transformed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: PoolGeometry, jacobian: Any) -> tuple[Tensor, Tensor]:
        result = kernels.forward(x, geometry=geometry)
        _MaxPool.setup_context(ctx, (x, geometry, jacobian), result)
        return result

    backward = _MaxPool.backward  # pyright: ignore[reportAssignmentType]
    jvp = _MaxPool.jvp


def _scatter(
    gradient: Tensor, mask: Tensor, layout: Any, geometry: PoolGeometry, rule: PoolJacobian
) -> Tensor:
    size, order = layout
    if is_legacy_batchedtensor(gradient):  # several gradients at once, by torch.autograd.grad
        return pool_ops.scatter(gradient, mask, size, order, geometry=geometry, jacobian=rule)
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
            return _Scatter.apply(gradient, mask, layout, geometry, rule)

        return _each(one, info.batch_size, in_dims, gradient, mask)


class _Gather(torch.autograd.Function):
    """The Jacobian applied to a vector; linear, its derivative is `_Scatter`."""

    @staticmethod
    def forward(vector: Tensor, mask: Tensor, geometry: PoolGeometry, rule: PoolJacobian) -> Tensor:
        if is_legacy_batchedtensor(vector):
            return pool_ops.gather(vector, mask, geometry=geometry, jacobian=rule)
        return kernels.gather(vector, mask, geometry=geometry, jacobian=rule)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        vector, mask, ctx.geometry, ctx.rule = inputs
        ctx.layout = (vector.shape, memory_format_of(vector))
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
            return _Gather.apply(vector, mask, geometry, rule)

        return _each(one, info.batch_size, in_dims, vector, mask)


def _each(one: Any, batch_size: int, in_dims: Any, first: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """Example by example: each gets what it would have got alone, random choices included."""
    firsts = [first] * batch_size if in_dims[0] is None else first.unbind(in_dims[0])
    masks = [mask] * batch_size if in_dims[1] is None else mask.unbind(in_dims[1])
    return torch.stack([one(*pair) for pair in zip(firsts, masks, strict=True)]), 0
