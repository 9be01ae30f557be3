"""The tables of the paper: every study below `paper/` and `beyond/`, read as one.

Trials that several studies share are read once. What is planned and has no record is in table `plan`, study
by study and part by part with the command that runs it, so nothing that is missing goes unsaid.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tiebreak.design.cell import AnyCell, Cell
from tiebreak.design.study import Part, Study
from tiebreak.records.store import RecordStore
from tiebreak.records.table import MISSING
from tiebreak.report.claims import claim_table
from tiebreak.report.paired import with_holm
from tiebreak.report.panels import rule
from tiebreak.report.planned import source_of
from tiebreak.report.published import compared, read_published, with_published, with_published_rate
from tiebreak.report.table_files import arguments, keep_tables, pooling_flags, table_index
from tiebreak.report.tables import Frames, build_tables, read_frames, with_axes
from tiebreak.report.wording import data_words
from tiebreak.report.zones import gap_histogram

NAME = "paper"
"""What the verbs `tabulate`, `draw` and `report` call all of these studies together."""

PREFIXES = ("paper/", "beyond/")
"""How the names of the studies of the paper begin."""

CERTIFIED = "certified_vs_threshold"
"""The study whose certificates say what is true over the reals; two claims need it."""

KEPT = (
    "runs", "accuracy", "pairs", "forward_arm", "zones", "gaps", "ties", "drift", "noise", "lr_search",
    "certified", "confusion",
)  # fmt: skip
"""Tables of results that figures and verdicts of the paper are made from, if they have rows."""

FAMILY = ("arch", "data", "folder", "optimizer")
"""Paired differences of one network, data set and optimizer are one family of tests."""


def is_of_paper(study: str) -> bool:
    """Whether a study belongs to the paper."""
    return study.startswith(PREFIXES) or study == CERTIFIED


def studies_of(store: RecordStore, planned: Iterable[Study] = ()) -> tuple[Study, ...]:
    """The studies of the paper: as they were run and, where one was not, as it is planned.

    Args:
        store: where studies and records are.
        planned: studies as the configuration has them.
    """
    kept = {name: store.read_study(name) for name in store.studies() if is_of_paper(name)}
    every = {study.name: study for study in planned if is_of_paper(study.name)} | kept
    return tuple(
        every[name] for name in sorted(every, key=lambda name: (not name.startswith("paper/"), name))
    )


def paper_tables(
    store: RecordStore,
    studies: Sequence[Study],
    *,
    pool_devices: bool = False,
    pool_versions: bool = False,
) -> tuple[dict[str, pd.DataFrame], Frames]:
    """Every table of the paper that has rows, and the frames behind them.

    Records may differ in device between protocols, and between CPU and GPU, which are different cells; within
    these they must not, unless told.

    Args:
        store: where the records are.
        studies: as `studies_of` gives them.
        pool_devices: let records of different devices into one table.
        pool_versions: let records of different versions of torch into one table.

    Returns:
        `plan` (a row a study and part), `members` (which part holds which cell), `shares` (zones by
        initialisation, beta = 0 against 1), those of `KEPT`, and the frames of all cells with a record.

    Raises:
        PoolingError: records of different devices or versions, unless they may be pooled.
    """
    measured = {
        trial.id: store.path(trial).exists()
        for study in studies
        for part in study.parts
        for trial in part.trials
    }
    plan, members = _plan(studies, measured, store.root), _members(studies, measured)
    groups = _by_protocol_and_device(studies, set(members["cell"]))
    read = [
        read_frames(store, study, pool_devices=pool_devices, pool_versions=pool_versions) for study in groups
    ]
    frames = _joined(read)
    tables = {"plan": plan, "members": members}
    if len(frames.trials):
        built = build_tables(frames)
        tables |= {name: built[name] for name in KEPT if name in built}
        if "pairs" in tables:
            tables["pairs"] = _in_families(tables["pairs"])
        if "zone_inits" in built:
            tables["shares"] = _shares(built["zone_inits"])
        if len(gaps := _gaps_of_zones(frames)):
            tables["gaps_l1"] = with_axes(gap_histogram(gaps, statistic="gap_l1"), frames.cells)
        tables |= _of_single_protocols(frames)
        tables["members"] = _with_origin(members, frames)
    return {name: table for name, table in tables.items() if len(table)}, frames


def write_paper_tables(
    store: RecordStore,
    studies: Sequence[Study],
    folder: Path,
    *,
    published: Path | None = None,
    pool_devices: bool = False,
    pool_versions: bool = False,
) -> dict[str, pd.DataFrame]:
    """Make the tables of the paper and keep them, with provenance and checksums, in `folder`.

    Args:
        store: where the records are.
        studies: as `studies_of` gives them.
        folder: made if absent.
        published: the file of published numbers; without it there are no verdicts.
        pool_devices: as in `paper_tables`.
        pool_versions: as in `paper_tables`.

    Raises:
        PoolingError: as in `paper_tables`.
    """
    tables, frames = paper_tables(store, studies, pool_devices=pool_devices, pool_versions=pool_versions)
    if published is not None:
        tables["verdicts"] = compared(read_published(published), tables, studies)
    tables["claims"] = claim_table(tables)
    if published is not None:
        for name in ("accuracy", "zones"):
            if name in tables:
                tables[name] = with_published(tables[name], tables["verdicts"])
        if "lr_search" in tables:
            tables["lr_search"] = with_published_rate(tables["lr_search"], tables["verdicts"])
    flags = pooling_flags(devices=pool_devices, versions=pool_versions)
    command = f"tiebreak tabulate {arguments(NAME, store.root)}{flags}"
    # The plan is about what may be run; every other table rests on records.
    of_records = {name: table for name, table in tables.items() if "cell" in table or name == "claims"}
    index = table_index(of_records, frames, study=NAME, command=command)
    whole = {"study": NAME, "command": command}
    keep_tables(
        tables, {name: index.get(name, whole | {"rows": len(tables[name])}) for name in tables}, folder
    )
    return tables


def command_of(study: str, part: str, *, device: str, results: Path) -> str:
    """What to type to run a part of a study.

    Example:
        >>> command_of("paper/zones_by_depth", "vgg_cifar10", device="cuda", results=Path("results"))
        'tiebreak study paper/zones_by_depth --part vgg_cifar10 device=cuda'
    """
    words = arguments(study, results).split(" ", 1)
    rest = f" {words[1]}" if len(words) > 1 else ""
    return f"tiebreak study {words[0]} --part {shlex.quote(part)}{rest}" + (
        f" device={device}" if device != "cpu" else ""
    )


def _plan(studies: Sequence[Study], measured: Mapping[str, bool], root: Path) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "study": study.name,
                "part": part.name,
                "protocol": " ".join(sorted({cell.protocol for cell in part.cells})),
                "archs": " ".join(sorted({str(cell.network.arch) for cell in pools})),
                "datas": " ".join(sorted({source_of(cell) for cell in pools})),
                "optimizers": " ".join(sorted({_optimizer_of(cell) for cell in pools})),
                "num_cells": len(part.cells),
                "num_replicates": part.num_replicates,
                "num_epochs": _number_of(pools, "num_epochs"),
                "num_batches": _number_of(pools, "num_batches"),
                "num_trials": len(part.trials),
                "num_done": sum(measured[trial.id] for trial in part.trials),
                "first_cell": part.cells[0].name,
                "last_cell": part.cells[-1].name,
                "command": command_of(
                    study.name,
                    part.name,
                    device=str(part.cells[0].execution.device),
                    results=root,
                ),
            }
            for study in studies
            for part in study.parts
            for pools in [[cell for cell in part.cells if isinstance(cell, Cell)]]
        ]
    )


def _optimizer_of(cell: Cell) -> str:
    optimizer = getattr(cell.measure, "optimizer", None)
    return str(optimizer.name) if optimizer else ""


def _number_of(cells: Sequence[Cell], name: str) -> float:
    """A setting that all cells of a part share: epochs, mini-batches; NaN if they have none or several."""
    values = {float(getattr(cell.measure, name, math.nan)) for cell in cells}
    return values.pop() if len(values) == 1 else math.nan


def _members(studies: Sequence[Study], measured: Mapping[str, bool]) -> pd.DataFrame:
    """Cells with a record, by study and part."""
    rows = []
    for study in studies:
        for part in study.parts:
            have = {trial.cell.id for trial in part.trials if measured[trial.id]}
            rows += [
                {"study": study.name, "part": part.name, "cell": cell.id}
                for cell in part.cells
                if cell.id in have
            ]
    return pd.DataFrame(rows, columns=["study", "part", "cell"])


def _by_protocol_and_device(studies: Sequence[Study], have: set[str]) -> list[Study]:
    """The cells with a record, once each, as a study for each protocol and kind of device."""
    chosen: dict[tuple[str, str], dict[str, tuple[AnyCell, int]]] = {}
    for study in studies:
        for part in study.parts:
            for cell in part.cells:
                if cell.id not in have:
                    continue
                group = chosen.setdefault((cell.protocol, str(cell.execution.device)), {})
                known = group.get(cell.id, (cell, 0))[1]
                group[cell.id] = (cell, max(known, part.num_replicates))
    found = []
    for (protocol, device), group in sorted(chosen.items()):
        counts = sorted({count for _, count in group.values()})
        parts = tuple(
            Part(
                name=f"{count} replicates",
                cells=tuple(cell for cell, number in group.values() if number == count),
                num_replicates=count,
            )
            for count in counts
        )
        found.append(Study(name=f"{NAME} ({protocol}, {device})", question="", parts=parts))
    return found


def _joined(read: Sequence[Frames]) -> Frames:
    kinds = dict.fromkeys(kind for frames in read for kind in frames.rows)
    empty = pd.DataFrame(columns=["cell", "trial", "replicate", "outcome"])
    return Frames(
        cells=_stacked([frames.cells for frames in read]) if read else empty,
        trials=_stacked([frames.trials for frames in read]) if read else empty,
        rows={
            kind: _stacked([frames.rows[kind] for frames in read if kind in frames.rows]) for kind in kinds
        },
    )


def _stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    # A column that a frame lacks entirely would make pandas guess the type of the joined one.
    full = [frame.dropna(axis="columns", how="all") for frame in frames]
    whole = pd.concat(full, ignore_index=True, sort=False)
    missing = [name for frame in frames for name in frame if name not in whole]
    return whole.assign(**{str(name): None for name in missing})


def _in_families(pairs: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in FAMILY if name in pairs]
    return with_holm(pairs.drop(columns=["p_holm", "family_size"]), family=names)


def _with_origin(members: pd.DataFrame, frames: Frames) -> pd.DataFrame:
    """Where each cell was measured, and on what images."""
    first = frames.trials[frames.trials["outcome"] != MISSING].drop_duplicates("cell")
    origin = first.assign(source=data_words(first))[["cell", "source", "device_name", "torch"]]
    return members.merge(origin, on="cell", how="left")


def _gaps_of_zones(frames: Frames) -> pd.DataFrame:
    """Draws at initialisation; those along a training have a figure of their own."""
    gaps = frames.of("gap")
    zones = frames.cells.loc[frames.cells["protocol"] == "zones", "cell"]
    return gaps[gaps["cell"].isin(zones)]


def _of_single_protocols(frames: Frames) -> dict[str, pd.DataFrame]:
    """Tables of the protocols that one figure or one list of the paper is about.

    `zero`: every run of the zero programs; `norm_gaps`: gaps of the norm pool by decade; `images` and `map`:
    the first image of the first replicate, and its tied windows.
    """
    found = {}
    if len(zero := frames.of("zero")):
        found["zero"] = zero
    if len(gaps := frames.of("norm_gap")):
        named = "derivative " + gaps["gradient_at_zero"].map("{:g}".format) + " at 0"
        gaps = gaps.assign(jacobian=named, beta=gaps["gradient_at_zero"])
        for name, statistic in (("norm_gaps", "gap_sup_sum"), ("norm_gaps_l1", "gap_l1")):
            found[name] = gap_histogram(gaps, statistic=statistic).assign(reference="derivative 0 at 0")
    for name, kind in (("images", "image"), ("map", "tie_window")):
        if len(rows := frames.of(kind)):
            found[name] = rows[(rows["image"] == 0) & (rows["replicate"] == 0)].reset_index(drop=True)
    return {name: with_axes(table, frames.cells) for name, table in found.items()}


def _shares(inits: pd.DataFrame) -> pd.DataFrame:
    """Shares by initialisation with the minimal-norm Jacobian, the comparison that was published."""
    chosen = inits[rule(inits) == "minimal"]
    return chosen[
        ["cell", "jacobian", "replicate", "recipe", "num_draws", "share_zero", "share_above_threshold"]
    ].reset_index(drop=True)
