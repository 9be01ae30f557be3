"""Forward passes of a copy in which every call of a pool has a rule of its own, and their gradients."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tiebreak.auditing.given import Batch, Loss, cross_entropy, first_line
from tiebreak.design.axes import NATIVE, PoolJacobian, Precision, UserError
from tiebreak.exact.call_sites import CallSite, CallSites
from tiebreak.exact.certificate import Certificate, Mode
from tiebreak.exact.certify import LOG2_ERROR, certify_graph, cotangent_of
from tiebreak.exact.memory import NotEnoughMemoryError, images_that_fit
from tiebreak.exact.record import record
from tiebreak.exact.run import Progress
from tiebreak.models import rewrite_pools
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.pool_autograd import own_switch
from tiebreak.numerics.precision import arithmetic, as_fed, autocast, cast
from tiebreak.numerics.switch import JacobianSwitch, PoolEvent, observed
from tiebreak.numerics.ties import TieCounts, margins_in_ulps, tie_counts
from tiebreak.protocols.backprop import gradient, num_live


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a pool in a forward pass.

    Attributes:
        place: module, file and line.
        geometry: the windows.
        counts: of its ties.
        live: ties through which a gradient may pass, at most.
        margins: median and smallest distance to the runner-up in ulps; None where no window has one.
        switch: the rule of this call alone.
    """

    place: CallSite
    geometry: PoolGeometry
    counts: TieCounts
    live: int
    margins: tuple[float, float] | None
    switch: JacobianSwitch


@dataclass(frozen=True)
class Left:
    """A maximum over windows whose rule at ties cannot be switched.

    Attributes:
        name: of the operation.
        place: module, file and line.
        why: the reason, as the end of a sentence.
    """

    name: str
    place: CallSite
    why: str

    OTHER: ClassVar[str] = "only 2-D max pools of real tensors that return no indices are switched"
    WITHOUT_GRAPH: ClassVar[str] = (
        "it ran under torch.no_grad, in a reentrant checkpoint or in a torch.autograd.Function"
    )


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass with its graph.

    Attributes:
        loss: on the graph.
        finite: whether the network's output is.
        calls: of pools, in order.
        left: pools that keep their own rule.
        num_outputs: how many tensors the network returns.
    """

    loss: Tensor
    finite: bool
    calls: tuple[Call, ...]
    left: tuple[Left, ...]
    num_outputs: int


@dataclass(frozen=True, eq=False)
class Subject:
    """A copy of the user's network in one precision, with the batch and the loss.

    Attributes:
        network: the copy, its pools replaced.
        batch: in that precision, on the device.
        loss: from output and labels, or from the output alone; None for the mean cross-entropy.
        precision: of both passes.
        device: where.
    """

    network: nn.Module
    batch: Batch
    loss: Loss | None
    precision: Precision
    device: torch.device
    parameters: tuple[Tensor, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False)
    buffers: tuple[tuple[nn.Module, str, Tensor], ...] = field(init=False)

    @classmethod
    def of(
        cls, model: nn.Module, batch: Batch, *, loss: Loss | None, precision: Precision, device: torch.device
    ) -> Subject:
        """A copy of `model`, which is left alone.

        Raises:
            UserError: a module that cannot be copied or rewritten.
        """
        try:
            copied = rewrite_pools(model, jacobian=JacobianSwitch())
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the network cannot be copied: copy.deepcopy raised {type(error).__name__}: "
                f"{first_line(error)}. An audit works on a copy, so make it one that can be."
            ) from error
        network = cast(copied, precision).to(device)
        if isinstance(loss, nn.Module):  # its weights take part in the arithmetic
            loss = cast(copy.deepcopy(loss), precision).to(device)
        images = as_fed(batch.images.detach().to(device), precision)
        labels = None if batch.labels is None else batch.labels.to(device)
        return cls(network, Batch(images, labels), loss, precision, device)

    def __post_init__(self) -> None:
        asked = {name: tensor for name, tensor in self.network.named_parameters() if tensor.requires_grad}
        object.__setattr__(self, "parameters", tuple(asked.values()))
        object.__setattr__(self, "names", tuple(asked))
        kept: list[tuple[nn.Module, str, Tensor]] = []
        for module in self.network.modules():
            kept += [(module, name, tensor) for name, tensor in module._buffers.items() if tensor is not None]
        object.__setattr__(self, "buffers", tuple(kept))

    @contextmanager
    def _from_the_start(self) -> Iterator[None]:
        """With the buffers and generators that the first pass found.

        A pass gets buffers of its own: to write into those of an earlier one would spoil its graph.
        """
        fresh = {id(tensor): tensor.clone() for _, _, tensor in self.buffers}
        for module, name, tensor in self.buffers:
            module._buffers[name] = fresh[id(tensor)]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            yield

    def run(self) -> Pass:
        """A forward pass, with the buffers and random numbers of every other one.

        Raises:
            UserError: the network or the loss cannot take the batch.
        """
        calls: list[Call] = []
        places = CallSites(self.network)
        remaining = _Remaining(places)

        def see(event: PoolEvent) -> None:
            if not torch.is_grad_enabled():  # a checkpoint may run it again later, with a graph of its own
                remaining.found.append(Left("max_pool2d", places.here(), Left.WITHOUT_GRAPH))
                return
            # Now, not after the pass: what follows may change the pool's output in place.
            counts, live = tie_counts(event), num_live(event)
            switch = own_switch(event.output)
            calls.append(Call(places.here(), event.geometry, counts, live, _margins(event), switch))

        with ExitStack() as stack:
            for context in (self._from_the_start(), places.watched(), observed(see), remaining):
                stack.enter_context(context)
            output, num_outputs = self._output()
            loss = self._loss(output)
        finite = all(bool(tensor.detach().isfinite().all()) for tensor in _floating(output))
        return Pass(loss, finite, tuple(calls), tuple(remaining.found), num_outputs)

    def _output(self) -> tuple[Any, int]:
        """What the loss takes: all that the network returns, or the first tensor of it for our own loss."""
        with autocast(self.precision, device=self.device):
            try:
                output = self.network(self.batch.images)
            except (Exception, SystemExit) as error:
                if isinstance(error, UserError) or is_about_determinism(error):
                    raise
                shape, dtype = tuple(self.batch.images.shape), self.batch.images.dtype
                raise UserError(
                    f"the network cannot take images of shape {shape} in {self.precision} ({dtype}): "
                    f"{type(error).__name__}: {first_line(error)}."
                ) from error
        number = len(_floating(output))
        if self.loss is not None:
            return output, number
        if not number:
            raise UserError(
                f"the network returns {type(output).__name__} and no floating-point tensor, which the "
                "cross-entropy cannot take. Give a loss with --loss package.module:function."
            )
        return _floating(output)[0], number

    def _loss(self, output: Any) -> Tensor:
        with autocast(self.precision, device=self.device):
            try:
                loss = self.loss_of(output, self.batch.labels)
            except (Exception, SystemExit) as error:
                if isinstance(error, UserError) or is_about_determinism(error):
                    raise
                raise UserError(
                    f"the loss cannot take the network's output and the labels: {type(error).__name__}: "
                    f"{first_line(error)}."
                ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"the loss must be one floating-point number, a tensor, got {got}.")
        if not loss.requires_grad:
            raise UserError("the loss does not depend on any parameter that asks for a derivative.")
        return loss.reshape(())

    def loss_of(self, output: Any, labels: Tensor | None) -> Tensor:
        """The loss of any output."""
        if self.loss is not None:
            return self.loss(output) if labels is None else self.loss(output, labels)
        assert labels is not None
        return cross_entropy(output, labels)

    def gradient(
        self, run: Pass, *, rule: PoolJacobian = NATIVE, only: Call | None = None
    ) -> tuple[Tensor, ...]:
        """The gradient with `rule` in every call, or in one call alone and PyTorch's rule in the others."""
        for call in run.calls:
            call.switch.jacobian = rule if only is None or call is only else NATIVE
        try:
            return gradient(run.loss, self.parameters, retain_graph=True)
        except RuntimeError as error:
            if is_about_determinism(error):
                raise
            raise UserError(f"the backward pass failed: {first_line(error)}.") from error

    def _wide(self) -> Subject:
        """The same with a loss in float64, in which the derivative at the output is taken."""
        return (
            replace(self, loss=copy.deepcopy(self.loss).double())
            if isinstance(self.loss, nn.Module)
            else self
        )

    def certificate(
        self,
        jacobians: Sequence[PoolJacobian],
        *,
        calls: Sequence[Call],
        progress: Progress,
        seconds: float | None = None,
        chunk: int | None = None,
    ) -> Certificate | str:
        """What is true over the reals, or why that is not known.

        Args:
            jacobians: rules that have a meaning there.
            calls: the pools whose rule is switched; one that keeps its own would be switched over the reals.
            progress: told what comes next.
            seconds: after which to give up; None for never.
            chunk: images at a time; None leaves it to the memory.
        """
        progress = progress if seconds is None else _limited(progress, seconds)
        try:
            graph, output = record(self.network, self.batch.images, forward=lambda: self._output()[0])
            switched = iter([str(call.place) for call in calls])
            for where in (graph.nodes[index].where for index in graph.pools):
                if where not in switched:  # which looks on from the last one that was found
                    return (
                        "not certifiable, because a certificate is about every max pool, and the one at "
                        f"{where} keeps PyTorch's own rule here."
                    )
            cotangent = cotangent_of(self._wide().loss_of, output, self.batch.labels)  # pyright: ignore[reportArgumentType]
            asked = {"jacobians": jacobians, "mode": Mode.RANDOM, "log2_error": LOG2_ERROR}
            try:
                fitting = images_that_fit(graph, cotangent, chunk=chunk, **asked)
                return certify_graph(graph, cotangent, chunk=fitting, progress=progress, **asked)
            except (NotEnoughMemoryError, _OutOfTimeError) as error:
                return f"not certified, because {error}"
        except UserError as error:
            said = str(error).removeprefix("undecided, because ")
        except (MemoryError, RuntimeError) as error:
            said = f"the attempt failed: {type(error).__name__}: {first_line(error)}."
        return said if said.startswith("not certifiable") else f"not certifiable, because {said}"

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In its precision."""
        with arithmetic(self.precision, device=self.device):
            yield


class _OutOfTimeError(UserError):
    """A certificate took longer than it may."""


def _limited(progress: Progress, seconds: float) -> Progress:
    """As `progress`, until the time is over."""
    end = time.monotonic() + seconds

    def told(step: str) -> None:
        if time.monotonic() > end:
            raise _OutOfTimeError(
                f"the {seconds:g} seconds that it may take were over before {step}. Give it more with "
                "--certify-seconds, or audit fewer images."
            )
        progress(step)

    return told


class _Remaining(TorchFunctionMode):
    """Notes the maxima over windows that are not our pools: their rule at ties cannot be switched."""

    def __init__(self, places: CallSites) -> None:
        super().__init__()
        self.places = places
        self.found: list[Left] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Run the operation, and note it where a gradient passes through it."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name.startswith(_OTHER_POOLS) or name in ("amax", "max"):
            value = result[0] if isinstance(result, tuple) else result
            if isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad:
                self.found.append(Left(name, self.places.here(), Left.OTHER))
        return result


_OTHER_POOLS = ("max_pool", "adaptive_max_pool", "fractional_max_pool")


def _floating(output: Any) -> list[Tensor]:
    """Every floating-point tensor that a network returned, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in _floating(item)]
    return []


def _margins(event: PoolEvent) -> tuple[float, float] | None:
    margins = margins_in_ulps(event)
    there = margins[margins.isfinite()]
    return (float(there.median()), float(there.min())) if there.numel() else None


def is_about_determinism(error: BaseException) -> bool:
    """Whether torch refuses an operation because it has no deterministic algorithm for it."""
    return isinstance(error, RuntimeError) and "use_deterministic_algorithms(True)" in str(error)
