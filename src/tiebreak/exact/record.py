"""From any module to a graph: the operations that one forward pass really runs, from a strict list.

The pass is watched below automatic differentiation, where every operation of PyTorch passes, and the graph
that automatic differentiation built is then compared with it: a custom derivative, a hook or an operation
that is not on the list makes the network not certifiable. Nothing is skipped and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from tiebreak.design.axes import UserError
from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Node,
    NotCertifiableError,
    Operation,
    Parameter,
    ReLU,
    Reshape,
)
from tiebreak.exact.places import Places
from tiebreak.numerics import kernels
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.switch import PoolEvent, observed


def record(
    model: nn.Module, batch: Tensor, *, forward: Callable[[], Tensor] | None = None
) -> tuple[Graph, Tensor]:
    """The network as it is at this point, from one forward pass on one batch.

    The module is run in its own mode and left as it was: what the pass changes in it, and the generators of
    random numbers, are put back. Conversions between floating-point formats are taken for what they stand
    for, the identity.

    Args:
        model: any module that maps a batch to one tensor (N, classes).
        batch: (N, ...), floating point, on the module's device.
        forward: runs the pass, where `model(batch)` is not enough (autocast).

    Returns:
        The graph, its tensors on the module's device, and the network's output as the program computed it.

    Raises:
        NotCertifiableError: an operation, option or derivative that is not on the list, with its place.
        UserError: a batch that is not a floating-point tensor with one image or more.
    """
    if not isinstance(batch, Tensor) or not batch.is_floating_point() or batch.dim() < 2 or 0 in batch.shape:
        got = f"{tuple(batch.shape)} of {batch.dtype}" if isinstance(batch, Tensor) else repr(type(batch))
        raise UserError(
            f"a batch to certify must be a floating-point tensor (N, ...) with a number in it, got {got}."
        )
    if torch.is_inference_mode_enabled() or batch.is_inference():
        raise UserError(
            "a network cannot be certified in torch.inference_mode, or on a batch made there, because "
            "nothing is differentiated then. Use torch.no_grad instead."
        )
    _require_numbers(model)
    if batch.is_meta or batch.layout != torch.strided:
        got = "one on the meta device" if batch.is_meta else f"layout {batch.layout}"
        raise UserError(
            f"a batch to certify must be a dense tensor that holds numbers, got {got}. Give the images "
            "themselves, for example with .to_dense()."
        )
    for name, module in model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise NotCertifiableError(
                f"not certifiable, because a backward hook of {name or 'the network'} may change a "
                "derivative. Remove it."
            )
    recorder = _Recorder(model, batch)
    with ExitStack() as stack:
        stack.enter_context(restored(model, batch))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(recorder.places.watched())
        stack.enter_context(observed(recorder.pool))
        stack.enter_context(recorder)
        output = forward() if forward is not None else model(batch)
        value = output.detach().clone() if isinstance(output, Tensor) else output  # it may share memory
    return recorder.graph(output), value


def _require_numbers(model: nn.Module) -> None:
    """Refuse a network that cannot be followed, or that has nothing to differentiate."""
    if isinstance(model, torch.jit.ScriptModule):
        raise NotCertifiableError(
            "not certifiable, because the network is a TorchScript module, which runs no Python. Give the "
            "module that it was made of."
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UserError(f"{name} of the network has no shape yet. Run the network on a batch once.")
        if tensor.is_meta:
            raise UserError(f"{name} of the network has no numbers: it is on the meta device.")


def require_trained(model: nn.Module) -> None:
    """Refuse a network none of whose parameters asks for a derivative: D would have no entry.

    Raises:
        UserError: no parameter has `requires_grad`, or no network at all.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"what is certified is a torch.nn.Module, got {type(model).__name__}.")
    if not any(tensor.requires_grad for tensor in model.parameters()):
        raise UserError(
            "no parameter of the network asks for a derivative (requires_grad), so there is nothing to "
            "certify. Call requires_grad_() on those that are trained."
        )


@dataclass(frozen=True, eq=False)
class _Traced:
    """A tensor of the pass that is the value of a node."""

    node: int


@dataclass(frozen=True, eq=False)
class _Weight:
    """A tensor that is a parameter, or its transpose."""

    tensor: Tensor
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class _Unknown:
    """A tensor that nothing is known about, with the reason."""

    reason: str


_aten = torch.ops.aten


class _Recorder(TorchDispatchMode):
    """Notes every operation that touches the batch, or what was made of it."""

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        super().__init__()
        self.model, self.batch = model, batch
        self.places = Places(model)
        self.names = {id(tensor): name for name, tensor in model.named_parameters()}
        self.nodes: list[Node] = [Node(Input(), (), tuple(batch.shape), "batch")]
        self.point = batch.detach().double().clone()  # before an operation in place changes it
        self.known: dict[int, _Traced | _Weight | _Unknown] = {id(batch): _Traced(0)}
        # Objects are named by their address: each must live until the pass is over.
        self.alive: list[Tensor] = [batch]
        self.pooled: list[tuple[Tensor, Tensor]] = []
        self.nonfinite: str | None = None
        self.deviations: dict[str, Tensor] = {}
        self.layout: tuple[Any, ...] = ()
        for tensor in model.parameters():
            self._know(tensor, _Weight(tensor))

    def _know(self, tensor: Tensor, what: _Traced | _Weight | _Unknown) -> None:
        self.known[id(tensor)] = what
        self.alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation and note it."""
        kwargs = kwargs or {}
        if func is _aten.as_strided_.default:
            self.layout = _layout(args[0])
        result = func(*args, **kwargs)
        touched = [tensor for tensor in _tensors((args, kwargs)) if id(tensor) in self.known]
        if not touched:
            return result
        for tensor in _tensors(result):
            if any(tensor is argument for argument in _tensors((args, kwargs))) and not _is_in_place(func):
                continue  # an operation that hands its argument on
            self._note(func, args, kwargs, tensor, first=tensor is next(_tensors(result)))
        return result

    def _note(self, func: Any, args: tuple, kwargs: dict, result: Tensor, *, first: bool) -> None:
        if _is_in_place(func):
            self._forget_aliases(result, func)
        unknown = [self.known.get(id(tensor)) for tensor in _tensors((args, kwargs)) if tensor is not result]
        first_unknown = next((item for item in unknown if isinstance(item, _Unknown)), None)
        if first_unknown is not None:
            self._know(result, first_unknown)
            return
        what: _Traced | _Weight | _Unknown
        try:
            what = self._read(func, args, kwargs, result) if first else _Unknown(f"a side result of {func}")
        except _RefusedError as refused:
            what = self._unknown(refused)
        self._know(result, what)

    def _unknown(self, refused: _RefusedError) -> _Unknown:
        """With the place where it went wrong first."""
        return _Unknown(str(refused) if refused.placed else f"{refused} ({self.places.here()})")

    def _forget_aliases(self, changed: Tensor, func: Any) -> None:
        """After a change in place whatever shares the memory is no longer what it was."""
        storage = changed.untyped_storage()._cdata
        for tensor in self.alive:
            if tensor is not changed and tensor.untyped_storage()._cdata == storage and tensor.numel():
                known = self.known.get(id(tensor))
                if isinstance(known, _Traced | _Weight):
                    self.known[id(tensor)] = _Unknown(f"{func} changed it in place ({self.places.here()})")

    def _read(self, func: Any, args: tuple, kwargs: dict, result: Tensor) -> _Traced | _Weight:
        if not torch.is_grad_enabled():
            raise _RefusedError(f"{func} runs under torch.no_grad or in a torch.autograd.Function")
        names = [argument.name for argument in func._schema.arguments]
        given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        given |= dict(zip(names, args, strict=False)) | kwargs
        call = _Call(self, func, given, result)
        reader = _READERS.get(func)
        if reader is None:
            raise _RefusedError(f"{func} is not an operation that can be certified")
        return reader(call)

    def add(self, operation: Operation, inputs: tuple[int, ...], result: Tensor) -> _Traced:
        """A new node; a result that is not finite is noted."""
        shape = tuple(result.shape)
        if not shape or shape[0] != self.batch.shape[0]:
            raise _RefusedError(
                f"a result of shape {shape} mixes the images of a batch of {self.batch.shape[0]}, and only "
                "operations on each image apart can be certified"
            )
        where = str(self.places.here())
        if self.nonfinite is None and not bool(result.detach().isfinite().all()):
            self.nonfinite = where
        self.nodes.append(Node(operation, inputs, shape, where))
        return _Traced(len(self.nodes) - 1)

    def pool(self, event: PoolEvent) -> None:
        """One pass of a pool of ours, whose inside is not to be read."""
        self._know(event.output, self._pool(event))
        self.pooled.append((event.input, event.output))

    def _pool(self, event: PoolEvent) -> _Traced | _Unknown:
        known = self.known.get(id(event.input))
        if not isinstance(known, _Traced):
            return (
                known if isinstance(known, _Unknown) else _Unknown("a pool of something that is not traced")
            )
        try:
            return self.add(MaxPool2d(event.geometry, event.mask.clone()), (known.node,), event.output)
        except _RefusedError as refused:
            return self._unknown(refused)

    def graph(self, output: Any) -> Graph:
        """The nodes that the output depends on."""
        if not isinstance(output, Tensor) or output.dim() != 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NotCertifiableError(f"the network must return one tensor (N, classes), got {got}.")
        known = self.known.get(id(output))
        if not isinstance(known, _Traced):
            reason = known.reason if isinstance(known, _Unknown) else "it does not come from the batch"
            raise NotCertifiableError(f"not certifiable, because {reason}.")
        self._compare_derivatives(output)
        self._refuse_shared_deviations()
        return _pruned(
            Graph(
                nodes=tuple(self.nodes),
                output=known.node,
                batch=self.point,
                parameters={
                    name: tuple(tensor.shape)
                    for name, tensor in self.model.named_parameters()
                    if tensor.requires_grad
                },
                nonfinite="the batch" if not bool(self.point.isfinite().all()) else self.nonfinite,
            )
        )

    def _refuse_shared_deviations(self) -> None:
        """The weight of a batch norm, whose derivative is over a square root, is nothing else besides."""
        for node in self.nodes:
            match node.operation:
                case Conv2d(weight, bias) | Linear(weight, bias):
                    names = {parameter.name for parameter in (weight, bias) if parameter is not None}
                case Affine(bias=bias):
                    names = {bias}
                case _:
                    continue
            for name in names & set(self.deviations):
                raise NotCertifiableError(
                    f"not certifiable, because {name} is the weight of a batch norm and something else as "
                    f"well ({node.where})."
                )

    def _compare_derivatives(self, output: Tensor) -> None:
        """Every derivative that automatic differentiation will take is one that the list knows."""
        if any(tensor._backward_hooks for tensor in self.alive if tensor is not self.batch):
            raise NotCertifiableError(
                "not certifiable, because a hook (Tensor.register_hook) may change a derivative. Remove it."
            )
        jump = {result.grad_fn: source for source, result in self.pooled}
        seen, stack = set(), [output.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in jump:
                stack.append(jump[node].grad_fn)
                continue
            # A derivative of the user's may bear the name of one of PyTorch's, such as ReluBackward.
            is_custom = isinstance(node, torch._C._FunctionBase)
            if is_custom or node.name().rstrip("0123456789") not in _DERIVATIVES:
                raise NotCertifiableError(
                    f"not certifiable, because the derivative {node.name()} is not one of PyTorch's own for "
                    "the operations that can be certified."
                )
            stack.extend(following for following, _ in node.next_functions)


class _RefusedError(Exception):
    """Why an operation cannot be certified."""

    def __init__(self, reason: str, *, placed: bool = False) -> None:
        super().__init__(reason)
        self.placed = placed


@dataclass(frozen=True, eq=False)
class _Call:
    """One operation with its arguments by name."""

    recorder: _Recorder
    func: Any
    given: dict[str, Any]
    result: Tensor

    def traced(self, name: str) -> int:
        """The node of an argument."""
        return self._node(self.given[name])

    def _node(self, tensor: Any) -> int:
        known = self.recorder.known.get(id(tensor))
        if isinstance(known, _Traced):
            return known.node
        if isinstance(known, _Unknown):
            raise _RefusedError(known.reason, placed=True)
        raise _RefusedError(f"{self.func} takes a tensor that does not come from the batch")

    def nodes(self, tensors: Any) -> tuple[int, ...]:
        """The nodes of several tensors."""
        return tuple(self._node(tensor) for tensor in tensors)

    def weight(self, name: str, *, transposed: bool = False) -> Parameter | None:
        """A parameter or constant, or None where none is given."""
        tensor = self.given[name]
        if tensor is None:
            return None
        known = self.recorder.known.get(id(tensor))
        if known is None:
            if tensor.requires_grad:
                raise _RefusedError(f"{self.func} takes a tensor that is computed, not a parameter")
            known = _Weight(tensor)
        if isinstance(known, _Unknown):
            raise _RefusedError(known.reason, placed=True)
        if isinstance(known, _Traced):
            raise _RefusedError(f"{self.func} takes a {name} that is made of the batch")
        root = known.tensor.detach()
        if known.transposed != transposed:
            if known.tensor.requires_grad:
                raise _RefusedError(f"{self.func} takes a transposed {name}")
            root = root.t()
        name_of = self.recorder.names.get(id(known.tensor)) if known.tensor.requires_grad else None
        return Parameter(root.double().clone(), name_of)

    def must(self, condition: bool, what: str) -> None:
        """Refuse an option that has no exact meaning here."""
        if not condition:
            raise _RefusedError(f"{self.func} with {what} is not an operation that can be certified")

    def add(self, operation: Operation, *inputs: int) -> _Traced:
        """Note the node."""
        return self.recorder.add(operation, inputs, self.result)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Where the entries lie in memory; the stride of an axis with a single entry says nothing."""
    strides = [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return tuple(tensor.shape), strides, tensor.storage_offset()


def _restrided(call: _Call) -> _Traced:
    """How a global average is marked as channels-last: the same entries in their places."""
    call.must(_layout(call.result) == call.recorder.layout, "another layout")
    return _Traced(call.traced("self"))


def _same(call: _Call) -> _Traced | _Weight:
    """A conversion between formats, or a copy."""
    tensor = call.given[call.func._schema.arguments[0].name]
    known = call.recorder.known.get(id(tensor))
    call.must(call.result.is_floating_point(), "a result that is not floating point")
    if isinstance(known, _Weight):
        return known
    return _Traced(call._node(tensor))


def _convolution(call: _Call) -> _Traced:
    given = call.given
    weight = call.weight("weight")
    call.must(weight is not None and weight.value.dim() == 4, "a kernel that is not two-dimensional")
    call.must(not given["transposed"], "transposed=True")
    assert weight is not None
    pair = lambda name: _two(given[name])  # noqa: E731
    return call.add(
        Conv2d(
            weight=weight,
            bias=call.weight("bias"),
            stride=pair("stride"),
            padding=pair("padding"),
            dilation=pair("dilation"),
            groups=given["groups"],
        ),
        call.traced("input"),
    )


def _transpose(call: _Call) -> _Weight:
    known = call.recorder.known.get(id(call.given["self"]))
    if not isinstance(known, _Weight) or known.transposed:
        raise _RefusedError(f"{call.func} of a tensor that is not a parameter")
    return _Weight(known.tensor, transposed=True)


def _product(call: _Call) -> _Traced:
    """x W^T, or x W^T + b."""
    has_bias = "mat1" in call.given
    call.must(
        call.given.get("beta", 1) == 1 and call.given.get("alpha", 1) == 1, "beta or alpha other than 1"
    )
    source, other = ("mat1", "mat2") if has_bias else ("self", "mat2")
    weight = call.weight(other, transposed=True)
    bias = call.weight("self") if has_bias else None
    assert weight is not None
    if bias is not None:
        call.must(bias.value.dim() == 1, "a bias that is not a vector")
    return call.add(Linear(weight=weight, bias=bias), call.traced(source))


def _linear(call: _Call) -> _Traced:
    weight = call.weight("weight")
    assert weight is not None
    return call.add(Linear(weight=weight, bias=call.weight("bias")), call.traced("input"))


def _relu(call: _Call) -> _Traced:
    return call.add(ReLU(), call.traced("self"))


def _max_pool(call: _Call) -> _Traced:
    source: Tensor = call.given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    geometry = PoolGeometry.of(
        _two(call.given["kernel_size"]),
        stride=_two(call.given["stride"] or call.given["kernel_size"]),
        padding=_two(call.given["padding"]),
        dilation=_two(call.given["dilation"]),
        ceil_mode=bool(call.given["ceil_mode"]),
    )
    mask = kernels.forward(source.detach(), geometry=geometry)[1]
    return call.add(MaxPool2d(geometry, mask), call.traced("self"))


def _average_pool(call: _Call) -> _Traced:
    given = call.given
    source: Tensor = given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    kernel, padding = _two(given["kernel_size"]), _two(given["padding"])
    stride = _two(given["stride"] or given["kernel_size"])
    size = (source.shape[2], source.shape[3])
    matrices, inside, padded = [], [], []
    for axis in range(2):
        starts = [place * stride[axis] - padding[axis] for place in range(call.result.shape[2 + axis])]
        ends = [min(start + kernel[axis], size[axis] + padding[axis]) for start in starts]
        matrices.append(_spans(starts, ends, size[axis]))
        inside.append(matrices[-1].sum(1))
        lengths = [float(end - start) for start, end in zip(starts, ends, strict=True)]
        padded.append(torch.tensor(lengths, dtype=torch.float64, device="cpu"))
    divisor = torch.outer(*(padded if given["count_include_pad"] else inside))
    if given["divisor_override"] is not None:
        divisor = torch.full_like(divisor, float(given["divisor_override"]))
    return _average(call, matrices[0], matrices[1], divisor)


def _adaptive_average_pool(call: _Call) -> _Traced:
    source: Tensor = call.given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    matrices = [_adaptive(source.shape[axis], call.result.shape[axis]) for axis in (2, 3)]
    return _average(call, matrices[0], matrices[1], torch.outer(matrices[0].sum(1), matrices[1].sum(1)))


def _adaptive(size: int, number: int) -> Tensor:
    starts = [place * size // number for place in range(number)]
    ends = [-(-(place + 1) * size // number) for place in range(number)]
    return _spans(starts, ends, size)


def _adaptive_max_pool(call: _Call) -> _Traced:
    source: Tensor = call.given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    size, number = source.shape[2:], call.result.shape[2:]
    call.must(
        all(length % count == 0 for length, count in zip(size, number, strict=True)),
        "windows of several sizes",
    )
    geometry = PoolGeometry.of([length // count for length, count in zip(size, number, strict=True)])
    mask = kernels.forward(source.detach(), geometry=geometry)[1]
    return call.add(MaxPool2d(geometry, mask), call.traced("self"))


def _mean(call: _Call) -> _Traced:
    source: Tensor = call.given["self"]
    axes = sorted(axis % source.dim() for axis in call.given["dim"] or ())
    call.must(source.dim() == 4 and axes == [2, 3], "axes other than rows and columns")
    rows, columns = source.shape[2:]
    node = call.traced("self")
    shape = (*source.shape[:2], 1, 1)
    kind: Any = {"dtype": torch.float64, "device": source.device}
    ones = (torch.ones(1, rows, **kind), torch.ones(1, columns, **kind))
    operation = AveragePool2d(*ones, torch.full((1, 1), float(rows * columns), **kind))
    pooled = call.recorder.add(operation, (node,), call.result.reshape(shape))
    return pooled if call.result.dim() == 4 else call.add(Reshape(), pooled.node)


def _average(call: _Call, rows: Tensor, columns: Tensor, divisor: Tensor) -> _Traced:
    device = call.result.device
    operation = AveragePool2d(rows.to(device), columns.to(device), divisor.to(device))
    return call.add(operation, call.traced("self"))


def _spans(starts: list[int], ends: list[int], size: int) -> Tensor:
    """Row i is 1 from starts[i] to ends[i], as far as that lies in [0, size)."""
    places = torch.arange(size, device="cpu")
    first, last = (torch.tensor(bounds, device="cpu")[:, None] for bounds in (starts, ends))
    return ((places >= first) & (places < last)).double()


def _reshape(call: _Call) -> _Traced:
    return call.add(Reshape(), call.traced(call.func._schema.arguments[0].name))


def _add(call: _Call) -> _Traced:
    first, second = call.given["self"], call.given["other"]
    call.must(call.given["alpha"] == 1, "alpha other than 1")
    call.must(isinstance(second, Tensor), "a number")
    call.must(first.shape == second.shape, "shapes that are not the same")
    return call.add(Add(), *call.nodes((first, second)))


def _concat(call: _Call) -> _Traced:
    axis = call.given["dim"] % call.result.dim()
    call.must(axis != 0, "axis 0, that of the images,")
    tensors = [tensor for tensor in call.given["tensors"] if tensor.numel()]
    return call.add(Concat(axis), *call.nodes(tensors))


def _batch_norm(call: _Call) -> _Traced:
    given = call.given
    if given.get("training", False):
        weight, bias = call.weight("weight"), call.weight("bias")
        return call.add(BatchNorm2d(weight, bias, float(given["eps"])), call.traced("input"))
    mean, variance = (given[name] for name in ("running_mean", "running_var"))
    call.must(isinstance(mean, Tensor) and isinstance(variance, Tensor), "no running statistics")
    weight, bias = call.weight("weight"), call.weight("bias")
    mean = mean.detach().double()
    deviation = (variance.detach().double() + float(given["eps"])).sqrt()
    if weight is not None and weight.name is not None:
        # The derivative is certified times the deviation, which must then be one.
        first = call.recorder.deviations.setdefault(weight.name, deviation)
        call.must(torch.equal(first, deviation), "a weight that it shares with one of another variance")
    scale = 1.0 / deviation
    scale = scale if weight is None else weight.value * scale
    shift = -(mean * scale) if bias is None else bias.value - mean * scale
    return call.add(
        Affine(
            scale=scale,
            shift=shift,
            mean=mean.clone(),
            weight=weight.name if weight is not None else None,
            bias=bias.name if bias is not None else None,
        ),
        call.traced("input"),
    )


_READERS: dict[Any, Callable[[_Call], _Traced | _Weight]] = {
    _aten.convolution.default: _convolution,
    _aten.t.default: _transpose,
    _aten.addmm.default: _product,
    _aten.mm.default: _product,
    _aten.linear.default: _linear,
    _aten.relu.default: _relu,
    _aten.relu_.default: _relu,
    _aten.max_pool2d_with_indices.default: _max_pool,
    _aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    _aten.avg_pool2d.default: _average_pool,
    _aten._adaptive_avg_pool2d.default: _adaptive_average_pool,
    _aten.mean.dim: _mean,
    _aten.as_strided_.default: _restrided,
    _aten.view.default: _reshape,
    _aten._unsafe_view.default: _reshape,
    _aten._reshape_alias.default: _reshape,
    _aten.squeeze.dim: _reshape,
    _aten.squeeze.dims: _reshape,
    _aten.unsqueeze.default: _reshape,
    _aten.add.Tensor: _add,
    _aten.add_.Tensor: _add,
    _aten.cat.default: _concat,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.cudnn_batch_norm.default: _batch_norm,
    _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    _aten._to_copy.default: _same,
    _aten.clone.default: _same,
    _aten.contiguous.default: _same,
}

_DERIVATIVES = frozenset(
    {
        "torch::autograd::AccumulateGrad",
        "ConvolutionBackward",
        "AddmmBackward",
        "MmBackward",
        "LinearBackward",
        "TBackward",
        "TransposeBackward",
        "ReluBackward",
        "MaxPool2DWithIndicesBackward",
        "AdaptiveMaxPool2DBackward",
        "AvgPool2DBackward",
        "AdaptiveAvgPool2DBackward",
        "MeanBackward",
        "AsStridedBackward",
        "ViewBackward",
        "UnsafeViewBackward",
        "ReshapeAliasBackward",
        "SqueezeBackward",
        "UnsqueezeBackward",
        "AddBackward",
        "CatBackward",
        "NativeBatchNormBackward",
        "CudnnBatchNormBackward",
        "ToCopyBackward",
        "CloneBackward",
    }
)


def _two(value: Any) -> tuple[int, int]:
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    return int(items[0]), int(items[-1])


def _is_in_place(func: Any) -> bool:
    return any(
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in func._schema.arguments
    )


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _pruned(graph: Graph) -> Graph:
    """Without the nodes that the output does not depend on; the batch stays."""
    needed, stack = {0}, [graph.output]
    while stack:
        index = stack.pop()
        if index not in needed or index == 0:
            needed.add(index)
            stack.extend(source for source in graph.nodes[index].inputs if source not in needed)
    place = {old: new for new, old in enumerate(sorted(needed))}
    nodes = tuple(
        Node(node.operation, tuple(place[source] for source in node.inputs), node.shape, node.where)
        for node in (graph.nodes[old] for old in sorted(needed))
    )
    return Graph(nodes, place[graph.output], graph.batch, graph.parameters, graph.nonfinite)


@contextmanager
def restored(model: nn.Module, *others: Tensor) -> Iterator[None]:
    """Put a module and torch's generators of random numbers back, so that a pass can be repeated.

    Parameters, buffers and modes; those that the pass gave anew as well as those that it changed.

    Args:
        model: any module.
        others: tensors whose values are put back too.
    """
    slots: list[dict[str, Any]] = []
    for module in model.modules():
        slots += module._parameters, module._buffers
    entries = [dict(slot) for slot in slots]
    modes = [(module, module.training) for module in model.modules()]
    tensors = [
        (tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers(), *others)
    ]
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for slot, before in zip(slots, entries, strict=True):
            slot.clear()
            slot.update(before)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for tensor, value in tensors:
                if not torch.equal(tensor, value):  # a write that changes nothing would still be noticed
                    tensor.copy_(value)
