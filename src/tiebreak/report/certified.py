"""What is true over the reals, beside what the thresholds say of the same draws."""

from __future__ import annotations

from enum import StrEnum

import pandas as pd

from tiebreak.report.wording import data_words
from tiebreak.report.zones import Threshold, Zone, label

LABELS = (
    "regular",
    "compensation",
    "bifurcation",
    "masked_bifurcation",
    "nonfinite",
    "undecided",
)
"""Certified labels, in the order in which tables and figures show them."""

_KEYS = ("cell", "replicate", "epoch", "draw", "jacobian")


class Truth(StrEnum):
    """What a threshold was right or wrong about: whether D is 0 over the reals."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDECIDED = "undecided"
    NONFINITE = "nonfinite"


class Verdict(StrEnum):
    """What became of a threshold's word on a draw."""

    RIGHT = "right"
    FALSE_ALARM = "false_alarm"
    MISS = "miss"
    NONE = "none"


def verdict(zone: str, truth: str) -> Verdict:
    """What a threshold's word is worth.

    Args:
        zone: what it says, a `Zone`.
        truth: what is true, a `Truth`.

    Returns:
        `false_alarm`: it says bifurcation and D = 0. `miss`: it says compensation or regular and D != 0.
        `none`: it says nothing, or the truth is not known.

    Example:
        >>> verdict("bifurcation", "equal").value, verdict("regular", "different").value
        ('false_alarm', 'miss')
    """
    if zone in (Zone.UNDEFINED, Zone.NONFINITE) or truth in (Truth.UNDECIDED, Truth.NONFINITE):
        return Verdict.NONE
    is_alarm, is_different = zone == Zone.BIFURCATION, truth == Truth.DIFFERENT
    if is_alarm == is_different:
        return Verdict.RIGHT
    return Verdict.FALSE_ALARM if is_alarm else Verdict.MISS


_TRUTH = {
    "regular": Truth.EQUAL,
    "compensation": Truth.EQUAL,
    "bifurcation": Truth.DIFFERENT,
    "masked_bifurcation": Truth.DIFFERENT,
    "undecided": Truth.UNDECIDED,
    "nonfinite": Truth.NONFINITE,
}


def certified_table(certificates: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """Labels per cell, Jacobian and, along training, epoch.

    Args:
        certificates: rows of kind `certificate` with `cell` and `replicate`.
        gaps: rows of kind `gap` of the same draws.

    Returns:
        `num_draws`, `num_inits`, `num_<label>` of each label, `gap_relative_max_equal` over the draws that
        are equal over the reals (NaN without any) and, over those that were decided, `num_nonzero_max`,
        `num_primes_max`, `log2_error_max` of a draw, `num_escalated` (a sum), `digits_max` and `num_vacuous`.
    """
    joined = _joined(certificates, gaps)
    records = []
    for key, group in joined.groupby(_by(joined), sort=False, dropna=False):
        record = dict(zip(_by(joined), key, strict=True))
        record |= {"num_inits": group["replicate"].nunique(), "num_draws": len(group)}
        record |= {f"num_{name}": int((group["label"] == name).sum()) for name in LABELS}
        equal = group[group["label"].map(_TRUTH) == Truth.EQUAL]
        record["gap_relative_max_equal"] = equal["gap_relative"].astype(float).max()
        decided = group[group["different"].notna()]
        record["num_nonzero_max"] = decided["num_nonzero"].astype(float).max()
        record["num_primes_max"] = max((len(text.split()) for text in _texts(decided["primes"])), default=0)
        record["log2_error_max"] = decided["log2_error"].astype(float).max()
        record["num_escalated"] = int(decided["num_escalated"].astype(float).sum())
        record["digits_max"] = int(decided["digits"].astype(float).max()) if len(decided) else 0
        record["num_vacuous"] = int(decided["vacuous"].astype(bool).sum())
        records.append(record)
    return pd.DataFrame(records)


def confusion_table(certificates: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """How often each threshold rule says what is true.

    Args:
        certificates: rows of kind `certificate`.
        gaps: rows of kind `gap` of the same draws, with their `precision`.

    Returns:
        One row per cell, Jacobian, epoch, recipe, `zone` (what the threshold says) and `truth`, with
        `num_draws`; pairs that do not occur are left out.
    """
    frames = []
    for recipe in Threshold:
        joined = _joined(certificates, gaps.assign(zone=label(gaps, threshold=recipe)))
        joined = joined.assign(recipe=str(recipe), truth=[str(_TRUTH[str(name)]) for name in joined["label"]])
        keys = [*_by(joined), "recipe", "zone", "truth"]
        frames.append(joined.groupby(keys, sort=False, dropna=False).size().rename("num_draws").reset_index())
    return pd.concat(frames, ignore_index=True)


def distinct_draws(table: pd.DataFrame) -> pd.DataFrame:
    """Rows without the start of a trajectory where the same draws were certified at initialisation.

    A trajectory starts from the weights and mini-batches of a replicate of protocol `zones`, so its epoch 0
    is no further evidence beside that.

    Args:
        table: `certified` or `confusion`, with the axes of its cells.
    """
    if "epoch" not in table:
        return table
    start = (table["protocol"] == "trajectory") & (table["epoch"] == 0)
    network = pd.MultiIndex.from_frame(table[["arch", "precision"]].assign(source=data_words(table)))
    return table[~(start & network.isin(network[table["protocol"] == "zones"]))]


def window_table(pools: pd.DataFrame) -> pd.DataFrame:
    """Windows over the reals and in floating point, per cell, epoch and pool, summed over the draws.

    Args:
        pools: rows of kind `pool_truth`.
    """
    keys = [name for name in ("cell", "epoch", "pool") if name in pools]
    counts = [
        "windows",
        "tied",
        "tied_at_dead_zero",
        "tied_in_floats",
        "tied_only_by_rounding",
        "missed_by_rounding",
        "other_maxima",
    ]
    # A draw of an untrained network has no epoch, beside one along training: it is no less a draw.
    return pools.groupby(keys, sort=False, as_index=False, dropna=False)[counts].sum()


def _by(joined: pd.DataFrame) -> list[str]:
    return [name for name in ("cell", "epoch", "jacobian", "beta") if name in joined]


def _joined(certificates: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    keys = [name for name in _KEYS if name in certificates and name in gaps]
    columns = [name for name in ("gap_sup_sum", "gap_relative", "zone") if name in gaps]
    return certificates.merge(gaps[[*keys, *columns]], on=keys, how="left", validate="one_to_one")


def _texts(column: pd.Series) -> list[str]:
    return [text for text in column if isinstance(text, str)]
