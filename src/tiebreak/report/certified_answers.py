"""Sentences about certified labels: what is true over the reals, and what thresholds make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tiebreak.design.axes import Precision
from tiebreak.records.session import OutcomeKind
from tiebreak.report.certified import Truth, Verdict, distinct_draws, verdict
from tiebreak.report.panels import precisions, setting, settings
from tiebreak.report.wording import beta_words, count, listed
from tiebreak.report.zones import Threshold, Zone

_RECIPES = {str(Threshold.PUBLISHED): "published", str(Threshold.RELATIVE): "relative"}


def certified_sentences(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """What the labels say, and how far the thresholds know it.

    Args:
        tables: with `trials`, `certified` and `confusion`; `bifurcations` where draws were taken apart.

    Yields:
        The answer; one sentence a setting; the sizes that rounding alone reaches; on what the labels rest;
        which trainings ended before their last draws; one bifurcation taken apart, where there is one.
    """
    certified, confusion = tables["certified"], tables["confusion"]
    certified = certified.assign(
        setting=setting(certified),
        different=certified["num_bifurcation"] + certified["num_masked_bifurcation"],
    )
    confusion = confusion.assign(
        setting=setting(confusion),
        verdict=[str(verdict(*pair)) for pair in zip(confusion["zone"], confusion["truth"], strict=True)],
    )
    yield _answer(distinct_draws(certified), distinct_draws(confusion))
    for title in settings(certified):
        yield (
            f"Setting {title}: bifurcations "
            f"{_bifurcations(certified[certified['setting'] == title])}. "
            + " ".join(
                _rule(confusion[(confusion["setting"] == title) & (confusion["recipe"] == recipe)], words)
                for recipe, words in _RECIPES.items()
            )
        )
    yield _sizes(certified)
    yield _ground(distinct_draws(certified))
    yield from _ended_early(tables["trials"])
    if "bifurcations" in tables:
        yield _dissected(tables["bifurcations"])


def _answer(certified: pd.DataFrame, confusion: pd.DataFrame) -> str:
    """Over everything: how often the rule matters, and how often a threshold is wrong about it."""
    total, different = int(certified["num_draws"].sum()), int(certified["different"].sum())
    clauses = []
    for recipe, words in _RECIPES.items():
        part = confusion[confusion["recipe"] == recipe]
        alarms = _draws(part, zone=Zone.BIFURCATION)
        false, missed = _draws(part, verdict=Verdict.FALSE_ALARM), _draws(part, verdict=Verdict.MISS)
        has_none = _draws(part, zone=Zone.UNDEFINED)
        silent = f" and has no number for {has_none} of them" if has_none else ""
        clauses.append(
            f"the {words} threshold gives {count(alarms, 'alarm')}, {false} of them false, "
            f"and misses {count(missed, 'bifurcation')}{silent}"
        )
    return (
        f"Truth: over the reals the rule at ties changes the gradient in {different} of {total} comparisons, "
        f"each of one draw and one rule beside PyTorch's ({_by_precision(certified)}). Of these comparisons "
        f"{'; '.join(clauses)}."
    )


def _by_precision(part: pd.DataFrame) -> str:
    sums = part.groupby("precision")[["different", "num_draws"]].sum()
    return ", ".join(
        f"{name} {sums.loc[name, 'different']} of {sums.loc[name, 'num_draws']}" for name in precisions(part)
    )


def _bifurcations(part: pd.DataFrame) -> str:
    masked = int(part["num_masked_bifurcation"].sum())
    hidden = f" ({masked} of them with no gap in floating point)" if masked else ""
    return f"{_by_precision(part)}{hidden}"


def _rule(part: pd.DataFrame, words: str) -> str:
    """False alarms of all alarms, and missed of all bifurcations that a threshold could have named."""
    alarms, misses, silent = [], [], []
    for name in precisions(part):
        here = part[part["precision"] == name]
        if num_alarms := _draws(here, zone=Zone.BIFURCATION):
            alarms.append(f"{name} {_draws(here, verdict=Verdict.FALSE_ALARM)} of {num_alarms}")
        different = here[(here["truth"] == Truth.DIFFERENT) & (here["zone"] != Zone.UNDEFINED)]
        if len(different):
            misses.append(f"{name} {_draws(different, verdict=Verdict.MISS)} of {_draws(different)}")
        if len(here[here["zone"] == Zone.UNDEFINED]):
            silent.append(name)
    said = f"false alarms {', '.join(alarms)}" if alarms else "no alarm"
    missed = f"missed {', '.join(misses)}" if misses else "nothing to miss"
    no_number = f" (no threshold for {listed(silent)})" if silent else ""
    return f"{words.capitalize()} threshold: {said}; {missed}{no_number}."


def _draws(part: pd.DataFrame, **where: str) -> int:
    for column, value in where.items():
        part = part[part[column] == value]
    return int(part["num_draws"].sum())


def _sizes(certified: pd.DataFrame) -> str:
    """How large a gap gets that is rounding alone."""
    clauses = []
    for name in precisions(certified):
        here = certified[(certified["precision"] == name) & certified["gap_relative_max_equal"].notna()]
        if not len(here):
            clauses.append(f"{name} has no such draw")
            continue
        row = max(here.to_dict("records"), key=lambda row: row["gap_relative_max_equal"])
        size, limit = float(row["gap_relative_max_equal"]), Threshold.RELATIVE.limit(Precision(name))
        place = f" ({row['setting']})" if certified["setting"].nunique() > 1 else ""
        beyond = ", above the relative threshold" if size > limit else ""
        clauses.append(f"{name} {size:.2g}{place}{beyond}")
    return (
        "Rounding alone, the largest gap relative to the gradient in a draw that is equal over the reals: "
        f"{'; '.join(clauses)}."
    )


def _ground(certified: pd.DataFrame) -> str:
    """On what the labels rest, and what they leave open."""
    total = int(certified["num_draws"].sum())
    lost = {
        "undecided": int(certified["num_undecided"].sum()),
        "not finite": int(certified["num_nonfinite"].sum()),
        "vacuous (the cotangent is 0, so D = 0 says nothing)": int(certified["num_vacuous"].sum()),
    }
    primes, error = int(certified["num_primes_max"].max()), float(certified["log2_error_max"].max())
    chance = (
        f"the least certain draw is wrong with a probability of at most 2^{error:.1f}"
        if np.isfinite(error)
        else "every statement is proved"
    )
    return (
        f"The labels are about the fixed cotangent g of each draw. Of the {count(total, 'comparison')}: "
        f"{', '.join(f'{number} {words}' for words, number in lost.items())}. They rest on residues modulo "
        f"at most {count(primes, 'prime')} a draw; {chance}."
    )


def _dissected(bifurcations: pd.DataFrame) -> str:
    """The first draw that was taken apart in the finest precision, in the words of its row.

    `gradient` is the derivative of that entry with PyTorch's rule as the program computed it, `difference`
    is D there and `share` its size over that of `gradient`.
    """
    rows = bifurcations.assign(setting=setting(bifurcations)).to_dict("records")
    row = min(rows, key=lambda row: Precision(row["precision"]).unit_roundoff)
    said = {name: _number(value) for name, value in row.items() if pd.notna(value)}
    epoch = f", epoch {said['epoch']}" if "epoch" in said else ""
    share = f", {said['share']} times that" if "share" in said else ""
    return (
        f"One bifurcation taken apart ({row['precision']}, {row['setting']}{epoch}, init "
        f"{said['replicate']}, draw {said['draw']}): in pool {int(row['pool']) + 1} the window at row "
        f"{said['window_row']}, column {said['window_column']} of channel {said['channel']} of image "
        f"{said['image']} (counted from 0) has {said['tied']} maxima over the reals, at {said['entries']} of "
        f"the pool's input. The patches that they come from: {said['patches']}. The largest difference of "
        f"the whole batch is in entry [{said['index']}] of {said['tensor']}: PyTorch's rule gives "
        f"{said['gradient']} there, and {beta_words(row['jacobian'])} changes it by {said['difference']}"
        f"{share}."
    )


def _number(value: Any) -> str:
    """Text as it is, whole numbers without a point, others with three digits."""
    if isinstance(value, str):
        return value
    number = float(value)
    return str(int(number)) if number.is_integer() else f"{number:.3g}"


def _ended_early(trials: pd.DataFrame) -> Iterator[str]:
    """Trainings that diverged: the draws that come after are in no count above."""
    along = trials[trials["protocol"] == "trajectory"]
    diverged = along[along["outcome"] == str(OutcomeKind.DIVERGED)]
    if len(diverged):
        places = diverged[["trial", "step"]].values
        names = ", ".join(f"{trial} at step {int(step)}" for trial, step in places)
        yield (
            f"{len(diverged)} of {count(len(along), 'training')} diverged ({names}); draws after that do not "
            "exist and are in no count."
        )
