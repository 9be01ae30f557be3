"""The part of the plan that would answer a published number: one of its cells has the published setting.

A part answers where its records would be compared: the protocol, network, data set (or its re-compression),
format (for fp16 also the rounded one), optimizer, batch norm, batch size, beta and, where it is asked, the
device are those of the number. Where no part has such a cell there is none to name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tiebreak.design.axes import Device, Forward, Init, Selection
from tiebreak.design.cell import Cell
from tiebreak.design.study import Part, Study
from tiebreak.report.nearest import RECOMPRESSED, Row, arch_of, precisions_of
from tiebreak.report.reproduced import rule_of

BATCH_SIZE = 128
"""Images of a published mini-batch, where the id of the number names no other."""

_NO_EPOCH = 0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a cell must have for its records to answer a published number; "" and None ask for nothing.

    Args:
        protocol: of the measurement.
        arch: network, as ours are named.
        data: data set; a re-compression stands in for it.
        precision: format; for fp16 the rounded one stands in.
        optimizer: name, of trainings.
        batch_norm: with or without.
        betas: among the cell's Jacobians, a number as often as it is named.
        forward: of every one of these.
        batch_size: images of a mini-batch.
        num_epochs: the least; 0 for any.
        init: distribution of the published initial weights; another is farther, and answers too.
        deterministic: whether the arithmetic repeats itself.
        device: `cuda` where a rule reads records of a GPU only.
    """

    protocol: str
    arch: str
    data: str
    precision: str
    optimizer: str
    batch_norm: bool | None
    betas: tuple[float, ...] = ()
    forward: str = ""
    batch_size: int = BATCH_SIZE
    num_epochs: int = _NO_EPOCH
    init: str = ""
    deterministic: bool | None = None
    device: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of images that may be read, the nearest first."""
        return (self.data, *RECOMPRESSED.get(self.data, ()))

    @property
    def precisions(self) -> tuple[str, ...]:
        """Formats that may be computed in, the published one first."""
        return precisions_of(self.precision)

    def fits(self, cell: Cell) -> bool:
        """Whether records of a cell would be compared with the number."""
        optimizer = getattr(cell.measure, "optimizer", None)
        return (
            cell.protocol == self.protocol
            and (not self.arch or cell.network.arch == self.arch)
            and (not self.data or source_of(cell) in self.sources)
            and (not self.precision or cell.precision in self.precisions)
            and (not self.optimizer or (optimizer is not None and optimizer.name == self.optimizer))
            and self.batch_norm in (None, cell.network.batch_norm)
            and cell.data.batch_size == self.batch_size
            and cell.data.dither == 0
            and getattr(cell.measure, "num_epochs", _NO_EPOCH) >= self.num_epochs
            and self._has_jacobians(cell)
            and self.deterministic in (None, cell.execution.deterministic)
        )

    def _has_jacobians(self, cell: Cell) -> bool:
        have = [
            jacobian.beta
            for jacobian in cell.jacobians
            if jacobian.selection is Selection.BETA and self.forward in ("", jacobian.forward)
        ]
        return all(have.count(beta) >= self.betas.count(beta) for beta in self.betas)

    def distance(self, cell: Cell) -> tuple[int, int, bool]:
        """How far a cell that fits is from what was published: images, format, initial weights."""
        return (
            self.sources.index(source_of(cell)) if self.data else 0,
            self.precisions.index(str(cell.precision)) if self.precision else 0,
            bool(self.init) and cell.network.init != self.init,
        )


def source_of(cell: Cell) -> str:
    """The data set by its name or, of a folder of the user's, the folder.

    A part of the plan names what it reads this way.
    """
    return cell.data.folder or str(cell.data.name)


def wanted(row: Row) -> Wanted | None:
    """What a cell must have to answer a published number; None where no record is ever compared with it."""
    rule = rule_of(row["quantity"])
    if rule is None or not rule.protocol:
        return None
    asked = Wanted(
        protocol=rule.protocol,
        arch=arch_of(row),
        data=row["data"],
        precision=row["precision"],
        optimizer=row["optimizer"],
        batch_norm=row["batch_norm"],
    )
    match rule.protocol:
        case "zones":
            is_histogram = row["quantity"].startswith("share of gaps")
            return _of_histogram(row, asked) if is_histogram else _of_zones(row, asked)
        case "train":
            forward = re.search(r"forward=(\w+)", row["quantity"])
            return replace(
                asked, betas=(row["beta"],), forward=forward[1] if forward else str(Forward.BLENDED)
            )
        case "drift":
            epoch = re.search(r"after epoch (\d+)$", row["quantity"])
            # The first Jacobian is the reference: beta = 0 is compared where it is there again.
            betas, forward = (0.0, row["beta"]), str(Forward.BLENDED)
            return replace(asked, betas=betas, forward=forward, num_epochs=int(epoch[1])) if epoch else None
        case "lr_search":
            return replace(asked, betas=(row["beta"],))
        case _:
            return asked


def _of_zones(row: Row, asked: Wanted) -> Wanted:
    """Shares of mini-batches, whose networks had weights of their own distribution, and shares of ties."""
    size = re.search(r"batch(\d+)", row["id"])
    return replace(
        asked,
        betas=(0.0, 1.0),
        batch_size=int(size[1]) if size else BATCH_SIZE,
        init=str(Init.KAIMING_UNIFORM) if row["id"].startswith("zones.") else "",
        deterministic=True,
    )


def _of_histogram(row: Row, asked: Wanted) -> Wanted | None:
    """Shares of gaps; one whose generator was not published has no setting to compare."""
    lenet = replace(asked, arch=asked.arch or "lenet5", data=asked.data or "mnist")
    if "normpool" in row["id"]:
        return replace(lenet, protocol="norm_pool")
    if "threshold" not in row["id"]:
        return None
    on_gpu = "gpu" in row["id"]
    return replace(
        lenet,
        betas=(0.0, 1.0),
        init=str(Init.PYTORCH),
        deterministic=not on_gpu,
        device=str(Device.CUDA) if on_gpu else "",
    )


class Planned:
    """Parts of studies by what they would answer, each question looked up once.

    Args:
        studies: those of the paper; of parts that answer equally well, an earlier study's is named.
    """

    def __init__(self, studies: Sequence[Study]) -> None:
        self._parts = [(study.name, part) for study in studies for part in study.parts]
        self._found: dict[Wanted, tuple[str, str] | None] = {}

    def part_for(self, asked: Wanted) -> tuple[str, str] | None:
        """Study and part: of the paper before beyond it, the nearest setting, the most replicates."""
        if asked not in self._found:
            ranked = [
                ((not study.startswith("paper/"), distance, -part.num_replicates), (study, part.name))
                for study, part in self._parts
                for distance in _nearest(asked, part)
            ]
            self._found[asked] = min(ranked, key=lambda item: item[0])[1] if ranked else None
        return self._found[asked]


def _nearest(asked: Wanted, part: Part) -> Iterator[tuple[int, int, bool]]:
    """The distance of the part's nearest cell that fits; nothing without one."""
    distances = [asked.distance(cell) for cell in part.cells if isinstance(cell, Cell) and asked.fits(cell)]
    if distances:
        yield min(distances)
