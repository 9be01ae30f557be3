"""The measured conventions as a Markdown table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import torch

from tiebreak.conventions.probes import DTYPES, Convention
from tiebreak.design.axes import Device, MemoryFormat

_SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where the conventions were measured.

    Args:
        torch: its version.
        device: cpu or cuda.
        device_name: model of the CUDA device; "" on the CPU.
        cpu_capability: widest vector instructions that torch's CPU kernels use.
        num_threads: of torch.
        compiled: "measured", or why it was not.
        date: day of the measurement, UTC.
    """

    torch: str
    device: str
    device_name: str
    cpu_capability: str
    num_threads: int
    compiled: str
    date: str


def surroundings(*, device: Device, compiled: str) -> Surroundings:
    """What the header of a table says.

    Args:
        device: where it was measured.
        compiled: "measured", or why it was not.
    """
    return Surroundings(
        torch=torch.__version__,
        device=str(device),
        device_name=torch.cuda.get_device_name() if device is Device.CUDA else "",
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        num_threads=torch.get_num_threads(),
        compiled=compiled,
        date=datetime.now(UTC).date().isoformat(),
    )


def to_json(conventions: Sequence[Convention], *, where: Surroundings) -> str:
    """Every answer as one object, none merged.

    Args:
        conventions: what was measured.
        where: header.
    """
    table = {**asdict(where), "conventions": [asdict(convention) for convention in conventions]}
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


_INTRODUCTION = """\
# What torch does at ties

Measured by `tiebreak conventions`: every entry is read off backward passes on the machine below, none is
looked up.
"""

_LEGEND = """\
## How to read it

**Operations that pick among entries** (pools, reductions, sorting, two tensors). A window is what one output
looks at; its incoming gradient is 1, 2 or 4, and two to all of its entries are tied. Tied entries are equal
numbers (*tie*), zeros of both signs (*+0 and -0*), or *NaN*. Of two tensors the first is `x`.

| gradient | the incoming gradient g goes |
|---|---|
| first, second, last | whole to that one of the tied entries, in the order of the index |
| one, not a fixed one | whole to one tied entry, but not always to the first, second or last |
| even split | g/n to each of the n tied entries, within 4 unit roundoffs |
| all ones | g to each of them |
| none | nowhere |
| NaN to every entry | nowhere: all entries of the window get NaN |
| mixed | by no one rule: how many windows of which size follow which, or the raw shares |

`lows` holds -1000 and `zeros` 0, one number a group; `i` names the group of each entry of `x`.

Entries that are not tied get 0, or the row says mixed. A name stands there only if it explains every entry of
every window of every size and layout that was tried: all sets of tied entries in small windows, drawn ones in
large windows, few and many channels, short and long rows, reductions along the first and the last dimension,
overlapping pools.

**Operations with a kink.** The derivative at the point, and where that is what: just below (left) and just
above it (right), measured at the neighbouring numbers (at 0, at the smallest normal ones). All elements of a
short tensor and of a long one stand at the point; where they do not agree, each answer is counted.

*contiguous*, *channels_last*: the order of a 4-D or 5-D input in memory, where that has a meaning.
*compiled*: `torch.compile`, the whole call as one graph. *raises*: the call failed with this error.
"""


def to_markdown(conventions: Sequence[Convention], *, where: Surroundings) -> str:
    """A page with the table; settings with the same answer share a row.

    Args:
        conventions: what was measured.
        where: header.
    """
    device = f"{where.device} ({where.device_name})" if where.device_name else where.device
    head = [
        f"* torch {where.torch}, device {device}, {where.num_threads} threads",
        f"* CPU capability {where.cpu_capability}",
        f"* compiled: {where.compiled}",
        f"* {where.date} (UTC)",
    ]
    titles = ("operation", "call", "at", "dtype", "memory", "run", "gradient")
    rows = [titles, *(tuple(cell.replace("|", "\\|") for cell in row) for row in _rows(conventions))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles) - 1)]

    def line(row: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        return "| " + " | ".join([*padded, row[-1]]) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|---|"
    table = [line(rows[0]), rule, *map(line, rows[1:])]
    return "\n".join([_INTRODUCTION, *head, "", *table, "", _LEGEND])


Key = tuple[str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...], str]


def _rows(conventions: Sequence[Convention]) -> list[tuple[str, ...]]:
    """One row an answer, merged over dtypes, then places, memory formats and modes."""
    keys: list[Key] = [
        (
            c.operation,
            c.call,
            (c.at,),
            (c.dtype,),
            (str(c.memory_format),),
            ("compiled" if c.compiled else "eager",),
            c.gradient,
        )
        for c in conventions
    ]
    for column in (3, 2, 4, 5):
        keys = _merged(keys, column)
    ranks = {key[:2]: rank for rank, key in reversed(list(enumerate(keys)))}
    keys.sort(key=lambda key: ranks[key[:2]])
    return [_row(key) for key in keys]


def _merged(keys: Sequence[Key], column: int) -> list[Key]:
    groups: dict[tuple, list[str]] = {}
    for key in keys:
        rest = (*key[:column], *key[column + 1 :])
        groups.setdefault(rest, []).extend(key[column])
    return [(*rest[:column], tuple(held), *rest[column:]) for rest, held in groups.items()]  # pyright: ignore[reportReturnType]


def _row(key: Key) -> tuple[str, ...]:
    operation, call, places, dtypes, formats, modes, gradient = key
    is_all = len(dtypes) == len(DTYPES)
    return (
        operation,
        f"`{call}`",
        ", ".join(places),
        "all four" if is_all else " ".join(_SHORT[dtype] for dtype in dtypes),
        "both" if len(formats) == len(MemoryFormat) else formats[0],
        ", ".join(modes),
        gradient,
    )
