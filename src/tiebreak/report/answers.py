"""Sentences that follow from the tables: the answer first, then the numbers behind it, each with its n."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from tiebreak.records.table import MISSING
from tiebreak.report.certified_answers import certified_sentences
from tiebreak.report.counts import count_sentences
from tiebreak.report.derivatives import derivative_sentence
from tiebreak.report.descent_answers import descent_sentences
from tiebreak.report.panels import context, groups, precisions, rules
from tiebreak.report.scoreboard import scoreboard_sentences
from tiebreak.report.tie_answers import norm_pool_sentences, tie_map_sentences, zero_program_sentences
from tiebreak.report.touches import touch_sentences
from tiebreak.report.training_answers import (
    accuracy_sentence,
    arms_sentence,
    drift_sentences,
    lr_search_sentences,
    network_sentence,
)
from tiebreak.report.wording import beta_words, count, listed, of_context, percent
from tiebreak.report.zones import Threshold

Tables = Mapping[str, pd.DataFrame]

MAX_CONTEXTS = 2
"""Settings besides precision and beta that are told in words; of more, only their number is said."""

_OF_ONE_TABLE = {
    "drift": ("drift", drift_sentences),
    "lr_search": ("lr_search", lr_search_sentences),
    "zero_program": ("zero_programs", zero_program_sentences),
    "norm_pool": ("norm_gaps", norm_pool_sentences),
}
"""Protocols whose sentences come from one table, with its name."""


def answers(tables: Tables, protocols: Sequence[str]) -> list[str]:
    """What the tables say: whether the gradient changes, whether the network does, then the details.

    Args:
        tables: as `build_tables` or `read_tables` give them.
        protocols: protocols that the study plans; one without rows yields a sentence that says so.

    Returns:
        Plain text, about eight sentences, and before them those about certified labels. Nothing is claimed
        that a table does not hold.
    """
    zones, accuracy = tables.get("zones"), tables.get("accuracy")
    has_run = accuracy is not None and bool((accuracy["num_planned"] > accuracy["num_missing"]).any())
    sentences: list[str] = []
    if "certified" in tables:
        sentences += certified_sentences(tables)
    if "zones" in protocols:
        sentences.append("No zones have been measured yet." if zones is None else _gradient(zones))
    if "train" in protocols:
        sentences.append(
            network_sentence(accuracy, tables.get("pairs"))
            if accuracy is not None and has_run
            else "No training has been run yet."
        )
    if "zones" in protocols and zones is not None:
        sentences += _sizes(zones)
        sentences += [_ties(tables["ties"])] if "ties" in tables else []
    if "train" in protocols and accuracy is not None and has_run:
        sentences.append(arms_sentence(accuracy, tables.get("forward_arm")))
        sentences += accuracy_sentence(accuracy, tables.get("pairs"))
    if "statements" in tables:
        sentences += scoreboard_sentences(tables["statements"])
    sentences += descent_sentences(tables)
    if "derivatives" in tables:
        sentences.append(derivative_sentence(tables["derivatives"]))
    if "counts" in tables:
        sentences += count_sentences(tables)
    if "touches" in tables:
        sentences += touch_sentences(tables)
    if "noise" in tables:
        sentences.append(_noise(tables["noise"]))
    for protocol, (name, sentences_of) in _OF_ONE_TABLE.items():
        if protocol in protocols and name in tables:
            sentences += sentences_of(tables[name])
    if "tie_map" in protocols and "images" in tables:
        sentences += tie_map_sentences(tables["images"], tables.get("tied_windows"))
    return sentences or [_without_sentence(tables)]


def _without_sentence(tables: Tables) -> str:
    """What is said where no protocol has a sentence of its own."""
    if "trials" in tables and (tables["trials"]["outcome"] != MISSING).any():
        return "No sentence sums this study up: the tables below have the numbers."
    return "There is no evidence yet: no trial of this study has a record."


def _gradient(zones: pd.DataFrame) -> str:
    """Whether any draw had a gap: the one question that needs no threshold."""
    zones = zones.assign(context=context(zones))
    num_draws = int(zones.drop_duplicates("cell")["num_draws"].sum())
    inits = _span(zones["num_inits"], "init")
    everywhere, partly, nowhere = [], [], []
    for name in precisions(zones):
        here = zones[zones["precision"] == name]
        changed = {title: bool((part["share_zero"] < 1).any()) for (title,), part in groups(here, "context")}
        if all(changed.values()):
            everywhere.append(name)
        elif any(changed.values()):
            where = listed([title for title, is_changed in changed.items() if is_changed])
            partly.append(f"in {name} with {where} only")
        else:
            nowhere.append(name)
    measured = f"{num_draws} draws, {inits} a cell"
    if not everywhere and not partly:
        return f"Gradient: no. The Jacobian chosen at ties left it bit for bit the same in all of {measured}."
    clauses = ([f"in {listed(everywhere)}"] if everywhere else []) + partly
    same = f"; in {listed(nowhere)} every gap was exactly 0" if nowhere else ""
    small = (
        " At the smallest beta most gaps are below 64 unit roundoffs of the gradient, the size of rounding."
        if _has_small_gaps(zones)
        else ""
    )
    return (
        f"Gradient: yes. The Jacobian chosen at ties changed it {listed(clauses)}{same} ({measured}).{small}"
    )


def _has_small_gaps(zones: pd.DataFrame) -> bool:
    """Whether most gaps of the smallest beta lie below the relative threshold."""
    relative = zones[zones["recipe"] == Threshold.RELATIVE]
    first = relative[relative["jacobian"] == rules(relative)[0]]
    return bool(len(first) and first["share_below_threshold"].sum() > first["share_above_threshold"].sum())


def _sizes(zones: pd.DataFrame) -> Iterator[str]:
    """By context and precision: the smallest beta with a batch above the relative threshold."""
    zones = zones.assign(context=context(zones))
    titles = list(dict.fromkeys(zones["context"]))
    relative = zones[zones["recipe"] == Threshold.RELATIVE]
    order = rules(zones)
    for title in titles[:MAX_CONTEXTS]:
        here = relative[relative["context"] == title]
        clauses = [
            f"{name} {_first_above(here[here['precision'] == name], order)}" for name in precisions(here)
        ]
        nonfinite = int(here["num_draws_nonfinite"].sum())
        lost = f" Not finite: {nonfinite} of {int(here['num_draws'].sum())} gaps." if nonfinite else ""
        yield (
            f"Gaps beyond 64 unit roundoffs of the gradient{of_context(title)} appear first: "
            f"{'; '.join(clauses)}.{lost}"
        )
    if len(titles) > MAX_CONTEXTS:
        yield f"Table zones has {len(titles) - MAX_CONTEXTS} more settings than are told here."


def _first_above(part: pd.DataFrame, order: list[str]) -> str:
    part = part.sort_values("jacobian", key=lambda column: column.map(order.index))
    above = part[part["num_inits_above"] > 0]
    if not len(above):
        high = percent(part["share_inits_above_high"].max())
        return f"at no beta (95 % upper bound on the share of inits: {high})"
    row = above.iloc[0]
    low, high = row["share_above_threshold_low"], row["share_above_threshold_high"]
    if np.isnan(low):
        interval = "no interval below 5 inits"
    elif low == high:
        # Resampling equal shares says nothing about other inits; the exact interval of inits does.
        least = percent(row["share_inits_above_low"])
        interval = f"the same in every init; with 95 % at least {least} of inits have such a batch"
    else:
        interval = f"95 % interval over inits {percent(low)} to {percent(high)}"
    share = percent(row["share_above_threshold"])
    return f"at {beta_words(row['jacobian'])}, in {share} of batches ({interval})"


def _ties(ties: pd.DataFrame) -> str:
    ties = ties.assign(context=context(ties))
    titles = list(dict.fromkeys(ties["context"]))
    words = []
    for title in titles[:MAX_CONTEXTS]:
        here = ties[ties["context"] == title]
        shares = [
            f"{percent(here.loc[here['precision'] == name, 'share_above_zero'].max())} in {name}"
            for name in precisions(here)
        ]
        words.append(f"{title + ': ' if title else ''}{', '.join(shares)}")
    return (
        "Windows tied above zero, the only ties that can act after a ReLU, in the pool with most of them "
        f"(mean over {_span(ties['num_inits'], 'init')}): {'; '.join(words)}."
    )


def _noise(noise: pd.DataFrame) -> str:
    noise = noise.assign(context=context(noise))
    same = [
        name for name in precisions(noise) if (noise.loc[noise["precision"] == name, "share_zero"] == 1).all()
    ]
    clauses = [f"gave the same bits in {listed(same)}"] if same else []
    clauses += [
        f"differed in {row['precision']}{of_context(row['context'])} in {percent(1 - row['share_zero'])} of "
        f"comparisons, by {row['gap_max']:.2g} at most"
        for row in noise[noise["share_zero"] < 1].to_dict("records")
    ]
    total = int(noise["num_comparisons"].sum())
    return f"The same backward pass, repeated, {listed(clauses)} ({count(total, 'comparison')})."


def _span(numbers: pd.Series, noun: str) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return count(low, noun) if low == high else f"{low} to {high} {noun}s"
