"""What trained networks say of the claims: runs lost and paired differences, by format and forward pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pandas as pd

from tiebreak.design.axes import Forward
from tiebreak.records.session import OutcomeKind
from tiebreak.report.findings import Finding, Standing, Tables, in_points, within_margin
from tiebreak.report.paired import LEVEL, holm, paired_p
from tiebreak.report.panels import precisions
from tiebreak.report.stats import Estimate, fisher_more_often, mean_interval, paired_difference
from tiebreak.report.verdicts import LEAST_RUNS
from tiebreak.report.wording import data_words

HIGH = (1_000.0, 10_000.0)
"""Betas whose Jacobian has a high norm."""

FATAL = 1_000.0
"""The beta at which the rounding of the blended forward is claimed to destroy training in 16 bits."""

LOW = (1.0, 10.0)
"""Betas that the published runs found harmless."""

_SIXTEEN_BITS = ("fp16", "fp16_rounded", "bf16", "amp16", "ampbf16")
LOST = (str(OutcomeKind.DIVERGED), str(OutcomeKind.NOT_LEARNED))
"""Outcomes of runs that were of no use."""

RAN = (str(OutcomeKind.COMPLETED), *LOST)
"""Outcomes of runs that say something of their cell."""


def _arms(tables: Tables) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs of each network, data set, optimizer, precision and forward that has a beta family."""
    runs = tables.get("runs")
    if runs is None:
        return
    runs = runs[(runs["selection"] == "beta") & runs["outcome"].isin(RAN)]
    runs = runs.assign(source=data_words(runs))
    several = runs[["arch", "source", "optimizer"]].drop_duplicates().shape[0] > 1
    for name in precisions(runs):
        for forward in Forward:
            chosen = runs[(runs["precision"] == name) & (runs["forward"] == forward)]
            for key, part in chosen.groupby(["arch", "source", "optimizer"], sort=False):
                if part["beta"].nunique() > 1:
                    words = ", ".join(map(str, key)) + ", " if several else ""
                    yield f"{words}{name}, {forward} forward", part


def lost_of(part: pd.DataFrame) -> tuple[int, int]:
    """Runs that diverged or never left chance, and all runs."""
    return int(part["outcome"].isin(LOST).sum()), len(part)


def shared_replicates(left: pd.DataFrame, right: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs of both sides whose replicate has a record on the other."""
    kept = [side[side["outcome"].isin(RAN)] for side in (left, right)]
    both = set(kept[0]["replicate"]) & set(kept[1]["replicate"])
    first, second = (side[side["replicate"].isin(both)] for side in kept)
    return first, second


def _differences(part: pd.DataFrame, beta: float) -> Estimate | None:
    """Paired accuracy differences to beta = 0 in percentage points, of pairs of which no run was lost.

    Pairs with batch norm and without start from the same replicate; the mean over both is one value a
    replicate, so that values are independent.
    """
    keys = [name for name in ("batch_norm", "num_epochs", "lr", "eps") if name in part]
    final = part[~part["outcome"].isin(LOST)]
    left = final[final["beta"] == beta].set_index([*keys, "replicate"])["final_test_accuracy"]
    right = final[final["beta"] == 0].set_index([*keys, "replicate"])["final_test_accuracy"]
    both = pd.concat([left, right], axis=1, join="inner", keys=["value", "reference"])
    if not len(both):
        return None
    means = both.groupby(level="replicate").mean()
    return paired_difference(100 * means["value"].to_numpy(), 100 * means["reference"].to_numpy())


def low_norms(tables: Tables) -> Iterator[Finding]:
    """beta = 1 and 10 against 0: paired differences and runs lost."""
    arms = list(_arms(tables))
    seen = [(where, beta, part, _differences(part, beta)) for where, part in arms for beta in LOW]
    seen = [item for item in seen if item[3] is not None]
    evidence = [within_margin(item[3]) for item in seen if item[3] is not None]
    losses = {
        where: (lost_of(part[part["beta"].isin(LOW)]), lost_of(part[part["beta"] == 0]))
        for where, part in arms
    }
    same = holm([one for one, _ in evidence])
    apart = holm(
        [other for _, other in evidence] + [fisher_more_often(*low, *zero) for low, zero in losses.values()]
    )
    loses_more = dict(zip(losses, (p < LEVEL for p in apart[len(seen) :]), strict=True))
    for where, _ in arms:
        here = [place for place, item in enumerate(seen) if item[0] == where]
        if not here:
            continue
        (lost, total), (base, of) = losses[where]
        words = "; ".join(f"beta = {seen[place][1]:g}: {in_points(seen[place][3])}" for place in here)  # type: ignore[arg-type]
        if loses_more[where] or any(apart[place] < LEVEL for place in here):
            standing = Standing.CONTRADICTED
        elif len(here) == len(LOW) and all(same[place] < LEVEL for place in here) and lost <= base:
            standing = Standing.SUPPORTED
        else:
            standing = Standing.UNDECIDED
        yield Finding(
            where=where,
            standing=standing,
            numbers=f"{words}; runs lost {lost} of {total}, at beta = 0 {base} of {of}",
        )


def high_norms(tables: Tables) -> Iterator[Finding]:
    """beta = 10^3 and 10^4 against 0: runs lost and paired differences."""
    arms = list(_arms(tables))
    tests: list[float] = []
    for _, part in arms:
        for beta in HIGH:
            lost, reference = lost_of(part[part["beta"] == beta]), lost_of(part[part["beta"] == 0])
            tests.append(fisher_more_often(*lost, *reference) if lost[1] and reference[1] else math.nan)
            difference = _differences(part, beta)
            tests.append(paired_p(difference) if difference else math.nan)
    adjusted = holm(tests) if tests else []
    kept = [_differences(part, beta) for _, part in arms for beta in HIGH]
    same = holm([within_margin(difference)[0] if difference else math.nan for difference in kept])
    for place, (where, part) in enumerate(arms):
        words, worse = [], False
        for index, beta in enumerate(HIGH):
            by_loss, by_mean = adjusted[4 * place + 2 * index : 4 * place + 2 * index + 2]
            lost, total = lost_of(part[part["beta"] == beta])
            difference = _differences(part, beta)
            if not total:
                continue
            text = f"beta = {beta:g}: {lost} of {total} lost"
            if difference is not None:
                text += f", accuracy {in_points(difference)}"
            words.append(text)
            below = difference is not None and difference.mean < 0 and by_mean < LEVEL
            worse = worse or by_loss < LEVEL or below
        if not words:
            continue
        unmoved = all(p < LEVEL for p in same[len(HIGH) * place : len(HIGH) * (place + 1)])
        is_lost = any(lost_of(part[part["beta"] == beta])[0] for beta in HIGH)
        if worse:
            standing = Standing.SUPPORTED
        elif unmoved and not is_lost:
            standing = Standing.CONTRADICTED
        else:
            standing = Standing.UNDECIDED
        base, of = lost_of(part[part["beta"] == 0])
        yield Finding(
            where=where, standing=standing, numbers=f"{'; '.join(words)}; at beta = 0 {base} of {of} lost"
        )


def _influences(weak: pd.DataFrame, strong: pd.DataFrame) -> pd.DataFrame:
    """Accuracy lost to beta >= 100 by replicate, in points, on both sides over the betas that both have.

    A run that diverged counts with chance.
    """
    sides = [
        side.assign(scored=100 * side["final_test_accuracy"].fillna(side["chance"]))
        .groupby(["replicate", "beta"])["scored"]
        .mean()
        for side in (weak, strong)
    ]
    both = pd.concat(sides, axis=1, join="inner", keys=["weak", "strong"])
    beta = both.index.get_level_values("beta")
    high, base = (both[chosen].groupby(level="replicate").mean() for chosen in (beta >= 100, beta == 0))
    return (base - high).dropna()


def _settings(side: pd.DataFrame) -> list[pd.DataFrame]:
    """Runs of one side by learning rate and epsilon, which the two sides may have of their own."""
    return [part for _, part in side.groupby(["lr", "eps"], sort=False, dropna=False)]


def reduces(
    tables: Tables, *, column: str, weak: object, strong: object, words: tuple[str, str]
) -> Iterator[Finding]:
    """Whether the influence of beta is smaller where `column` is `strong`, replicate by replicate."""
    runs = tables.get("runs")
    if runs is None or column not in runs:
        return
    runs = runs[(runs["selection"] == "beta") & runs["outcome"].isin(RAN)]
    runs = runs.assign(source=data_words(runs))
    keys = [
        name
        for name in ("arch", "source", "optimizer", "precision", "forward", "batch_norm", "num_epochs")
        if name != column
    ]
    has_lengths = runs["num_epochs"].nunique() > 1
    found: list[tuple[str, Estimate, Estimate, float]] = []
    for key, group in runs.groupby(keys, sort=False):
        named = dict(zip(keys, key, strict=True))
        if "batch_norm" in named:
            named["batch_norm"] = "batch norm" if named["batch_norm"] else "no batch norm"
        named["forward"] = f"{named['forward']} forward"
        length = f"{named.pop('num_epochs'):g} epochs"
        if has_lengths:
            named["num_epochs"] = length
        where = ", ".join(map(str, named.values()))
        sides = (_settings(group[group[column] == side]) for side in (weak, strong))
        for left, right in itertools.product(*sides):
            both = _influences(left, right)
            if len(both):
                values = both["weak"].to_numpy(), both["strong"].to_numpy()
                found.append((where, paired_difference(*values), mean_interval(values[0]), values[1].mean()))
    adjusted = holm([paired_p(difference) for _, difference, *_ in found]) if found else []
    # Sameness of both sides, and of the weak side with no influence at all: one family.
    evidence = [within_margin(item[1])[0] for item in found] + [within_margin(item[2])[0] for item in found]
    small = [p < LEVEL for p in holm(evidence)] if found else []
    for place, ((where, difference, left, right), p) in enumerate(zip(found, adjusted, strict=True)):
        same, nothing = small[place], small[len(found) + place]
        if difference.num < LEAST_RUNS or (same and nothing):
            standing = Standing.UNDECIDED
        elif p < LEVEL and difference.mean > 0:
            standing = Standing.SUPPORTED
        elif (p < LEVEL and difference.mean < 0) or same:
            standing = Standing.CONTRADICTED
        else:
            standing = Standing.UNDECIDED
        yield Finding(
            where=where,
            standing=standing,
            numbers=f"accuracy lost to beta >= 100: {left.mean:.2f} points {words[0]}, {right:.2f} "
            f"{words[1]}; difference {in_points(difference)}"
            + (f", p = {p:.2g} (Holm)" if p == p else "")
            + ("; there is nothing to reduce" if same and nothing else ""),
        )


def forwards(tables: Tables) -> Iterator[Finding]:
    """Whether the blended forward loses runs that the exact one keeps."""
    arms = [(where, part) for where, part in _arms(tables)]
    by_where = dict(arms)
    found = []
    for where, blended in arms:
        if not where.endswith(f"{Forward.BLENDED} forward"):
            continue
        exact = by_where.get(where.replace(f"{Forward.BLENDED} forward", f"{Forward.EXACT} forward"))
        if exact is None or exact.iloc[0]["precision"] not in _SIXTEEN_BITS:
            continue
        left, right = (lost_of(arm[arm["beta"] == FATAL]) for arm in (blended, exact))
        if left[1] and right[1]:
            found.append((where.removesuffix(f", {Forward.BLENDED} forward"), left, right))
    adjusted = holm([fisher_more_often(*left, *right) for _, left, right in found]) if found else []
    for (where, left, right), p in zip(found, adjusted, strict=True):
        neither = not left[0] and not right[0] and min(left[1], right[1]) >= LEAST_RUNS
        standing = Standing.SUPPORTED if p < LEVEL else Standing.UNDECIDED
        if neither:
            standing = Standing.CONTRADICTED
        yield Finding(
            where=f"{where}, beta = {FATAL:g}",
            standing=standing,
            numbers=f"lost: blended {left[0]} of {left[1]}, exact {right[0]} of {right[1]}, p = {p:.2g} "
            "(Holm)",
        )


def single_errors(tables: Tables) -> Iterator[Finding]:
    """Whether one rounding error of the blended operator loses the runs that all of it loses."""
    by_where = dict(_arms(tables))
    found = []
    for where, blended in by_where.items():
        ending = f"{Forward.BLENDED} forward"
        if not where.endswith(f", {ending}") or blended.iloc[0]["precision"] not in _SIXTEEN_BITS:
            continue
        for forward, words in (
            (Forward.BLENDED_VALUE, "rounded value"),
            (Forward.BLENDED_GRADIENT, "rounded gradient"),
        ):
            control = by_where.get(where.replace(ending, f"{forward} forward"))
            if control is None:
                continue
            one, whole = (arm[arm["beta"] == FATAL] for arm in (control, blended))
            if len(one) and len(whole):
                found.append((f"{where.removesuffix(f', {ending}')}, {words}", one, whole))
    lost = [(lost_of(one), lost_of(whole)) for _, one, whole in found]
    adjusted = holm([fisher_more_often(*whole, *one) for one, whole in lost]) if found else []
    for (where, one, _), (left, right), p in zip(found, lost, adjusted, strict=True):
        standing = Standing.UNDECIDED
        if right[0] and p < LEVEL:
            standing = Standing.CONTRADICTED
        elif min(left[1], right[1]) >= LEAST_RUNS and left == (left[1], left[1]):
            standing = Standing.SUPPORTED
        ended = one.loc[~one["outcome"].isin(LOST), "final_test_accuracy"]
        mean = f", mean accuracy of the others {100 * ended.mean():.1f} %" if len(ended) else ""
        yield Finding(
            where=f"{where}, beta = {FATAL:g}",
            standing=standing,
            numbers=f"lost: alone {left[0]} of {left[1]}{mean}; all of the operator {right[0]} of "
            f"{right[1]}, p = {p:.2g} (Holm)",
        )
