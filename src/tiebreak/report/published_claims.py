"""What the published numbers say of the instrument that made them, and ours beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from tiebreak.report.findings import Finding, Standing, Tables, in_points, within_margin
from tiebreak.report.paired import LEVEL, holm, paired_p
from tiebreak.report.panels import precisions
from tiebreak.report.reference import MAJORITY
from tiebreak.report.stats import Estimate, fisher_more_often, paired_difference
from tiebreak.report.training_claims import LOST, lost_of, shared_replicates
from tiebreak.report.verdicts import LEAST_RUNS
from tiebreak.report.wording import count, networks_words, percent

TOP_DECADE = -1
"""Gaps from 10 to this power on were left out of the published histograms, and of their denominator.

Source:
    No published histogram has a decade above [0.01, 0.1), and the published code loses a gap of 0.5.
"""

_HALF_A_DIGIT = 5e-5
_CONFIGURATION = ["arch", "data", "precision", "optimizer", "batch_norm"]


def _published(tables: Tables, quantity: str) -> pd.DataFrame:
    published = tables.get("published")
    return pd.DataFrame() if published is None else published[published["quantity"] == quantity]


def _idle(rows: pd.DataFrame) -> pd.Series:
    """Whether an accuracy is no better than always naming the commonest class."""
    return rows["value"] <= rows["data"].map(MAJORITY) + _HALF_A_DIGIT


def searches(tables: Tables) -> Iterator[Finding]:
    """Published searches whose winner learned nothing; how far apart the rates of a configuration are."""
    winners = _published(tables, "test accuracy of the best candidate")
    if not len(winners):
        return
    idle, used = _idle(winners), winners["beta"] == 0
    num_idle = int((idle & used).sum())
    yield Finding(
        where="published searches at beta = 0, whose rates were used for every beta",
        standing=Standing.SUPPORTED if num_idle else Standing.UNDECIDED,
        numbers=f"the winner of {num_idle} of {int(used.sum())} is no better than the commonest class; of "
        f"the searches at every beta {int(idle.sum())} of {len(winners)}",
    )
    rates = _published(tables, "best learning rate of the search")
    native = rates[rates["beta"] == 0].set_index(_CONFIGURATION)["value"]
    others = rates[rates["beta"] > 0].join(native.rename("used"), on=_CONFIGURATION)
    logs = np.log10((others["value"] / others["used"]).dropna().to_numpy(dtype=float))
    factors = 10 ** np.abs(logs)
    yield Finding(
        where="published rates at beta > 0 beside the rate that was used",
        standing=Standing.UNDECIDED,
        numbers=f"apart by a factor of {np.median(factors):.1f} (median of {len(factors)}), at most "
        f"{factors.max():.0f}; what that changes is not in the published numbers",
    )
    yield from _own_rates(tables)


def _own_rates(tables: Tables) -> Iterator[Finding]:
    """Accuracy with a rate found for the beta itself minus that with the rate of beta = 0, by replicate."""
    runs, members = tables.get("runs"), tables.get("members")
    if runs is None or members is None:
        return
    sides = [
        runs[runs["cell"].isin(members.loc[members["part"] == part, "cell"])]
        for part in ("rate_of_its_own", "rate_of_beta_0")
    ]
    found: list[tuple[str, Estimate | None, tuple[int, int], tuple[int, int]]] = []
    for name in precisions(pd.concat(sides)):
        for beta in sorted(set(sides[0]["beta"]) - {0.0}):
            own, used = (side[(side["precision"] == name) & (side["beta"] == beta)] for side in sides)
            own, used = shared_replicates(own, used)
            if not len(own):
                continue
            both = pd.concat(
                [
                    side[~side["outcome"].isin(LOST)].set_index("replicate")["final_test_accuracy"]
                    for side in (own, used)
                ],
                axis=1,
                keys=[0, 1],
            ).dropna()
            difference = (
                paired_difference(100 * both[0].to_numpy(), 100 * both[1].to_numpy()) if len(both) else None
            )
            found.append((f"{name}, beta = {beta:g}", difference, lost_of(own), lost_of(used)))
    tests = [
        p
        for _, difference, own, used in found
        for p in (paired_p(difference) if difference else math.nan, fisher_more_often(*used, *own))
    ]
    adjusted = holm(tests) if tests else []
    alike = holm([within_margin(item[1])[0] if item[1] else math.nan for item in found])
    for place, (where, difference, own, used) in enumerate(found):
        by_mean, by_loss = adjusted[2 * place : 2 * place + 2]
        helps = by_loss < LEVEL or (by_mean < LEVEL and difference is not None and difference.mean > 0)
        same = alike[place] < LEVEL and own[0] == used[0]
        standing = Standing.UNDECIDED
        if own[1] >= LEAST_RUNS and (helps or same):
            standing = Standing.SUPPORTED if helps else Standing.CONTRADICTED
        words = f"accuracy {in_points(difference)}; " if difference else ""
        yield Finding(
            where=f"ours, {where}: its own rate against that of beta = 0",
            standing=standing,
            numbers=f"{words}runs lost {own[0]} of {own[1]} and {used[0]} of {used[1]}",
        )


def hidden_failures(tables: Tables) -> Iterator[Finding]:
    """Published runs that no published figure of accuracy shows."""
    means = _published(tables, "final test accuracy, mean over runs")
    lost = _published(tables, "runs that ended in NaN")
    if not len(means):
        return
    num_lost, num_runs = int(lost["value"].sum()), int(means["n"].sum())
    keys = [*_CONFIGURATION, "beta"]
    has_lost = set(lost[lost["value"] > 0][keys].astype(str).agg("|".join, axis=1))
    names = means[keys].astype(str).agg("|".join, axis=1)
    idle = means[_idle(means) & ~names.isin(has_lost)]
    yield Finding(
        where="published runs",
        standing=Standing.SUPPORTED if num_lost or len(idle) else Standing.CONTRADICTED,
        numbers=f"{num_lost} of {num_runs} ended in NaN, in {len(has_lost)} of {len(means)} cells; "
        f"{count(int(idle['n'].sum()), 'further run')} in {count(len(idle), 'cell')} never left the "
        "commonest class",
    )
    runs = tables.get("runs")
    if runs is not None and len(runs := runs[runs["outcome"] != "missing"]):
        gone, total = lost_of(runs)
        yield Finding(
            where="our runs",
            standing=Standing.HELD,
            numbers=f"{gone} of {total} diverged or never left chance; each is counted or drawn "
            "(tests/report/test_figures.py)",
        )


def beyond_the_bins(tables: Tables) -> Iterator[Finding]:
    """How many of our draws the published bins leave out, by format: gaps as sums of l1 norms."""
    gaps = tables.get("gaps_l1")
    if gaps is None:
        return
    gaps = gaps[gaps["beta"] == 1]
    for name in precisions(gaps):
        part = gaps[gaps["precision"] == name]
        total = int(part["num_draws"].sum())
        beyond = int(part.loc[part["decade"] >= TOP_DECADE, "num_draws"].sum())
        beyond += int(part.loc[part["bin"] == "nonfinite", "num_draws"].sum())
        yield Finding(
            where=name,
            standing=Standing.SUPPORTED if beyond else Standing.UNDECIDED,
            numbers=f"{beyond} of {total} draws ({percent(beyond / total)}) have a gap of "
            f"{10.0**TOP_DECADE:g} or more, or none that is finite: the published bins drop them; ours sum "
            f"to all draws ({networks_words(part)})",
        )
