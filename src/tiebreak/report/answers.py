"""Sentences that follow from the tables: numbers with n and interval, and a plain word where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from tiebreak.design.axes import Forward
from tiebreak.report.panels import context, rule, rule_tick
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
            sentences += list(_differences(tables.get("pairs"), "PyTorch's Jacobian (beta = 0)"))
            sentences += list(
                _differences(tables.get("forward_arm"), "the blended forward, with the exact one")
            )
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
    for (title, precision), group in zones.groupby(["context", "precision"], sort=False):
        parts = [part for jacobian, part in group.groupby("jacobian", sort=False) if jacobian == "minimal"]
        part = parts[0] if parts else group[group["jacobian"] == group["jacobian"].iloc[0]]
        clauses = [clause for row in part.to_dict("records") if (clause := _zone_clause(pd.Series(row)))]
        first = part.iloc[0]
        lost = (
            f" {first['num_draws_nonfinite']} draws were non-finite." if first["num_draws_nonfinite"] else ""
        )
        yield (
            f"{precision}{_of(title)}: the {first['jacobian']} Jacobian against the {first['reference']} one, "
            f"{first['num_inits']} inits and {first['num_draws']} draws: {'; '.join(clauses)}; "
            f"the gap was exactly 0 in {percent(first['share_zero'])} of draws.{lost}"
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
    interval = "no interval below 5 inits"
    if not np.isnan(row["share_above_threshold_low"]):
        low, high = percent(row["share_above_threshold_low"]), percent(row["share_above_threshold_high"])
        interval = f"95 % interval over inits {low} to {high}"
    return f"{percent(row['share_above_threshold'])} of batches were above {words} ({interval})"


def _ties(ties: pd.DataFrame) -> Iterator[str]:
    ties = ties.assign(context=context(ties))
    for title, group in ties.groupby("context", sort=False):
        words = []
        for precision, part in group.groupby("precision", sort=False):
            pools = ", ".join(
                f"{percent(row['share_above_zero'])} in pool {int(row['pool']) + 1}"
                for row in part.sort_values("pool").to_dict("records")
            )
            words.append(f"{precision}: {pools}")
        yield f"Windows tied above zero{_of(title)}, the only ties that can act after a ReLU: {'; '.join(words)}."


def _divergence(accuracy: pd.DataFrame) -> Iterator[str]:
    accuracy = accuracy.assign(context=context(accuracy), rule=rule(accuracy))
    for (title, precision, forward), group in accuracy.groupby(
        ["context", "precision", "forward"], sort=False
    ):
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
        what = "; ".join(words) or f"all {total} runs completed"
        yield f"Training in {precision}, {forward} forward{_of(title)}: {what}."


def _differences(pairs: pd.DataFrame | None, reference: str) -> Iterator[str]:
    """Which differences have an interval without 0, said beside how many were looked at."""
    if pairs is None:
        return
    known = pairs.dropna(subset=["difference_low", "difference_high"])
    if not len(known):
        yield f"No difference to {reference} has an interval yet: it takes two pairs of runs that reached their end."
        return
    apart = known[(known["difference_low"] > 0) | (known["difference_high"] < 0)]
    chance = f"{0.05 * len(known):.1f} of {len(known)} would be expected by chance"
    if not len(apart):
        yield f"Against {reference}, none of {len(known)} accuracy differences has a 95 % interval without 0."
        return
    row = apart.loc[apart["difference_mean"].abs().idxmax()]
    forward = f"{row['forward']} forward, " if reference.startswith("PyTorch") else ""
    yield (
        f"Against {reference}, {len(apart)} of {len(known)} accuracy differences have a 95 % interval without 0 "
        f"({chance}); the largest is {_points(row['difference_mean'])} percentage points "
        f"({_points(row['difference_low'])} to {_points(row['difference_high'])}, {row['num_pairs']} pairs) in "
        f"{row['precision']}, {forward}{_beta(str(row['jacobian']).removesuffix('-' + Forward.BLENDED))}"
        f"{_of(context(pairs).loc[row.name])}."
    )


def _noise(noise: pd.DataFrame) -> Iterator[str]:
    for row in noise.assign(context=context(noise)).to_dict("records"):
        floor = (
            "was bit for bit the same"
            if row["share_zero"] == 1
            else f"differed in {percent(1 - row['share_zero'])} of comparisons, at most by {row['gap_max']:.2g}"
        )
        yield (
            f"The same backward pass, repeated in {row['precision']}{_of(row['context'])}, {floor} "
            f"({row['num_comparisons']} comparisons)."
        )


def _num_run(accuracy: pd.DataFrame) -> int:
    return int((accuracy["num_planned"] - accuracy["num_missing"]).sum())


def _of(title: str) -> str:
    return f" ({title})" if title else ""


def _beta(name: str) -> str:
    tick = rule_tick(name).replace("$", "").replace("{", "").replace("}", "").replace("\n", " ")
    return f"beta = {tick}" if name.startswith(("beta", "native", "minimal")) else f"rule {name}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"
