"""Sentences that follow from the tables: numbers with n and interval, a plain word where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from tiebreak.design.axes import Forward
from tiebreak.report.panels import context, groups, rule, rule_tick
from tiebreak.report.zones import Threshold

Tables = Mapping[str, pd.DataFrame]


def answers(tables: Tables, protocols: Sequence[str]) -> list[str]:
    """What the tables say, one sentence each.

    Args:
        tables: as `build_tables` or `read_tables` give them.
        protocols: protocols that the study plans; one without rows yields a sentence that says so.

    Returns:
        Plain text. Nothing is claimed that a table does not hold.
    """
    sentences: list[str] = []
    if "zones" in protocols:
        sentences += (
            list(_zones(tables["zones"])) if "zones" in tables else ["No zones have been measured yet."]
        )
        sentences += list(_ties(tables["ties"])) if "ties" in tables else []
    if "train" in protocols:
        if "accuracy" in tables and _num_run(tables["accuracy"]):
            sentences += list(_divergence(tables["accuracy"]))
            sentences += list(_differences(tables.get("pairs"), "beta = 0", both_arms=True))
            sentences += list(_differences(tables.get("forward_arm"), "the blended forward", both_arms=False))
        else:
            sentences.append("No training has been run yet.")
    if "noise" in tables:
        sentences += list(_noise(tables["noise"]))
    return sentences or ["There is no evidence yet: no trial of this study has a record."]


def percent(share: float) -> str:
    """A share as percent with one decimal, with no zero that is not one.

    Example:
        >>> percent(0.0004), percent(0.0), percent(0.5)
        ('below 0.1 %', '0 %', '50.0 %')
    """
    if 0 < share < 5e-4:
        return "below 0.1 %"
    if 1 - 5e-4 < share < 1:
        return "above 99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def _zones(zones: pd.DataFrame) -> Iterator[str]:
    zones = zones.assign(context=context(zones))
    for (title, precision), group in groups(zones, "context", "precision"):
        names = set(group["jacobian"])
        part = group[group["jacobian"] == ("minimal" if "minimal" in names else group["jacobian"].iloc[0])]
        clauses = [_zone_clause(row) for _, row in part.iterrows()]
        first = part.iloc[0]
        lost = (
            f" Not finite: {_count(first['num_draws_nonfinite'], 'draw')}."
            if first["num_draws_nonfinite"]
            else ""
        )
        yield (
            f"{precision}{_of(title)}, {first['jacobian']} against {first['reference']}, "
            f"{_count(first['num_inits'], 'init')}, {_count(first['num_draws'], 'draw')}: "
            f"{'; '.join(clauses)}; the gap was exactly 0 in {percent(first['share_zero'])} of draws.{lost}"
        )


def _zone_clause(row: pd.Series) -> str:
    words = f"the {row['recipe']} threshold"
    if np.isnan(row["threshold"]):
        return f"{words} is not defined for this format"
    if row["recipe"] == Threshold.PUBLISHED and row["threshold_source"] == "ours":
        words += " (by analogy)"
    if row["num_inits_above"] == 0:
        high = percent(row["share_inits_above_high"])
        return f"no init had a draw above {words} (95 % upper bound on the share of inits: {high})"
    low, high = row["share_above_threshold_low"], row["share_above_threshold_high"]
    if np.isnan(low):
        interval = "no interval below 5 inits"
    elif low == high:
        # Resampling equal shares says nothing about other inits; the exact interval of inits does.
        least = percent(row["share_inits_above_low"])
        interval = f"the same in every init; share of inits with such a draw: at least {least} with 95 %"
    else:
        interval = f"95 % interval over inits {percent(low)} to {percent(high)}"
    return f"{percent(row['share_above_threshold'])} of batches were above {words} ({interval})"


def _ties(ties: pd.DataFrame) -> Iterator[str]:
    ties = ties.assign(context=context(ties))
    for (title,), group in groups(ties, "context"):
        words = []
        for (precision,), part in groups(group, "precision"):
            pools = ", ".join(
                f"{percent(row['share_above_zero'])} in pool {int(row['pool']) + 1}"
                for row in part.sort_values("pool").to_dict("records")
            )
            words.append(f"{precision}: {pools}")
        listed = "; ".join(words)
        yield f"Windows tied above zero{_of(title)}, the only ties that can act after a ReLU: {listed}."


def _divergence(accuracy: pd.DataFrame) -> Iterator[str]:
    accuracy = accuracy.assign(context=context(accuracy), rule=rule(accuracy))
    for (title, precision, forward), group in groups(accuracy, "context", "precision", "forward"):
        done = group[group["num_planned"] > group["num_missing"]]
        if not len(done):
            continue
        words = []
        for row in done.to_dict("records"):
            ran = row["num_planned"] - row["num_missing"]
            for kind, verb in (
                ("diverged", "diverged"),
                ("not_learned", "never left chance"),
                ("failed", "failed"),
            ):
                if count := row[f"num_{kind}"]:
                    words.append(f"{count} of {ran} {verb} at {_beta(row['rule'])}")
        total = int((done["num_planned"] - done["num_missing"]).sum())
        what = "; ".join(words) or f"all {_count(total, 'run')} completed"
        yield f"Training in {precision}, {forward} forward{_of(title)}: {what}.{_baseline(done)}"


def _baseline(done: pd.DataFrame) -> str:
    """Accuracy of PyTorch's Jacobian, if it is among the cells and a run of it reached its end."""
    reference = done[(done["rule"] == "native") & (done["num_ended"] > 0)]
    if not len(reference):
        return ""
    row = reference.iloc[0]
    spread = "" if np.isnan(row["accuracy_sd"]) else f", sd {percent(row['accuracy_sd'])}"
    runs = _count(row["num_ended"], "run")
    return f" Mean accuracy at beta = 0: {percent(row['accuracy_mean'])} ({runs}{spread})."


def _differences(pairs: pd.DataFrame | None, reference: str, *, both_arms: bool) -> Iterator[str]:
    """Which differences have an interval without 0, said beside how many were looked at."""
    if pairs is None:
        return
    known = pairs.dropna(subset=["difference_low", "difference_high"])
    if not len(known):
        yield f"No difference to {reference} has an interval yet: that takes two pairs of finished runs."
        return
    apart = known[(known["difference_low"] > 0) | (known["difference_high"] < 0)]
    chance = f"{0.05 * len(known):.1f} of {len(known)} would be expected by chance"
    if not len(apart):
        yield f"Against {reference}, none of {len(known)} accuracy differences has a 95 % interval without 0."
        return
    place = int(apart["difference_mean"].abs().to_numpy().argmax())
    row, title = apart.iloc[place], context(pairs).loc[apart.index[place]]
    forward = f"{row['forward']} forward, " if both_arms else ""
    yield (
        f"Against {reference}, {len(apart)} of {len(known)} accuracy differences have a 95 % interval "
        f"without 0 ({chance}); the largest is {_points(row['difference_mean'])} percentage points "
        f"({_points(row['difference_low'])} to {_points(row['difference_high'])}, "
        f"{_count(row['num_pairs'], 'pair')}) in {row['precision']}, {forward}"
        f"{_beta(str(row['jacobian']).removesuffix('-' + Forward.BLENDED))}{_of(title)}."
    )


def _noise(noise: pd.DataFrame) -> Iterator[str]:
    for row in noise.assign(context=context(noise)).to_dict("records"):
        floor = "was bit for bit the same"
        if row["share_zero"] < 1:
            differed = percent(1 - row["share_zero"])
            floor = f"differed in {differed} of comparisons, by {row['gap_max']:.2g} at most"
        yield (
            f"The same backward pass, repeated in {row['precision']}{_of(row['context'])}, {floor} "
            f"({_count(row['num_comparisons'], 'comparison')})."
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _num_run(accuracy: pd.DataFrame) -> int:
    return int((accuracy["num_planned"] - accuracy["num_missing"]).sum())


def _of(title: str) -> str:
    return f" ({title})" if title else ""


def _beta(name: str) -> str:
    tick = rule_tick(name).replace("$", "").replace("{", "").replace("}", "").replace("\n", " ")
    return f"beta = {tick}" if name.startswith(("beta", "native", "minimal")) else f"rule {name}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"
