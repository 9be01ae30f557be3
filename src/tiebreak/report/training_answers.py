"""Sentences about training: runs lost, accuracies, what the way of computing the value does to both, how far
weights end apart, and searches of a learning rate."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from tiebreak.design.axes import Forward
from tiebreak.report.panels import context, groups, precisions, rule, rules
from tiebreak.report.stats import fisher_more_often
from tiebreak.report.wording import beta_words, count, listed, of_context, percent, points

_LOST = {"diverged": "diverged", "not_learned": "never left chance", "failed": "failed"}
_UNLIKELY = 0.05


def network_sentence(accuracy: pd.DataFrame, pairs: pd.DataFrame | None) -> str:
    """Whether another Jacobian than PyTorch's changes what training ends with, by precision.

    "Yes" needs more runs lost than at beta = 0, by Fisher's exact test (one-sided, below 0.05, runs taken
    as independent); without it only counts are given.

    Args:
        accuracy: table `accuracy`, with at least one run.
        pairs: table `pairs`; None if the study has no cell at beta = 0 to compare with.
    """
    accuracy = accuracy.assign(rule=rule(accuracy), ran=accuracy["num_planned"] - accuracy["num_missing"])
    is_reference = accuracy["rule"] == "native"
    lost, kept, worse = [], [], []
    for name in precisions(accuracy):
        here = accuracy["precision"] == name
        other, reference = accuracy[here & ~is_reference], accuracy[here & is_reference]
        ran, num_reference = int(other["ran"].sum()), int(reference["ran"].sum())
        if not ran:
            continue
        chance = fisher_more_often(_num_lost(other), ran, _num_lost(reference), num_reference)
        if chance < _UNLIKELY:
            worse.append(f"{name} (p = {chance:.2g})")
        if _num_lost(other):
            against = (
                f", against {_num_lost(reference)} of {num_reference} at beta = 0" if num_reference else ""
            )
            lost.append(
                f"in {name}, {_num_lost(other)} of {ran} runs were lost ({_kinds(other)}){against}, "
                f"first at {_first_lost(other)}"
            )
        else:
            kept.append(f"in {name} all {ran} reached the end above chance{_within(pairs, name)}")
    runs = _span(accuracy["num_planned"])
    verdict = (
        f"yes in {listed(worse)}, where runs were lost more often than at beta = 0."
        if worse
        else "at no precision were runs lost clearly more often than at beta = 0."
    )
    clauses = "; ".join([*lost, *kept]) or "only beta = 0 has been run"
    return f"Trained network: {verdict} With a rule other than beta = 0, {clauses} ({runs} a cell)."


def arms_sentence(accuracy: pd.DataFrame, arms: pd.DataFrame | None) -> str:
    """Runs lost with each forward, and whether accuracies of the two differ.

    Args:
        accuracy: table `accuracy`, with at least one run.
        arms: table `forward_arm`; None if the study has one forward only.
    """
    accuracy = accuracy.assign(ran=accuracy["num_planned"] - accuracy["num_missing"])
    present = [str(forward) for forward in Forward if (accuracy["forward"] == forward).any()]
    clauses = []
    for name in precisions(accuracy):
        words = []
        for forward in present:
            part = accuracy[(accuracy["precision"] == name) & (accuracy["forward"] == forward)]
            if ran := int(part["ran"].sum()):
                words.append(f"{_num_lost(part)} of {ran}")
        clauses += [f"{name} {' against '.join(words)}"] if words else []
    text = f"Runs lost with {' against '.join(present)} forward: {'; '.join(clauses)}."
    if arms is None:
        return text
    known = arms.dropna(subset=["difference_low", "difference_high"])
    same = known[(known["difference_low"] == 0) & (known["difference_high"] == 0)]
    equal = f"{len(same)} of {len(known)} cells had the same accuracy run by run. " if len(same) else ""
    known = known.drop(same.index)
    if not len(known):
        return f"{text} {equal}".rstrip()
    return f"{text} {equal}{_apart(known, arms, 'exact minus blended')}"


def accuracy_sentence(accuracy: pd.DataFrame, pairs: pd.DataFrame | None) -> Iterator[str]:
    """Accuracy at beta = 0, and the differences to it whose interval does not hold 0.

    Args:
        accuracy: table `accuracy`.
        pairs: table `pairs`, or None.
    """
    reference = accuracy[(rule(accuracy) == "native") & (accuracy["num_ended"] > 0)]["accuracy_mean"]
    base = ""
    if len(reference):
        low, high = percent(reference.min()), percent(reference.max())
        base = f"Mean accuracies of cells at beta = 0: {low} to {high}. "
    if pairs is None:
        if base:
            yield base.rstrip()
        return
    known = pairs.dropna(subset=["difference_low", "difference_high"])
    if not len(known):
        yield f"{base}No difference to beta = 0 has an interval yet: that takes two pairs of finished runs."
        return
    yield f"{base}{_apart(known, pairs, 'other minus beta = 0')}"


def drift_sentences(drift: pd.DataFrame) -> Iterator[str]:
    """How far rules at ties lead weights apart by the last epoch, beside the same rule run again.

    Args:
        drift: table `drift`, a row a cell, rule, copy and epoch.
    """
    of_reference = rule(drift.assign(jacobian=drift["reference"]))
    drift = drift.assign(context=context(drift), rule=rule(drift), reference_rule=of_reference)
    last = drift[drift["epoch"] == drift.groupby("cell")["epoch"].transform("max")]
    is_same = last["jacobian"] == last["reference"]
    other, again = last[~is_same], last[is_same & (last["copy"] > 0)]
    epochs = listed([str(epoch) for epoch in sorted(set(last["epoch"].astype(int)))])
    for (title,), part in groups(other, "context"):
        known = part.dropna(subset="distance_l2_mean")
        words = []
        for name in precisions(part):
            here = known[known["precision"] == name].sort_values("distance_l2_mean", kind="stable")
            ends = [here.iloc[0], here.iloc[-1]] if len(here) else []
            words.append(f"{name} {' to '.join(map(_distance, ends)) or 'none finite'}")
        lost, total = int(part["num_nonfinite"].sum()), int(part["num_inits"].sum())
        yield (
            f"Weights after {epochs} epochs{of_context(title)}, L2 distance to the run at "
            f"{beta_words(str(part['reference_rule'].iloc[0]))}, smallest to largest mean over "
            f"{_span(part['num_inits'])}: {'; '.join(words)}. Not finite: {lost} of {count(total, 'run')}."
        )
    if len(again):
        apart = again[(again["distance_l2_max"] > 0) | (again["num_nonfinite"] > 0)]
        yield (
            "The same rule run again ended with the same weights bit for bit in "
            f"{len(again) - len(apart)} of {count(len(again), 'cell')}."
        )


def _distance(row: pd.Series) -> str:
    return f"{row['distance_l2_mean']:.2g} ({beta_words(str(row['rule']))}, {row['forward']} forward)"


def lr_search_sentences(searches: pd.DataFrame) -> Iterator[str]:
    """The learning rates that were found, and what became of the candidates.

    Args:
        searches: table `lr_search`, a row a search.
    """
    words = []
    for name in precisions(searches):
        here = searches[searches["precision"] == name]
        rates = [f"{rate:.3g}" for rate in (here["best_lr"].min(), here["best_lr"].max())]
        found = [
            percent(share) for share in (here["validation_accuracy"].min(), here["validation_accuracy"].max())
        ]
        words.append(
            f"{name} {' to '.join(dict.fromkeys(rates))} with {' to '.join(dict.fromkeys(found))} of "
            f"held-out images right ({len(here)})"
        )
    text = f"Best learning rates (searches in brackets): {'; '.join(words)}."
    if "num_candidates" in searches:
        total, pruned, bad = (
            int(searches[f"num_{kind}"].sum()) for kind in ("candidates", "pruned", "nonfinite")
        )
        text += f" Of {count(total, 'candidate')} {pruned} were pruned and {bad} ended not finite."
    yield text


def _apart(known: pd.DataFrame, every: pd.DataFrame, what: str) -> str:
    """Intervals without 0, beside how many were looked at, and the largest mean by precision."""
    # Equal differences have an interval of no length, which says nothing about other runs.
    spread = known[known["difference_sd"] > 0]
    apart = spread[(spread["difference_low"] > 0) | (spread["difference_high"] < 0)]
    words = f"Accuracy, {what}: {len(apart)} of {len(spread)} 95 % t intervals do not hold 0"
    if len(apart):
        words += f" ({0.05 * len(spread):.1f} expected by chance alone)"
    titles, largest = context(every), []
    for name in precisions(known):
        part = known[known["precision"] == name]
        place = part.index[int(part["difference_mean"].abs().to_numpy().argmax())]
        row = part.loc[place]
        arm = f"{row['forward']}, " if every["forward"].nunique() > 1 else ""
        title = f", {titles.loc[place]}" if titles.loc[place] else ""
        label = beta_words(str(row["jacobian"]).removesuffix(f"-{row['forward']}"))
        largest.append(
            f"{name} {points(row['difference_mean'])} ({points(row['difference_low'])} to "
            f"{points(row['difference_high'])}; {arm}{label}{title}; {count(int(row['num_pairs']), 'pair')})"
        )
    return f"{words}. Largest mean in percentage points: {'; '.join(largest)}."


def _within(pairs: pd.DataFrame | None, precision: str) -> str:
    if pairs is None:
        return ""
    means = pairs.loc[pairs["precision"] == precision, "difference_mean"].abs().dropna()
    if not len(means):
        return ""
    most = 100 * means.max()
    return f", with mean accuracies at most {most:.2f} percentage points from those of beta = 0"


def _num_lost(part: pd.DataFrame) -> int:
    return int(sum(part[f"num_{kind}"].sum() for kind in _LOST))


def _kinds(part: pd.DataFrame) -> str:
    numbers = {word: int(part[f"num_{kind}"].sum()) for kind, word in _LOST.items()}
    return listed([f"{number} {word}" for word, number in numbers.items() if number])


def _first_lost(part: pd.DataFrame) -> str:
    lost = part[part[[f"num_{kind}" for kind in _LOST]].sum(axis=1) > 0]
    return beta_words(rules(lost)[0])


def _span(numbers: pd.Series) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return count(low, "run") if low == high else f"{low} to {high} runs"
