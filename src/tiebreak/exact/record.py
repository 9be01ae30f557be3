"""From any module to a graph: the operations that one forward pass really runs, from a strict list.

The pass is watched below automatic differentiation, where every operation of PyTorch passes, and the graph
that automatic differentiation built is then compared with it: a custom derivative, a hook or an operation
that is not on the list makes the network not certifiable. Nothing is skipped and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from tiebreak.design.axes import UserError
from tiebreak.exact.call_sites import CallSites
from tiebreak.exact.graph import (
    Affine,
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Node,
    NotCertifiableError,
    Operation,
)
from tiebreak.exact.translation import (
    DERIVATIVES,
    READERS,
    Call,
    RefusedError,
    Traced,
    Unknown,
    Weight,
    layout_of,
)
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


class _Recorder(TorchDispatchMode):
    """Notes every operation that touches the batch, or what was made of it."""

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        super().__init__()
        self.model, self.batch = model, batch
        self.places = CallSites(model)
        self.names = {id(tensor): name for name, tensor in model.named_parameters()}
        self.nodes: list[Node] = [Node(Input(), (), tuple(batch.shape), "batch")]
        self.point = batch.detach().double().clone()  # before an operation in place changes it
        self.known: dict[int, Traced | Weight | Unknown] = {id(batch): Traced(0)}
        # Objects are named by their address: each must live until the pass is over.
        self.alive: list[Tensor] = [batch]
        self.pooled: list[tuple[Tensor, Tensor]] = []
        self.nonfinite: str | None = None
        self.deviations: dict[str, Tensor] = {}
        self.layout: tuple[Any, ...] = ()
        for tensor in model.parameters():
            self._know(tensor, Weight(tensor))

    def _know(self, tensor: Tensor, what: Traced | Weight | Unknown) -> None:
        self.known[id(tensor)] = what
        self.alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation and note it."""
        kwargs = kwargs or {}
        if func is torch.ops.aten.as_strided_.default:
            self.layout = layout_of(args[0])
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
        first_unknown = next((item for item in unknown if isinstance(item, Unknown)), None)
        if first_unknown is not None:
            self._know(result, first_unknown)
            return
        what: Traced | Weight | Unknown
        try:
            what = self._read(func, args, kwargs, result) if first else Unknown(f"a side result of {func}")
        except RefusedError as refused:
            what = self._unknown(refused)
        self._know(result, what)

    def _unknown(self, refused: RefusedError) -> Unknown:
        """With the place where it went wrong first."""
        return Unknown(str(refused) if refused.placed else f"{refused} ({self.places.here()})")

    def _forget_aliases(self, changed: Tensor, func: Any) -> None:
        """After a change in place whatever shares the memory is no longer what it was."""
        storage = changed.untyped_storage()._cdata
        for tensor in self.alive:
            if tensor is not changed and tensor.untyped_storage()._cdata == storage and tensor.numel():
                known = self.known.get(id(tensor))
                if isinstance(known, Traced | Weight):
                    self.known[id(tensor)] = Unknown(f"{func} changed it in place ({self.places.here()})")

    def _read(self, func: Any, args: tuple, kwargs: dict, result: Tensor) -> Traced | Weight:
        if not torch.is_grad_enabled():
            raise RefusedError(f"{func} runs under torch.no_grad or in a torch.autograd.Function")
        names = [argument.name for argument in func._schema.arguments]
        given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        given |= dict(zip(names, args, strict=False)) | kwargs
        call = Call(self, func, given, result)
        reader = READERS.get(func)
        if reader is None:
            raise RefusedError(f"{func} is not an operation that can be certified")
        return reader(call)

    def add(self, operation: Operation, inputs: tuple[int, ...], result: Tensor) -> Traced:
        """A new node; a result that is not finite is noted."""
        shape = tuple(result.shape)
        if not shape or shape[0] != self.batch.shape[0]:
            raise RefusedError(
                f"a result of shape {shape} mixes the images of a batch of {self.batch.shape[0]}, and only "
                "operations on each image apart can be certified"
            )
        where = str(self.places.here())
        if self.nonfinite is None and not bool(result.detach().isfinite().all()):
            self.nonfinite = where
        self.nodes.append(Node(operation, inputs, shape, where))
        return Traced(len(self.nodes) - 1)

    def pool(self, event: PoolEvent) -> None:
        """One pass of a pool of ours, whose inside is not to be read."""
        self._know(event.output, self._pool(event))
        self.pooled.append((event.input, event.output))

    def _pool(self, event: PoolEvent) -> Traced | Unknown:
        known = self.known.get(id(event.input))
        if not isinstance(known, Traced):
            return known if isinstance(known, Unknown) else Unknown("a pool of something that is not traced")
        try:
            return self.add(MaxPool2d(event.geometry, event.mask.clone()), (known.node,), event.output)
        except RefusedError as refused:
            return self._unknown(refused)

    def graph(self, output: Any) -> Graph:
        """The nodes that the output depends on."""
        if not isinstance(output, Tensor) or output.dim() != 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NotCertifiableError(f"the network must return one tensor (N, classes), got {got}.")
        known = self.known.get(id(output))
        if not isinstance(known, Traced):
            reason = known.reason if isinstance(known, Unknown) else "it does not come from the batch"
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
            if is_custom or node.name().rstrip("0123456789") not in DERIVATIVES:
                raise NotCertifiableError(
                    f"not certifiable, because the derivative {node.name()} is not one of PyTorch's own for "
                    "the operations that can be certified."
                )
            stack.extend(following for following, _ in node.next_functions)


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
