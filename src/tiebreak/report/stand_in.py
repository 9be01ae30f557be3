"""Whether fp16 rounded after each operation ends as a device's own fp16 does: the control of the stand-in."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from scipy.special import bdtr

from tiebreak.report.findings import Finding, Standing, Tables, within_margin
from tiebreak.report.paired import LEVEL, holm
from tiebreak.report.stats import Estimate, mean_interval
from tiebreak.report.training_claims import LOST, RAN
from tiebreak.report.verdicts import LEAST_RUNS
from tiebreak.report.wording import count, data_words

_GROUP = ["arch", "source", "device", "forward"]
_PAIR = [*_GROUP, "batch_size", "batch_norm", "beta", "optimizer", "lr", "eps", "num_epochs", "replicate"]
"""What the two runs of a pair share; they start from the same weights and see the same batches."""


def alike(tables: Tables) -> Iterator[Finding]:
    """Runs lost and accuracies in fp16 and fp16_rounded, in pairs, by network, data, device and forward."""
    runs = tables.get("runs")
    if runs is None:
        return
    runs = runs.assign(source=data_words(runs))
    runs = runs[(runs["selection"] == "beta") & runs["outcome"].isin(RAN)]
    kept = runs[[*_PAIR, "precision", "outcome", "final_test_accuracy"]]
    own, rounded = (kept[kept["precision"] == name] for name in ("fp16", "fp16_rounded"))
    pairs = own.merge(rounded, on=_PAIR, suffixes=("_own", "_rounded"))
    found = [(key, part, _difference(part)) for key, part in pairs.groupby(_GROUP, sort=False)]
    if not found:
        return
    tests = [within_margin(difference) for *_, difference in found]
    same = holm([p_same for p_same, _ in tests])
    apart = holm([p_apart for _, p_apart in tests] + [_p_of_losses(part) for _, part, _ in found])
    for place, ((arch, source, device, forward), part, _) in enumerate(found):
        own, rounded = _lost_by_one(part)
        standing = Standing.UNDECIDED
        if apart[place] < LEVEL or apart[len(found) + place] < LEVEL:
            standing = Standing.CONTRADICTED
        elif not own.any() and not rounded.any() and same[place] < LEVEL:
            standing = Standing.SUPPORTED
        lost = int(part["outcome_own"].isin(LOST).sum())
        yield Finding(
            where=f"{arch}, {source}, {device}, {forward} forward",
            standing=standing,
            numbers=f"{len(part)} pairs of {count(part['replicate'].nunique(), 'start')}, {lost} lost in "
            f"fp16; lost there only {own.sum()}, rounded only {rounded.sum()}; {_differences_words(part)}",
        )


def _lost_by_one(part: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Pairs of which only fp16's run was lost, and only the rounded one's."""
    own, rounded = (part[f"outcome_{side}"].isin(LOST) for side in ("own", "rounded"))
    return own & ~rounded, rounded & ~own


def _p_of_losses(part: pd.DataFrame) -> float:
    """Exact sign test of the starts from which one side loses more runs, two-sided; NaN below three starts.

    Pairs of one start are not independent, so each start counts once.
    """
    own, rounded = (side.groupby(part["replicate"]).sum() for side in _lost_by_one(part))
    few, many = sorted([int((own > rounded).sum()), int((rounded > own).sum())])
    return min(1.0, 2.0 * float(bdtr(few, few + many, 0.5))) if len(own) >= LEAST_RUNS else math.nan


def _differences_by_pair(part: pd.DataFrame) -> pd.Series:
    """fp16 minus rounded, in percentage points, of the pairs of which neither run was lost."""
    kept = part[~part["outcome_own"].isin(LOST) & ~part["outcome_rounded"].isin(LOST)]
    points = 100 * (kept["final_test_accuracy_own"] - kept["final_test_accuracy_rounded"])
    return points.groupby(kept["replicate"]).agg(list).explode().astype(float)


def _difference(part: pd.DataFrame) -> Estimate:
    """Mean difference over starts, each the mean of its pairs."""
    return mean_interval(_differences_by_pair(part).groupby(level=0).mean().to_numpy())


def _differences_words(part: pd.DataFrame) -> str:
    points = _differences_by_pair(part)
    if not len(points):
        return "no pair of which both reached the end"
    spread = f"from {points.min():+.2f} to {points.max():+.2f} points"
    return f"accuracy of the other {len(points)}, fp16 minus rounded: mean {points.mean():+.2f}, {spread}"
