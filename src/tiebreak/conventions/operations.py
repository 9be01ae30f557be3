"""The operations that are probed: how tied windows are laid out for each, and the call that is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.conventions.rules import Fill, Place

Run = Callable[..., Tensor]
"""From the inputs to one output a window (or one an element), in the windows' order."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size and layout of an operation.

    Args:
        name: for the table, where cases differ.
        num_windows: windows laid out.
        num_entries: entries of each.
        arrange: from (windows, entries) to the inputs of `run`; differentiable.
        run: the call.
    """

    name: str
    num_windows: int
    num_entries: int
    arrange: Callable[[Tensor], tuple[Tensor, ...]]
    run: Run


@dataclass(frozen=True, kw_only=True)
class SelectionOp:
    """An operation that picks among the entries of a window.

    Args:
        name: first column of the table.
        call: the call as one would write it.
        cases: sizes and layouts; together they name one rule or are mixed.
        num_spatial: 2 or 3 where channels-last has a meaning, else 0.
        fill: where untied entries lie.
        values: of tied entries.
        places: what tied entries are.
    """

    name: str
    call: str
    cases: tuple[Case, ...]
    num_spatial: int = 0
    fill: Fill = Fill.BELOW
    values: tuple[float, ...] = (1.0, 0.0, -1.5, float("inf"))
    places: tuple[Place, ...] = tuple(Place)


@dataclass(frozen=True, kw_only=True)
class KinkOp:
    """An operation with a derivative that jumps.

    Args:
        name: first column of the table.
        call: the call as one would write it.
        run: the call, of one tensor.
        points: where the derivative is measured.
        has_sides: whether the derivatives just below and above are measured as well.
    """

    name: str
    call: str
    run: Run
    points: tuple[float, ...]
    has_sides: bool = True


# ---- layouts -----------------------------------------------------------------------------------------------


def _pool_cases(pool: Callable[..., Tensor], *, num_spatial: int, adaptive: bool) -> tuple[Case, ...]:
    def case(name: str, *, side: int, channels: int, blocks: int, stride: int) -> Case:
        lead = (2, channels)
        grid = (blocks,) * num_spatial
        window = (side,) * num_spatial

        def arrange(windows: Tensor) -> tuple[Tensor]:
            split = windows.view(*lead, *grid, *window)
            order = [0, 1]
            for axis in range(num_spatial):
                order += [2 + axis, 2 + num_spatial + axis]
            return (split.permute(order).reshape(*lead, *(blocks * side,) * num_spatial),)

        def run(x: Tensor) -> Tensor:
            if adaptive:
                return pool(x, grid).flatten()
            if stride == side:
                return pool(x, side).flatten()
            apart = (..., *(slice(None, None, side),) * num_spatial)
            return pool(x, side, stride)[apart].flatten()  # windows overlap, those that get a gradient do not

        count = 2 * channels * blocks**num_spatial
        return Case(name=name, num_windows=count, num_entries=side**num_spatial, arrange=arrange, run=run)

    cases = [
        case("2 wide, 2 channels", side=2, channels=2, blocks=3, stride=2),
        case("3 wide, 33 channels", side=3, channels=33, blocks=2, stride=3),
    ]
    if not adaptive:
        cases.append(case("3 wide, stride 1, 64 channels", side=3, channels=64, blocks=2, stride=1))
    return tuple(cases)


def _row_cases(run_along: Callable[[Tensor, int], Tensor], *, long: int = 1000) -> tuple[Case, ...]:
    """Windows as rows (the last axis is reduced), as columns (the first is), and long rows."""

    def last(x: Tensor) -> Tensor:
        return run_along(x, 1)

    def first(x: Tensor) -> Tensor:
        return run_along(x, 0)

    def rows(windows: Tensor) -> tuple[Tensor]:
        return (windows.clone(),)

    def columns(windows: Tensor) -> tuple[Tensor]:
        return (windows.t().contiguous(),)

    return (
        Case(name="rows of 4", num_windows=33, num_entries=4, arrange=rows, run=last),
        Case(name="columns of 9", num_windows=200, num_entries=9, arrange=columns, run=first),
        Case(name=f"rows of {long}", num_windows=9, num_entries=long, arrange=rows, run=last),
    )


def _whole_cases(run: Callable[[Tensor], Tensor]) -> tuple[Case, ...]:
    """Each window is a tensor of its own, reduced as a whole."""

    def alone(windows: Tensor) -> tuple[Tensor, ...]:
        return tuple(window.clone() for window in windows)

    def each(*tensors: Tensor) -> Tensor:
        return torch.stack([run(tensor) for tensor in tensors])

    return (
        Case(name="4 entries", num_windows=11, num_entries=4, arrange=alone, run=each),
        Case(name="70000 entries", num_windows=4, num_entries=70_000, arrange=alone, run=each),
    )


def _pair_cases(run: Callable[[Tensor, Tensor], Tensor]) -> tuple[Case, ...]:
    """A window is an element of x and the element of y that meets it."""

    def pair(windows: Tensor) -> tuple[Tensor, ...]:
        return windows[:, 0].clone(), windows[:, 1].clone()

    return tuple(
        Case(name=f"{number} elements", num_windows=number, num_entries=2, arrange=pair, run=run)
        for number in (5, 4099)
    )


def _groups(x: Tensor, dim: int, *, start: float) -> Tensor:
    """Maxima of groups that an index names, as in graph networks."""
    flat = (x if dim == 1 else x.t()).reshape(-1)
    num_windows = x.shape[1 - dim]
    index = torch.arange(num_windows, device=x.device).repeat_interleave(x.shape[dim])
    begun = torch.full((num_windows,), start, dtype=x.dtype, device=x.device)
    return begun.scatter_reduce(0, index, flat, "amax", include_self=False)


# ---- the list ----------------------------------------------------------------------------------------------

_pool_ops = [
    SelectionOp(
        name=f"{'adaptive_' * adaptive}max_pool{num_spatial}d",
        call=f"functional.{'adaptive_' * adaptive}max_pool{num_spatial}d(x, {'size' if adaptive else 'k'})",
        cases=_pool_cases(
            getattr(functional, f"{'adaptive_' * adaptive}max_pool{num_spatial}d"),
            num_spatial=num_spatial,
            adaptive=adaptive,
        ),
        num_spatial=num_spatial if num_spatial > 1 else 0,
    )
    for adaptive in (False, True)
    for num_spatial in (1, 2, 3)
]


def _along(name: str, call: str, run: Callable[[Tensor, int], Tensor], **more) -> SelectionOp:
    return SelectionOp(name=name, call=call, cases=_row_cases(run), **more)


def _pair(name: str, call: str, run: Callable[[Tensor, Tensor], Tensor], **more) -> SelectionOp:
    return SelectionOp(name=name, call=call, cases=_pair_cases(run), **more)


def _clamp_low(x: Tensor, bound: Tensor) -> Tensor:
    return x.clamp(min=bound)


def _clamp_high(x: Tensor, bound: Tensor) -> Tensor:
    return x.clamp(max=bound)


_NUMBERS = (Place.TIE, Place.SIGNED_ZEROS)  # a NaN counts as the largest number
_MIDDLE = {"fill": Fill.AROUND, "values": (1.0, 0.0, -1.5)}
_LOW = {"fill": Fill.ABOVE, "values": (1.0, 0.0, -1.5, float("-inf"))}

SELECTIONS: tuple[SelectionOp, ...] = (
    *_pool_ops,
    _along("amax", "x.amax(dim)", lambda x, dim: x.amax(dim)),
    _along("amin", "x.amin(dim)", lambda x, dim: x.amin(dim), **_LOW),
    _along("aminmax", "x.aminmax(dim=dim).max", lambda x, dim: x.aminmax(dim=dim).max),
    SelectionOp(name="max", call="x.max()", cases=_whole_cases(lambda x: x.max())),
    SelectionOp(name="min", call="x.min()", cases=_whole_cases(lambda x: x.min()), **_LOW),
    _along("max along a dim", "x.max(dim).values", lambda x, dim: x.max(dim).values),
    _along("min along a dim", "x.min(dim).values", lambda x, dim: x.min(dim).values, **_LOW),
    _pair("maximum", "torch.maximum(x, y)", torch.maximum),
    _pair("minimum", "torch.minimum(x, y)", torch.minimum, **_LOW),
    _pair("fmax", "torch.fmax(x, y)", torch.fmax),
    _pair("fmin", "torch.fmin(x, y)", torch.fmin, **_LOW),
    _pair("clamp, tensor bounds", "x.clamp(min=y)", _clamp_low),
    _pair("clamp, tensor bounds", "x.clamp(max=y)", _clamp_high, **_LOW),
    _along("topk", "x.topk(1, dim).values[0]", lambda x, dim: x.topk(1, dim).values.select(dim, 0)),
    _along("topk", "x.topk(2, dim).values[1]", lambda x, dim: x.topk(2, dim).values.select(dim, 1)),
    _along(
        "sort",
        "x.sort(dim, descending=True).values[0]",
        lambda x, dim: x.sort(dim, descending=True).values.select(dim, 0),
    ),
    _along(
        "sort",
        "x.sort(dim, descending=True).values[1]",
        lambda x, dim: x.sort(dim, descending=True).values.select(dim, 1),
    ),
    _along("sort", "x.sort(dim).values[-1]", lambda x, dim: x.sort(dim).values.select(dim, -1)),
    _along("cummax", "x.cummax(dim).values[-1]", lambda x, dim: x.cummax(dim).values.select(dim, -1)),
    _along("cummin", "x.cummin(dim).values[-1]", lambda x, dim: x.cummin(dim).values.select(dim, -1), **_LOW),
    _along(
        "kthvalue",
        "x.kthvalue(1, dim).values",
        lambda x, dim: x.kthvalue(1, dim).values,
        **_LOW,
        places=_NUMBERS,
    ),
    SelectionOp(name="median", call="x.median()", cases=_whole_cases(lambda x: x.median()), **_MIDDLE),
    _along("median along a dim", "x.median(dim).values", lambda x, dim: x.median(dim).values, **_MIDDLE),
    _along(
        "linalg.vector_norm, ord=inf",
        "torch.linalg.vector_norm(x, torch.inf, dim)",
        lambda x, dim: torch.linalg.vector_norm(x, torch.inf, dim),
        values=(8.0, 9.0),
        places=(Place.TIE,),
    ),
    _along(
        "scatter_reduce, amax",
        "zeros.scatter_reduce(0, i, x, 'amax', include_self=False)",
        partial(_groups, start=0.0),
    ),
    _along(
        "scatter_reduce, amax",
        "lows.scatter_reduce(0, i, x, 'amax', include_self=False)",
        partial(_groups, start=-1000.0),
    ),
)
"""Operations that pick among tied entries."""


def _row_norm(x: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(x, order, -1)


_NAN = float("nan")
_ZERO = (0.0, -0.0, _NAN)

KINKS: tuple[KinkOp, ...] = (
    KinkOp(name="relu", call="functional.relu(x)", run=functional.relu, points=_ZERO),
    KinkOp(name="relu6", call="functional.relu6(x)", run=functional.relu6, points=(0.0, -0.0, 6.0, _NAN)),
    KinkOp(
        name="leaky_relu",
        call="functional.leaky_relu(x, 0.25)",
        run=partial(functional.leaky_relu, negative_slope=0.25),
        points=_ZERO,
    ),
    KinkOp(
        name="threshold",
        call="functional.threshold(x, 1, 0)",
        run=partial(functional.threshold, threshold=1.0, value=0.0),
        points=(1.0, _NAN),
    ),
    KinkOp(
        name="clamp, Python bounds",
        call="x.clamp(-1, 1)",
        run=partial(torch.clamp, min=-1.0, max=1.0),
        points=(-1.0, 1.0, _NAN),
    ),
    KinkOp(
        name="clamp, Python bounds",
        call="x.clamp(min=0)",
        run=partial(torch.clamp, min=0.0),
        points=_ZERO,
    ),
    KinkOp(
        name="clamp, Python bounds",
        call="x.clamp(max=1)",
        run=partial(torch.clamp, max=1.0),
        points=(1.0, _NAN),
    ),
    KinkOp(name="hardtanh", call="functional.hardtanh(x)", run=functional.hardtanh, points=(-1.0, 1.0, _NAN)),
    KinkOp(
        name="hardsigmoid",
        call="functional.hardsigmoid(x)",
        run=functional.hardsigmoid,
        points=(-3.0, 3.0, _NAN),
    ),
    KinkOp(
        name="hardswish", call="functional.hardswish(x)", run=functional.hardswish, points=(-3.0, 3.0, _NAN)
    ),
    KinkOp(
        name="hardshrink",
        call="functional.hardshrink(x)",
        run=functional.hardshrink,
        points=(-0.5, 0.5, _NAN),
    ),
    KinkOp(
        name="softshrink",
        call="functional.softshrink(x)",
        run=functional.softshrink,
        points=(-0.5, 0.5, _NAN),
    ),
    KinkOp(name="abs", call="x.abs()", run=torch.abs, points=_ZERO),
    KinkOp(name="sign", call="x.sign()", run=torch.sign, points=_ZERO),
    KinkOp(
        name="linalg.vector_norm",
        call="torch.linalg.vector_norm(x, 2, -1)",
        run=partial(_row_norm, order=2.0),
        points=(0.0, -0.0),
        has_sides=False,
    ),
    KinkOp(
        name="linalg.vector_norm, ord=1",
        call="torch.linalg.vector_norm(x, 1, -1)",
        run=partial(_row_norm, order=1.0),
        points=(0.0, -0.0),
        has_sides=False,
    ),
    KinkOp(
        name="linalg.vector_norm, ord=inf",
        call="torch.linalg.vector_norm(x, torch.inf, -1)",
        run=partial(_row_norm, order=float("inf")),
        points=(0.0, -0.0),
        has_sides=False,
    ),
    KinkOp(
        name="std",
        call="x.std(-1)",
        run=partial(torch.std, dim=-1),
        points=(0.0, 1.0),
        has_sides=False,
    ),
)
"""Operations whose derivative jumps, with the points where it does."""
