"""Any module, with its max pools replaced by ours.

Pools reach a network in two ways. Those that are modules (`nn.MaxPool2d`) are swapped in the tree. Those
that a `forward` calls as functions (`F.max_pool2d`, `torch.max_pool2d`) cannot be found by looking. So a
copy that holds code of its own, not torch's layers and ours alone, runs its calls under a mode
that hands each such pool to our operator, at a few microseconds an operation.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from tiebreak.design.axes import DesignError, PoolJacobian
from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d, max_pool2d

Jacobian = PoolJacobian | JacobianSwitch

_FUNCTIONS = (
    nn.functional.max_pool2d,
    torch.max_pool2d,
    torch.ops.aten.max_pool2d,
    torch.ops.aten.max_pool2d.default,
)
_OTHER_POOLS = (
    nn.MaxPool1d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
_ATTRIBUTE = "_pool_jacobian"


def rewrite_pools(model: nn.Module, *, jacobian: PoolJacobian | JacobianSwitch) -> nn.Module:
    """A deep copy of `model` whose 2-D max pools take `jacobian` at ties.

    The copy has the same `state_dict`, hooks and mode and is an instance of the same class. With
    `Forward.EXACT` its forward pass has the same bits, and its backward pass differs at ties only. The
    original is not touched. A model that already holds our pools, by `build` or by an earlier rewriting,
    gets the new Jacobian.

    A pool that is a module is replaced wherever it is called from. A pool that a `forward` calls as a
    function is replaced while the *copy itself* is called, as `copy(images)`; a part of the copy that is
    called alone, a method other than a call, and a checkpoint that runs again in the backward pass leave
    such a pool to torch. Left to torch altogether: pools that return indices or take integers, and the 1-D,
    3-D, adaptive and fractional ones (`pools_left` lists the modules among them). `torch.compile` takes the
    copy.

    Args:
        model: any module that `copy.deepcopy` can copy and that runs as Python.
        jacobian: of every pool; a switch is shared by all of them.

    Raises:
        DesignError: something that is no module, or one that holds compiled code.

    Example:
        >>> net = rewrite_pools(nn.Sequential(nn.MaxPool2d(2)), jacobian=PoolJacobian(beta=1))
        >>> images = torch.zeros(1, 1, 2, 2, requires_grad=True)
        >>> net(images).backward(torch.ones(1, 1, 1, 1))
        >>> images.grad.flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    _refuse(model, jacobian)
    rewritten = copy.deepcopy(model, _kept(model))
    replaced: dict[nn.Module, nn.Module] = {}
    for path, module in list(rewritten.named_modules(remove_duplicate=False)):
        if not _is_replaceable(module):
            continue
        pool = replaced.setdefault(module, _replacement(module, jacobian))
        if not path:
            return pool
        rewritten.set_submodule(path, pool)
    _route_calls(rewritten, jacobian)
    for module in rewritten.modules():
        if isinstance(module, _Routed):
            setattr(module, _ATTRIBUTE, jacobian)
    return rewritten


def pools_left(model: nn.Module) -> list[str]:
    """Paths of the max-pool modules that a rewriting leaves to torch.

    These are modules that return indices, and 1-D, 3-D, adaptive and fractional pools. Pools that are called
    as functions have no path and are not listed.

    Args:
        model: before or after `rewrite_pools`.

    Example:
        >>> pools_left(nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1)))
        ['1']
    """
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, _OTHER_POOLS) or (isinstance(module, nn.MaxPool2d) and module.return_indices)
    ]


def _refuse(model: nn.Module, jacobian: Jacobian) -> None:
    if not isinstance(model, nn.Module):
        raise DesignError(f"rewrite_pools takes a torch.nn.Module, got {type(model).__name__}.")
    if not isinstance(jacobian, Jacobian):
        raise DesignError(
            f"jacobian must be a PoolJacobian or a JacobianSwitch, got {type(jacobian).__name__}. "
            "Use for example PoolJacobian(beta=1)."
        )
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):  # what compile wraps
            where = f"its part {path!r}" if path else "the model"
            raise DesignError(
                f"rewrite_pools needs a model that runs as Python, but {where} is compiled "
                f"({type(module).__name__}), pools included. Rewrite the model first and compile the result."
            )
        if isinstance(module, nn.DataParallel):
            raise DesignError(
                "rewrite_pools cannot follow nn.DataParallel into its threads. Rewrite the model that it "
                "holds, its .module, and wrap the result."
            )


def _kept(model: nn.Module) -> dict[int, Any]:
    """A memo for `deepcopy` that leaves the old Jacobians out: a switch may hold a graph's tensors."""
    old = [module.jacobian for module in model.modules() if isinstance(module, MaxPool2d)]
    old += [getattr(module, _ATTRIBUTE) for module in model.modules() if isinstance(module, _Routed)]
    return {id(jacobian): jacobian for jacobian in old}


def _is_replaceable(module: nn.Module) -> bool:
    """Ours and torch's own; a subclass may compute something else and keeps its `forward`."""
    return isinstance(module, MaxPool2d) or (type(module) is nn.MaxPool2d and not module.return_indices)


def _replacement(pool: nn.Module, jacobian: Jacobian) -> nn.Module:
    """Our pool with the geometry, hooks and mode of `pool`."""
    if isinstance(pool, MaxPool2d):
        pool.jacobian = jacobian
        return pool
    assert isinstance(pool, nn.MaxPool2d)
    geometry = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    ours = MaxPool2d(*geometry, jacobian=jacobian)
    hooks = {name: value for name, value in vars(pool).items() if name.startswith("_")}
    vars(ours).update(hooks, training=pool.training)
    return ours


def _route_calls(model: nn.Module, jacobian: Jacobian) -> None:
    """See to the pools that `model` calls as functions."""
    if isinstance(model, fx.GraphModule):
        _rewrite_graph(model, jacobian)
        for child in model.children():
            _route_calls(child, jacobian)
    elif not isinstance(model, _Routed) and any(map(_may_call_pools, model.modules())):
        model.__class__ = _routed(type(model))


def _may_call_pools(module: nn.Module) -> bool:
    """Whether `forward` is code that may call a pool as a function: not torch's layers, not our own."""
    known = ("torch.nn.modules.", "tiebreak.")
    return "forward" in vars(module) or not type(module).__module__.startswith(known)


def _max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    jacobian: Jacobian,
) -> Any:
    """Our pool with the arguments of torch's; torch's own where ours has no meaning."""
    if return_indices or not input.is_floating_point():
        native = nn.functional.max_pool2d_with_indices if return_indices else torch.max_pool2d
        return native(input, kernel_size, stride or (), padding, dilation, ceil_mode)
    return max_pool2d(
        input,
        kernel=kernel_size,
        stride=stride or None,  # torch also spells it as an empty list
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        jacobian=jacobian,
    )


class _Route(TorchFunctionMode):
    """While it is entered, this thread's calls of torch's 2-D max pool are calls of ours."""

    def __init__(self, jacobian: Jacobian) -> None:
        super().__init__()
        self.jacobian = jacobian

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None) -> Any:
        if func in _FUNCTIONS:
            return _max_pool2d(*args, **(kwargs or {}), jacobian=self.jacobian)
        return func(*args, **(kwargs or {}))


class _Routed(nn.Module):
    """Stands before a model's own class, so that each call of the model is routed."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Route(getattr(self, _ATTRIBUTE)):
            return super().__call__(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class was made at run time and cannot be found by name: keep the model's own class instead.
        plain, routed = type(self).__mro__[2], type(self)
        make, arguments, *rest = super().__reduce_ex__(protocol)
        arguments = tuple(plain if item is routed else item for item in arguments)
        return (_remake, (make, arguments), *rest)


def _routed(plain: type[nn.Module]) -> type[nn.Module]:
    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return types.new_class(plain.__name__, (_Routed, plain), exec_body=lambda space: space.update(names))


def _remake(make: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    module = make(*arguments)
    module.__class__ = _routed(type(module))
    return module


def _rewrite_graph(model: fx.GraphModule, jacobian: Jacobian) -> None:
    """Turn the pools that a traced model's graph calls as functions into modules.

    Such a model gets a class of its own whenever it is copied or loaded, so a class put before it is lost.
    """
    calls = [node for node in model.graph.nodes if node.op == "call_function" and node.target in _FUNCTIONS]
    for node in calls:
        call = inspect.signature(_max_pool2d).bind(*node.args, **node.kwargs, jacobian=jacobian)
        call.apply_defaults()
        image, kernel, stride, *geometry, return_indices = call.args
        if not return_indices:
            name = f"{node.name}_rewritten"
            model.add_submodule(name, MaxPool2d(kernel, stride or None, *geometry, jacobian=jacobian))
            node.op, node.target, node.args, node.kwargs = "call_module", name, (image,), {}
    model.recompile()
