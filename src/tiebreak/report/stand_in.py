"""Whether fp16 rounded after each operation ends as a device's own fp16 does: the control of the stand-in."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from scipy.special import bdtr

from tiebreak.report.findings import Finding, Standing, Tables, in_points, within_margin
from tiebreak.report.paired import LEVEL, holm
from tiebreak.report.stats import Estimate, paired_difference
from tiebreak.report.training_claims import LOST, REACHED
from tiebreak.report.verdicts import LEAST_RUNS
from tiebreak.report.wording import data_words

_GROUP = ["arch", "source", "device", "forward"]
_PAIR = [*_GROUP, "batch_size", "batch_norm", "beta", "optimizer", "lr", "eps", "num_epochs", "replicate"]
"""What the two runs of a pair share; they start from the same weights and see the same batches."""


def alike(tables: Tables) -> Iterator[Finding]:
    """Runs lost and accuracies in fp16 and fp16_rounded, in pairs, by network, data, device and forward."""
    runs = tables.get("runs")
    if runs is None:
        return
    runs = runs.assign(source=data_words(runs))
    runs = runs[(runs["selection"] == "beta") & runs["outcome"].isin([*REACHED, *LOST])]
    kept = runs[[*_PAIR, "precision", "outcome", "final_test_accuracy"]]
    own, rounded = (kept[kept["precision"] == name] for name in ("fp16", "fp16_rounded"))
    pairs = own.merge(rounded, on=_PAIR, suffixes=("_own", "_rounded"))
    found = [(key, part, _difference(part)) for key, part in pairs.groupby(_GROUP, sort=False)]
    if not found:
        return
    tests = [within_margin(difference) for *_, difference in found]
    same = holm([p_same for p_same, _ in tests])
    apart = holm([p_apart for _, p_apart in tests] + [_p_of_losses(part) for _, part, _ in found])
    for place, ((arch, source, device, forward), part, difference) in enumerate(found):
        only = _lost_by_one(part)
        standing = Standing.UNDECIDED
        if apart[place] < LEVEL or apart[len(found) + place] < LEVEL:
            standing = Standing.CONTRADICTED
        elif only == (0, 0) and len(part) >= LEAST_RUNS and same[place] < LEVEL:
            standing = Standing.SUPPORTED
        lost = int(part["outcome_own"].isin(LOST).sum())
        yield Finding(
            where=f"{arch}, {source}, {device}, {forward} forward",
            standing=standing,
            numbers=f"of {len(part)} pairs, {lost} lost in fp16; lost there only {only[0]}, rounded only "
            f"{only[1]}; accuracy of the others, fp16 minus rounded: {in_points(difference)}",
        )


def _lost_by_one(part: pd.DataFrame) -> tuple[int, int]:
    """Pairs of which only fp16's run was lost, and only the rounded one's."""
    own, rounded = (part[f"outcome_{side}"].isin(LOST) for side in ("own", "rounded"))
    return int((own & ~rounded).sum()), int((rounded & ~own).sum())


def _p_of_losses(part: pd.DataFrame) -> float:
    """Exact sign test of the pairs of which one run was lost, two-sided; 1 without any (McNemar, 1947)."""
    few, many = sorted(_lost_by_one(part))
    return min(1.0, 2.0 * float(bdtr(few, few + many, 0.5)))


def _difference(part: pd.DataFrame) -> Estimate:
    """fp16 minus rounded, in percentage points, over the pairs of which neither run was lost."""
    kept = part[~part["outcome_own"].isin(LOST) & ~part["outcome_rounded"].isin(LOST)]
    columns = (100 * kept[f"final_test_accuracy_{side}"].to_numpy() for side in ("own", "rounded"))
    return paired_difference(*columns)
