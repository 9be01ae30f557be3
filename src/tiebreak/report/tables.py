"""Derived tables: records in, one DataFrame per question out.

Every function of a table is pure; only `read_frames` reads a store. `table_files` keeps tables on disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from tiebreak.design.correctness import Place, Statement
from tiebreak.design.enumeration import Family, Function, TieRule
from tiebreak.design.machine_numbers import FormatName
from tiebreak.design.study import Study
from tiebreak.records.session import OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.records.table import MISSING, ReadOnce, rows_frame, trials_frame
from tiebreak.report.certified import certified_table, confusion_table, window_table
from tiebreak.report.counts import count_table
from tiebreak.report.derivatives import derivative_table
from tiebreak.report.descent_tables import DESCENT_ROWS, DESCENT_TABLES, with_claims
from tiebreak.report.order import COARSE_TO_FINE
from tiebreak.report.scoreboard import statement_table
from tiebreak.report.stats import bootstrap_mean
from tiebreak.report.touches import touch_table
from tiebreak.report.training import accuracy_table, forward_table, pair_table, run_table
from tiebreak.report.zones import gap_histogram, init_shares, zone_shares

ROW_KINDS = {
    "noise": ("noise",),
    "zones": ("gap", "pool", "certificate", "pool_truth", "bifurcation"),
    "trajectory": ("gap", "pool", "certificate", "pool_truth", "bifurcation"),
    "train": ("epoch", "nonfinite"),
    "drift": ("drift",),
    "lr_search": ("candidate", "best"),
    "zero_program": ("zero",),
    "tie_map": ("image", "tie_window"),
    "norm_pool": ("norm_gap",),
    "correctness": ("statement",),
    **DESCENT_ROWS,
    "touches": ("touch",),
    "derivative": ("derivative",),
    "enumeration": ("count", "map_line"),
}
"""Kinds of rows that tables are made from, by the protocol that leaves them."""

_AS_THEY_ARE = {
    "zero_programs": "zero",
    "images": "image",
    "tied_windows": "tie_window",
    "norm_gaps": "norm_gap",
    "count_maps": "map_line",
    **DESCENT_TABLES,
}
"""Tables that are the rows of one kind, by name."""

_LISTED = MappingProxyType(
    {
        "statement": Statement,
        "place": Place,
        "format": FormatName,
        "family": Family,
        "function": Function,
        "ties": TieRule,
    }
)
"""Axes whose values come in the order in which the design lists them."""

_ORDER = (
    "protocol", "data", "arch", "batch_norm", "optimizer", "precision", "forward", "selection", "beta",
    "jacobian", "recipe", "cell", "replicate", "epoch", "pool",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What tables are made from.

    Args:
        cells: the axes of each cell of the study, one row a cell.
        trials: one row per planned trial: `cell`, `replicate`, `outcome` ("missing" without a record),
            `step`, `reason` and provenance.
        rows: rows by kind, each with `cell` and `replicate`; a kind may be absent.
    """

    cells: pd.DataFrame
    trials: pd.DataFrame
    rows: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def of(self, kind: str) -> pd.DataFrame:
        """Rows of one kind; an empty frame with `cell` and `replicate` if there are none."""
        return self.rows.get(kind, pd.DataFrame(columns=["cell", "replicate"]))


def read_frames(
    store: RecordStore, study: Study, *, pool_devices: bool = False, pool_versions: bool = False
) -> Frames:
    """Everything the store holds about a study.

    Raises:
        PoolingError: records of different devices or versions of torch, unless they may be pooled.
    """
    pooled = {"pool_devices": pool_devices, "pool_versions": pool_versions}
    cells = {trial.cell.id: trial.cell for trial in study.trials}
    axes = {name for cell in cells.values() for name in cell.axes()}
    records = ReadOnce(store)
    trials = trials_frame(records, study, **pooled)
    rows = {
        kind: rows_frame(records, only, row=kind, axes=(), **pooled)
        for kind, protocols in _protocols_by_kind(cell.protocol for cell in cells.values()).items()
        for only in [_of_protocols(study, protocols)]
    }
    return Frames(
        # From the trials, where a whole number stays one beside cells that lack its axis.
        cells=trials[[name for name in trials if name in axes]].drop_duplicates("cell", ignore_index=True),
        trials=trials,
        rows={kind: frame for kind, frame in rows.items() if len(frame)},
    )


def _protocols_by_kind(protocols: Iterable[str]) -> dict[str, set[str]]:
    """Which of the protocols leave rows of each kind."""
    found: dict[str, set[str]] = {}
    for protocol in dict.fromkeys(protocols):
        for kind in ROW_KINDS[protocol]:
            found.setdefault(kind, set()).add(protocol)
    return found


def _of_protocols(study: Study, protocols: set[str]) -> Study:
    """The study's trials of some protocols, so that no record is read for rows it cannot have."""
    parts = [
        replace(part, cells=cells)
        for part in study.parts
        if (cells := tuple(cell for cell in part.cells if cell.protocol in protocols))
    ]
    return replace(study, parts=tuple(parts))


def outcome_table(frames: Frames) -> pd.DataFrame:
    """Outcomes per cell: `num_planned` and `num_` of completed, diverged, not_learned, failed and missing."""
    kinds = [*map(str, OutcomeKind), MISSING]
    counts = pd.crosstab(frames.trials["cell"], frames.trials["outcome"]).reindex(columns=kinds, fill_value=0)
    counts.columns = pd.Index([f"num_{kind}" for kind in kinds])
    counts.insert(0, "num_planned", counts.sum(axis=1))
    return counts.reset_index()


def tie_table(pools: pd.DataFrame) -> pd.DataFrame:
    """Ties per cell and pool.

    Args:
        pools: rows of kind `pool` with `cell` and `replicate`.

    Returns:
        `share_tied`, `share_at_zero`, `share_above_zero`, `share_below_zero`: of windows, mean of per-init
        shares, the two middle ones with a bootstrap over inits; `mean_multiplicity` of tied windows (NaN
        without any), `max_multiplicity`; `margin_median_ulps` (median over inits) and `margin_min_ulps`, of
        the first draw of each init.
    """
    records = []
    for (cell, pool), group in pools.groupby(["cell", "pool"], sort=False):
        sums = group.groupby("replicate")[
            ["windows", "tied", "tied_at_zero", "tied_above_zero", "tied_below_zero"]
        ].sum()
        tied, margins = group["tied"].to_numpy(dtype=float), group[["margin_median_ulps", "margin_min_ulps"]]
        weighted = (group["mean_multiplicity"].astype(float) * tied)[tied > 0].sum()
        record: dict[str, Any] = {
            "cell": cell,
            "pool": pool,
            "num_inits": len(sums),
            "num_draws": len(group),
            "num_windows": int(sums["windows"].sum()),
            "share_tied": float((sums["tied"] / sums["windows"]).mean()),
            "share_below_zero": float((sums["tied_below_zero"] / sums["windows"]).mean()),
        }
        for name in ("at_zero", "above_zero"):
            estimate = bootstrap_mean((sums[f"tied_{name}"] / sums["windows"]).to_numpy(dtype=float))
            record |= {
                f"share_{name}": estimate.mean,
                f"share_{name}_low": estimate.low,
                f"share_{name}_high": estimate.high,
            }
        record["mean_multiplicity"] = weighted / tied.sum() if tied.sum() else math.nan
        record["max_multiplicity"] = int(group["max_multiplicity"].max())
        record["margin_median_ulps"] = float(margins["margin_median_ulps"].astype(float).median())
        record["margin_min_ulps"] = float(margins["margin_min_ulps"].astype(float).min())
        records.append(record)
    return pd.DataFrame(records)


def noise_table(noise: pd.DataFrame) -> pd.DataFrame:
    """The non-determinism floor per cell: gaps between repeats of the same backward pass."""
    records = []
    for cell, group in noise.groupby("cell", sort=False):
        sup = group["gap_sup_sum"].astype(float)
        finite = sup[~group["nonfinite"].astype(bool)]
        records.append(
            {
                "cell": cell,
                "num_inits": group["replicate"].nunique(),
                "num_comparisons": len(group),
                "num_nonfinite": len(group) - len(finite),
                "share_zero": float((finite == 0).sum() / len(group)),
                "gap_median": float(finite.median()) if len(finite) else math.nan,
                "gap_max": float(finite.max()) if len(finite) else math.nan,
            }
        )
    return pd.DataFrame(records)


def drift_table(drift: pd.DataFrame) -> pd.DataFrame:
    """Weight distance to the reference run by epoch; non-finite distances are counted, not averaged."""
    records = []
    for key, group in drift.groupby(["cell", "jacobian", "copy", "epoch"], sort=False):
        cell, jacobian, copy, epoch = key
        bad = group["nonfinite"].astype(bool)
        record: dict[str, Any] = {"cell": cell, "jacobian": jacobian, "copy": copy, "epoch": epoch}
        record |= {"num_inits": len(group), "num_nonfinite": int(bad.sum())}
        for name in ("distance_l1", "distance_l2"):
            values = group.loc[~bad, name].astype(float)
            record |= {
                f"{name}_mean": values.mean(),
                f"{name}_min": values.min(),
                f"{name}_max": values.max(),
            }
        records.append(record)
    return pd.DataFrame(records)


def lr_search_table(candidates: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """The learning rate found per trial, with how many candidates were tried, pruned and non-finite."""
    table = best[["cell", "replicate", "lr", "validation_accuracy"]].rename(columns={"lr": "best_lr"})
    if not len(candidates):
        return table
    counts = candidates.groupby(["cell", "replicate"], as_index=False).agg(
        num_candidates=("candidate", "size"), num_pruned=("pruned", "sum"), num_nonfinite=("nonfinite", "sum")
    )
    return table.merge(counts, on=["cell", "replicate"], how="outer")


def build_tables(frames: Frames) -> dict[str, pd.DataFrame]:
    """Every table that has rows, by name, axes of the cell first, in a stable order.

    Besides the tables of results there are those that figures need: `zone_inits` (shares per init), `gaps`
    (counts by decade), `runs` (one row a training run) and `epochs`.
    """
    cells = frames.cells
    by_protocol = frames.trials["cell"].map(cells.set_index("cell")["protocol"])
    tables = {"trials": frames.trials, "outcomes": outcome_table(frames)}
    if len(every := frames.of("gap")):
        every = every.merge(cells[["cell", "precision", "protocol"]], on="cell")
        if len(gaps := every[every["protocol"] == "zones"].drop(columns="protocol")):
            tables |= {"zones": zone_shares(gaps), "gaps": gap_histogram(gaps)}
            tables["zone_inits"] = init_shares(gaps).drop(columns="precision")
        if len(certificates := frames.of("certificate")):
            tables["certified"] = certified_table(certificates, every)
            tables["confusion"] = confusion_table(certificates, every)
    if len(pools := frames.of("pool")):
        pools = pools.merge(cells[["cell", "protocol"]], on="cell")
        if len(pools := pools[pools["protocol"] == "zones"].drop(columns="protocol")):
            tables["ties"] = tie_table(pools)
    for name, kind in _AS_THEY_ARE.items():
        if len(rows := frames.of(kind)):
            tables[name] = rows
    if len(apart := frames.of("bifurcation")):
        tables["bifurcations"] = apart
    if len(truths := frames.of("pool_truth")):
        tables["windows"] = window_table(truths)
    if len(training := frames.trials[by_protocol == "train"]):
        runs = run_table(training, frames.of("epoch"), frames.of("nonfinite"))
        of_training = cells[cells["protocol"] == "train"]
        tables |= {"runs": runs, "accuracy": accuracy_table(runs)}
        tables |= {"pairs": pair_table(runs, of_training), "forward_arm": forward_table(runs, of_training)}
        tables["epochs"] = frames.of("epoch")
    if len(noise := frames.of("noise")):
        tables["noise"] = noise_table(noise)
    if len(drift := frames.of("drift")):
        tables["drift"] = drift_table(drift)
    if len(statements := frames.of("statement")):
        tables |= {"statements": statement_table(statements), "statement_networks": statements}
    if len(derivatives := frames.of("derivative")):
        tables["derivatives"] = derivative_table(derivatives)
    if len(counts := frames.of("count")):
        tables["counts"] = count_table(counts)
    if len(touches := frames.of("touch")):
        tables["touches"] = touch_table(touches)
    if len(best := frames.of("best")):
        tables["lr_search"] = lr_search_table(frames.of("candidate"), best)
    return with_claims(
        {
            name: in_order(with_axes(table, cells), axes=list(cells.columns))
            for name, table in tables.items()
            if len(table)
        }
    )


def with_axes(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The table with the axes of its cells in front; what the table itself says of an axis stands."""
    if "jacobian" in table and "trial" not in table:
        # A row about one Jacobian of several: the cell's list becomes the reference it is compared with.
        cells = cells.assign(reference=cells["jacobian"].str.split().str[0])
    axes = cells[[name for name in cells.columns if name == "cell" or name not in table.columns]]
    axes = axes[axes["cell"].isin(table["cell"])].dropna(axis="columns", how="all")
    joined = table.merge(axes, on="cell", how="left", validate="many_to_one")
    names = [*axes.columns, *(name for name in table.columns if name != "cell")]
    return joined[names]


def in_order(table: pd.DataFrame, *, axes: Iterable[str] = ()) -> pd.DataFrame:
    """Rows sorted by axes, precisions from the coarsest to the finest, the same on every machine.

    Args:
        table: what to sort.
        axes: columns that are axes of the design; those of no fixed place come before the precision.
    """
    others = [name for name in axes if name not in _ORDER]
    at = _ORDER.index("precision")
    names = [name for name in (*_ORDER[:at], *others, *_ORDER[at:]) if name in table.columns]
    ranks = {
        "precision": {name: rank for rank, name in enumerate(COARSE_TO_FINE)},
        **{key: {str(name): rank for rank, name in enumerate(kind)} for key, kind in _LISTED.items()},
    }

    def rank(column: pd.Series) -> pd.Series:
        return column.map(ranks[str(column.name)]) if column.name in ranks else column

    return table.sort_values(names, key=rank, kind="stable", na_position="last").reset_index(drop=True)
