"""The numbers behind each claim about training with kinks, from the tables of a study.

Each function takes the tables and gives the checks of one claim, or None where a cell that the claim is about
has no rows here: a claim is judged whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tiebreak.report.checks import Check

Tables = Mapping[str, pd.DataFrame]

STEP_GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Learning rates over which the ReLU's floor is followed."""

FAR = 2.0
"""Penalties from this multiple of lambda_max on count as far above it."""


def _where(tables: Tables, name: str, **wanted: object) -> pd.DataFrame:
    """The rows of a table whose columns have these values; of several allowed ones, a tuple."""
    table = tables.get(name)
    if table is None or not set(wanted) <= set(table.columns):
        return pd.DataFrame()
    keep = pd.Series(True, index=table.index)
    for column, value in wanted.items():
        values = list(value) if isinstance(value, tuple) else [value]
        keep &= table[column].isin(values)
    return table[keep]


def _has(table: pd.DataFrame, column: str, values: Sequence[object]) -> bool:
    return len(table) > 0 and set(values) <= set(table[column])


def _wide(table: pd.DataFrame, *, by: str) -> pd.DataFrame:
    """Problems down, values of `by` across."""
    return table.drop_duplicates(["replicate", "problem", by])


def convex_floors(tables: Tables) -> tuple[Check, ...] | None:
    """C1: the exponent of the ReLU's floor in the step, and the floors of its C1 twins below their edge."""
    kink = _where(tables, "floors", activation="relu", lr_unit="one", steps=20_000, asked=STEP_GRID)
    edge = _where(tables, "floors", activation="c1relu", lr_unit="edge", steps=20_000)
    deltas = (0.01, 0.1, 1.0)
    if not _has(kink, "asked", STEP_GRID) or not _has(edge, "delta", deltas):
        return None
    level = np.log(kink.groupby("asked")["floor"].median().to_numpy(dtype=float))
    exponent = float(np.polyfit(np.log(STEP_GRID), level, 1)[0]) if np.isfinite(level).all() else math.nan
    worst = {delta: edge.loc[(edge["delta"] == delta) & (edge["asked"] < 1), "floor"] for delta in deltas}
    return (
        Check(
            name="share of problems with 0 as only minimiser (certified)",
            value=float(kink["only_zero_is_flat"].astype(float).mean()),
            low=1.0,
            high=1.0,
        ),
        Check(name="exponent of the ReLU's floor in the step", value=exponent, low=0.9, high=1.2),
        *(
            Check(
                name=f"largest floor of c1relu_{delta:g} below 2/L",
                value=float(floors.astype(float).max(skipna=False)),
                high=1e-12,
            )
            for delta, floors in worst.items()
        ),
    )


def best_losses(fits: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The final loss of each network at its best learning rate: the least median over seeds.

    A run that diverged counts as an infinite loss.

    Args:
        fits: table `fits`.
        by: columns that tell networks apart.
    """
    known = fits.assign(train_loss=fits["train_loss"].astype(float).fillna(math.inf))
    medians = known.groupby([*by, "lr"], sort=False)["train_loss"].median().reset_index()
    return medians.loc[medians.groupby(list(by), sort=False)["train_loss"].idxmin()].reset_index(drop=True)


def network_losses(tables: Tables) -> tuple[Check, ...] | None:
    """C2: the final loss of C1 networks over that of ReLU networks, each at its best learning rate."""
    fits = _where(
        tables, "fits", data="mnist5k", activation=("relu", "c1relu"), width=32, num_examples=500, steps=150
    )
    depths, deltas, gains = (2, 4, 8), (0.1, 1.0), ("he", "matched")
    if not len(fits):
        return None
    best = best_losses(fits, ["activation", "delta", "gain", "depth"])
    losses = {
        (row["activation"], row["delta"], row["gain"], row["depth"]): row["train_loss"]
        for row in best.to_dict("records")
    }
    checks = []
    for depth in depths:
        for gain in gains:
            for delta in deltas:
                # both gains are the same for the ReLU
                relu, rounded = (
                    losses.get(("relu", 0.0, "he", depth)),
                    losses.get(("c1relu", delta, gain, depth)),
                )
                if relu is None or rounded is None:
                    return None
                name = f"loss of c1relu_{delta:g} over relu, depth {depth}, {gain}"
                checks.append(Check(name=name, value=rounded / relu, high=math.nextafter(1.0, 0.0)))
    return tuple(checks)


def _lasso(tables: Tables, **wanted: object) -> pd.DataFrame:
    return _where(
        tables, "lasso", precision="fp64", decay="none", derivative_at_zero=0.0, steps=10_000, **wanted
    )


def exact_zeros(tables: Tables) -> tuple[Check, ...] | None:
    """C3: coefficients that are exactly 0, against a certified solution."""
    runs = _lasso(tables, columns="iid", penalty_unit="largest", lr=(0.1, 0.01), num_problems=5)
    methods = ("gd", "momentum", "rmsprop", "adam", "proximal")
    if not _has(runs, "method", methods):
        return None
    checks = [
        Check(
            name="largest violation of optimality of the solution, over the largest penalty",
            value=float(runs["violation_exact"].max() / runs["penalty"].max()),
            high=1e-12,
        )
    ]
    for method in methods:
        here = runs[runs["method"] == method]
        if method == "proximal":
            missed = float((here["zeros"] - here["zeros_exact"]).abs().max())
            checks.append(Check(name="zeros that proximal descent misses", value=missed, low=0.0, high=0.0))
        else:
            most = float(here["zeros"].max())
            checks.append(Check(name=f"exact zeros of {method}", value=most, low=0.0, high=0.0))
    return tuple(checks)


def orthonormal_norms(tables: Tables) -> tuple[Check, ...] | None:
    """C4: T-L1 and T-L2 on an orthonormal design."""
    runs = _lasso(tables, columns="orthonormal", method="gd")
    checks = []
    for lr in (0.1, 0.01):
        here = _where({"runs": runs}, "runs", lr=lr) if len(runs) else runs
        far = here[here["penalty_unit"] == "largest"] if len(here) else here
        crossing = here[here["penalty_unit"] == "crossing"] if len(here) else here
        if not len(far) or not len(crossing):
            return None
        scaled = far["norm"] / (far["num_features"] * lr * far["penalty"])
        off = float((scaled - 1 / (2 - lr)).abs().max(skipna=False))
        covered = far.dropna(subset=["norm_closed_form"])
        worst = float((covered["norm"] / covered["norm_closed_form"] - 1).abs().max(skipna=False))
        over = crossing["norm"] / crossing["norm_unpenalised"]
        predicted = crossing["norm_unpenalised"] * (2 - lr) / (crossing["num_features"] * lr)
        at = crossing["penalty"] / predicted
        checks += [
            Check(name=f"|norm/(P a lambda) - 1/(2 - a)|, a = {lr:g}", value=off, high=1e-3),
            Check(
                name=f"relative error of T-L1 where all coordinates cycle, a = {lr:g}", value=worst, high=1e-9
            ),
            Check(
                name=f"norm over that of no penalty at 0.8 of T-L2, a = {lr:g}",
                value=float(over[at < 1].max()),
                high=1.0,
            ),
            Check(
                name=f"norm over that of no penalty at 1.25 of T-L2, a = {lr:g}",
                value=float(over[at > 1].min()),
                low=1.0,
            ),
        ]
    return tuple(checks)


def norm_against_penalty(tables: Tables) -> tuple[Check, ...] | None:
    """C5: where the L1 norm grows with the penalty and where it falls."""
    runs = _lasso(tables, columns="iid", penalty_unit="largest", method="gd", lr=(0.1, 0.01), num_problems=5)
    if not len(runs) or runs["relative"].min() >= 0.5 or runs["relative"].max() <= FAR:
        return None
    below, above, slopes = [], [], []
    for _, path in runs.sort_values("relative").groupby(["replicate", "problem", "lr"]):
        relative, norm = path["relative"].to_numpy(dtype=float), path["norm"].to_numpy(dtype=float)
        grows = norm[1:] > norm[:-1]
        below += list(grows[relative[1:] < 0.5])
        above += list(grows[relative[:-1] > 1.2])
        far = relative >= FAR
        slopes.append(float(np.polyfit(np.log(relative[far]), np.log(norm[far]), 1)[0]))
    share = "share of steps of the grid {} lambda_max that raise the norm"
    return (
        Check(name=share.format("below 0.5"), value=float(np.mean(below)), low=1.0),
        Check(name=share.format("above 1.2"), value=float(np.mean(above)), low=1.0),
        Check(name="least log-log slope above 2 lambda_max", value=min(slopes), low=0.98),
        Check(name="largest log-log slope above 2 lambda_max", value=max(slopes), high=1.02),
    )


def rmsprop_plateaus(tables: Tables) -> tuple[Check, ...] | None:
    """C6: RMSprop's L1 norm over P a/2."""
    checks = []
    for lr in (0.01, 0.003):
        runs = _lasso(tables, columns="iid", penalty_unit="largest", method="rmsprop", lr=lr, num_problems=3)
        if not len(runs):
            return None
        ratio = runs["norm"] / (runs["num_features"] * lr / 2)
        checks += [
            Check(name=f"least norm over P a/2, a = {lr:g}", value=float(ratio.min(skipna=False)), low=0.99),
            Check(
                name=f"largest norm over P a/2, a = {lr:g}", value=float(ratio.max(skipna=False)), high=1.01
            ),
        ]
    return tuple(checks)


def _limits(tables: Tables, **wanted: object) -> pd.DataFrame:
    return _where(tables, "limits", precision="fp64", derivative_at_zero=0.0, num_starts=500, **wanted)


def bounded_gaps(tables: Tables) -> tuple[Check, ...] | None:
    """C7: T1 for losses that are Lipschitz, T2 for the one that is sharp, divergence of the quadratic."""
    steps = (0.01, 0.1, 0.5, 1.0, 2.5, 8.0)
    checks = []
    for loss in ("abs", "huber", "logcosh", "sqrt1", "kinked_bowl"):
        limits = _limits(tables, loss=loss, steps=5000, lr=steps)
        if not _has(limits, "lr", steps):
            return None
        worst = float(limits["best_over_bound_max"].max(skipna=False))
        checks.append(Check(name=f"largest best gap over its bound, {loss}", value=worst, high=1.0))
        if loss == "abs":
            least = float(limits["worst_over_floor_min"].min(skipna=False))
            checks.append(Check(name=f"least limsup of the gap over a/2, {loss}", value=least, low=1 - 1e-9))
    edge = _limits(tables, loss="quadratic", steps=5000, lr=(1.99, 2.01)).set_index("lr")
    if set(edge.index) != {1.99, 2.01}:
        return None
    largest, least = float(edge["growth_max"][1.99]), float(edge["growth_min"][2.01])
    return (
        *checks,
        Check(name="largest growth of the quadratic at a = 1.99", value=largest, high=1e-6),
        Check(name="least growth of the quadratic at a = 2.01", value=least, low=1e6),
    )


def cycles(tables: Tables) -> tuple[Check, ...] | None:
    """C8: T3 for losses that are C2 and T4 for Huber's."""
    steps = (2.01, 2.1, 3.0)
    checks = []
    for loss in ("logcosh", "sqrt1"):
        limits = _limits(tables, loss=loss, steps=20_000, lr=steps)
        if not _has(limits, "lr", steps):
            return None
        off = pd.concat(
            [(limits[f"amplitude_{end}"] / limits["cycle_low"] - 1).abs() for end in ("min", "max")]
        )
        checks += [
            Check(
                name=f"|secant a/2 - 1|, {loss}",
                value=float(limits["secant_off_max"].max(skipna=False)),
                high=1e-3,
            ),
            Check(
                name=f"relative error of T3's amplitude, {loss}",
                value=float(off.max(skipna=False)),
                high=1e-3,
            ),
        ]
    huber = _limits(tables, loss="huber", steps=20_000, lr=steps)
    if not _has(huber, "lr", steps):
        return None
    for row in huber.sort_values("lr").to_dict("records"):
        low, high = row["cycle_low"], row["cycle_high"]
        over = max(low - row["amplitude_min"], row["amplitude_max"] - high)
        spread = (row["amplitude_max"] - row["amplitude_min"]) / (high - low)
        checks += [
            Check(
                name=f"how far Huber's amplitudes leave [a/2, a - 1], a = {row['lr']:g}",
                value=over,
                high=1e-9,
            ),
            Check(name=f"share of that interval they span, a = {row['lr']:g}", value=spread, low=0.9),
        ]
    sharp = float(huber["curvature_max"].max(skipna=False))
    return (
        *checks,
        Check(name="largest sharpness of Huber's loss, times a/2", value=sharp, low=0.0, high=0.0),
    )


def kinked_bowl(tables: Tables) -> tuple[Check, ...] | None:
    """C9: a convex Lipschitz function with kinks away from its minimiser."""
    steps = (0.1, 0.5, 0.9)
    limits = _limits(tables, loss="kinked_bowl", steps=1000, lr=steps)
    if not _has(limits, "lr", steps):
        return None
    return tuple(
        Check(
            name=f"share of starts that {what}, a = {row['lr']:g}",
            value=float(row[column]),
            low=1.0,
        )
        for what, column in (
            ("do not settle", "share_unsettled"),
            ("are ever moved outwards", "share_rising"),
        )
        for row in limits.sort_values("lr").to_dict("records")
    )


def late_sharpness(tables: Tables) -> tuple[Check, ...] | None:
    """C10: sharpness of ReLU networks over 2/lr, late in training."""
    looks = _where(
        tables, "sharpness", data="mnist5k", activation="relu", precision="fp32", lr=0.8, steps=3000, depth=3
    )
    if not len(looks):
        return None
    late = looks[looks["step"] >= 2600].groupby(["replicate", "seed"], sort=True)["edges"]
    return tuple(
        Check(
            name=f"late sharpness over 2/lr, seed {number}",
            value=float(edges.mean(skipna=False)),
            low=0.97,
            high=1.03,
        )
        for number, (_, edges) in enumerate(late)
    )
