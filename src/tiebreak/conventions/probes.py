"""The measurement: each operation at each tie, dtype, memory format and mode, by one backward pass each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from tiebreak.conventions.operations import KINKS, SELECTIONS, Case, KinkOp, SelectionOp
from tiebreak.conventions.rules import Place, name_rule, name_slope, number, tied_windows
from tiebreak.design.axes import Device, MemoryFormat, UserError, member

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Names of the dtypes that are measured."""

_SEED = 0
_SIZES = ((5,), (67, 61))  # shorter than a vector register, and longer with an odd rest


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One measured answer.

    Args:
        operation: name of the operation.
        call: the call that was made.
        at: where: a `Place` for operations that pick among entries, "x = ..." for a kink.
        dtype: float16, bfloat16, float32 or float64.
        memory_format: order of the input in memory.
        compiled: whether `torch.compile` made the code.
        device: where it ran.
        gradient: the rule or derivative by name; "mixed: ..." with raw numbers where no name fits;
            "raises ..." with the first line of the error where the call fails.
        num_measured: windows or elements that the answer rests on.
    """

    operation: str
    call: str
    at: str
    dtype: str
    memory_format: MemoryFormat
    compiled: bool
    device: Device
    gradient: str
    num_measured: int


def measure_conventions(
    *,
    device: Device | str = Device.CPU,
    compiled: bool = False,
    dtypes: Sequence[str] = DTYPES,
    operations: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Convention, ...]:
    """What gradients this torch gives at ties and kinks.

    Each answer is read off backward passes: windows in which two to all entries are tied get incoming
    gradients of 1, 2 and 4 in turn, and the name is given only if it explains every entry of every window of
    every size. Compiled code is compiled as one whole graph or the error is told. With
    `compiled` the process's other compiled functions are compiled anew when they are next called.

    Args:
        device: cpu or cuda.
        compiled: whether to measure `torch.compile` as well; minutes on a small machine.
        dtypes: which of float16, bfloat16, float32, float64.
        operations: names of operations; None for all.
        progress: called with (done, all) before each operation and at the end.

    Returns:
        The answers: operations in the order of the table, then modes, dtypes, formats and places.

    Raises:
        UserError: no such device, dtype or operation, or no working compiler.
    """
    place = _checked_device(device)
    _check_names(dtypes, DTYPES, "dtype")
    everything = (*SELECTIONS, *KINKS)
    if operations is not None:
        _check_names(operations, sorted({op.name for op in everything}), "operation")
        everything = tuple(op for op in everything if op.name in operations)
    if compiled:
        available, reason = compiler_status(device=place)
        if not available:
            raise UserError(f"torch.compile does not work here: {reason}. Measure with compiled=False.")
    found: list[Convention] = []
    modes = (False, True) if compiled else (False,)
    with _quiet_compiler(compiled):
        for index, op in enumerate(everything):
            if progress is not None:
                progress(index, len(everything))
            settings = [_Setting(getattr(torch, dtype), place, mode) for mode in modes for dtype in dtypes]
            if isinstance(op, SelectionOp):
                windows = _windows(op)
                for setting in settings:
                    found += _measure_selection(op, windows, setting)
            else:
                for setting in settings:
                    found += _measure_kink(op, setting)
    if progress is not None:
        progress(len(everything), len(everything))
    return tuple(found)


def compiler_status(*, device: Device | str = Device.CPU) -> tuple[bool, str]:
    """Whether `torch.compile` works here, found by compiling one small function.

    Args:
        device: cpu or cuda.

    Returns:
        (whether it works, the reason if it does not and else "").
    """
    with _quiet_compiler(True):
        try:
            x = torch.ones(3, device=str(device), requires_grad=True)
            _compile(lambda x: x.exp().sum())(x).backward()
        except Exception as error:  # whatever is missing: a compiler, Triton, a driver, Python headers
            return False, _first_line(error)
    return True, ""


# ---- one operation -----------------------------------------------------------------------------------------


Windows = dict[Place, list[tuple[Tensor, Tensor]]]
"""For each place, (values, which are tied) of each case."""


@dataclass(frozen=True)
class _Setting:
    dtype: torch.dtype
    device: Device
    compiled: bool

    @property
    def unit_roundoff(self) -> float:
        return torch.finfo(self.dtype).eps / 2


def _windows(op: SelectionOp) -> Windows:
    generator = torch.Generator().manual_seed(_SEED)
    return {
        place: [
            tied_windows(
                place,
                num_windows=case.num_windows,
                num_entries=case.num_entries,
                fill=op.fill,
                values=op.values,
                generator=generator,
            )
            for case in op.cases
        ]
        for place in op.places
    }


def _measure_selection(op: SelectionOp, windows: Windows, setting: _Setting) -> Iterator[Convention]:
    formats = tuple(MemoryFormat) if op.num_spatial else (MemoryFormat.CONTIGUOUS,)

    def run_cases(inputs: tuple[tuple[Tensor, ...], ...]) -> tuple[Tensor, ...]:
        return tuple(case.run(*tensors) for case, tensors in zip(op.cases, inputs, strict=True))

    for memory_format in formats:
        run = _compile(run_cases) if setting.compiled else run_cases
        for place, filled in windows.items():
            gradient = _answer(partial(_selection, op, filled, run, memory_format, setting))
            count = sum(case.num_windows for case in op.cases)
            yield _convention(op, str(place), memory_format, setting, gradient, count)


def _answer(measure: Callable[[], str]) -> str:
    """What was measured, or the error: torch has many kinds for what it has no code for."""
    try:
        return measure()
    except Exception as error:
        return f"raises {_first_line(error)}"


def _convention(
    op: SelectionOp | KinkOp,
    at: str,
    memory_format: MemoryFormat,
    setting: _Setting,
    gradient: str,
    count: int,
) -> Convention:
    return Convention(
        operation=op.name,
        call=op.call,
        at=at,
        dtype=str(setting.dtype).removeprefix("torch."),
        memory_format=memory_format,
        compiled=setting.compiled,
        device=setting.device,
        gradient=gradient,
        num_measured=count,
    )


def _selection(
    op: SelectionOp,
    filled: list[tuple[Tensor, Tensor]],
    run: Callable[..., tuple[Tensor, ...]],
    memory_format: MemoryFormat,
    setting: _Setting,
) -> str:
    leaves = [
        values.to(device=str(setting.device), dtype=setting.dtype).requires_grad_() for values, _ in filled
    ]
    arranged = [
        _laid_out(case, leaf, memory_format, op.num_spatial)
        for case, leaf in zip(op.cases, leaves, strict=True)
    ]
    # Leaves of their own: the call is differentiated alone, and the compiler warns of inputs that are none.
    inputs = tuple(tuple(tensor.detach().requires_grad_() for tensor in tensors) for tensors in arranged)
    outputs = run(inputs)
    incoming = [_incoming(output) for output in outputs]
    arrived = torch.autograd.grad(outputs, list(chain(*inputs)), incoming)
    gradients = torch.autograd.grad(list(chain(*arranged)), leaves, arrived)
    measured = [
        (case.name, (gradient.double() / sent.double()[:, None]).cpu(), tied)
        for case, gradient, sent, (_, tied) in zip(op.cases, gradients, incoming, filled, strict=True)
    ]
    return name_rule(measured, unit_roundoff=setting.unit_roundoff)[1]


def _laid_out(
    case: Case, windows: Tensor, memory_format: MemoryFormat, num_spatial: int
) -> tuple[Tensor, ...]:
    inputs = case.arrange(windows)
    if memory_format is MemoryFormat.CONTIGUOUS:
        return inputs
    order = torch.channels_last if num_spatial == 2 else torch.channels_last_3d
    return tuple(tensor.contiguous(memory_format=order) for tensor in inputs)


def _measure_kink(op: KinkOp, setting: _Setting) -> Iterator[Convention]:
    def run_sizes(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(op.run(x) for x in inputs)

    run = _compile(run_sizes) if setting.compiled else run_sizes
    for point in op.points:
        gradient = _answer(partial(_slope, op, point, run, setting))
        shown = "-0" if point == 0 and math.copysign(1.0, point) < 0 else number(point)
        count = sum(math.prod(size) for size in _SIZES)
        yield _convention(op, f"x = {shown}", MemoryFormat.CONTIGUOUS, setting, gradient, count)


def _slope(op: KinkOp, point: float, run: Callable[..., tuple[Tensor, ...]], setting: _Setting) -> str:
    def derivative(value: float) -> Tensor:
        leaves = [
            torch.full(size, value, dtype=setting.dtype, device=str(setting.device), requires_grad=True)
            for size in _SIZES
        ]
        outputs = run(tuple(leaves))
        incoming = [_incoming(output) for output in outputs]
        gradients = torch.autograd.grad(outputs, leaves, incoming)
        slopes = [
            gradient.double() / (sent if sent.shape == gradient.shape else sent[..., None]).double()
            for gradient, sent in zip(gradients, incoming, strict=True)
        ]
        return torch.cat([slope.flatten().cpu() for slope in slopes])

    at = derivative(point)
    if not op.has_sides or math.isnan(point):
        return name_slope(at, None, None, unit_roundoff=setting.unit_roundoff)
    # The nearest numbers on either side, or at 0 the nearest that are normal: some devices flush the others.
    limits = torch.finfo(setting.dtype)
    step = limits.eps * abs(point) if point else limits.tiny
    below, above = derivative(point - step), derivative(point + step)
    return name_slope(at, below, above, unit_roundoff=setting.unit_roundoff)


def _incoming(output: Tensor) -> Tensor:
    """1, 2 and 4 in turn, of the shape of the output: quotients by them are exact."""
    exponents = torch.arange(output.numel(), device=output.device) % 3
    return (2.0**exponents).to(output.dtype).view(output.shape)


# ---- compiling, checking -----------------------------------------------------------------------------------


def _compile(run: Callable) -> Callable:
    """`run` compiled as one graph for the shapes it is called with, without what was compiled before it."""
    torch.compiler.reset()  # or the number of compiled versions of one line of code meets torch's limit
    return torch.compile(run, fullgraph=True, dynamic=False)


@contextmanager
def _quiet_compiler(compiled: bool) -> Iterator[None]:
    """Torch's compiler says in the log that there is no CUDA, on every machine without one."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    if compiled:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _checked_device(device: Device | str) -> Device:
    chosen = member(Device, device, key="device")
    if chosen is Device.CUDA and not torch.cuda.is_available():
        raise UserError("device=cuda needs a CUDA device, and torch sees none. Use device=cpu.")
    return chosen


def _check_names(names: Sequence[str], known: Sequence[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{kind} must be one of {', '.join(known)}, got {name!r}.")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
