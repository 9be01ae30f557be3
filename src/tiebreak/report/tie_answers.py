"""Sentences about ties without a training: programs that compute 0, tied windows of images, the norm pool."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from tiebreak.report.panels import context, groups, precisions, rule
from tiebreak.report.wording import beta_words, count, listed, of_context, percent

_RAW = -1
"""The `pool` of windows of the image itself."""


def zero_program_sentences(zeros: pd.DataFrame) -> Iterator[str]:
    """How often the derivative of a program that computes 0 is not 0, as published and at most.

    Args:
        zeros: table `zero_programs`, a row a program, choice of entries and t.
    """
    wrong = zeros[zeros["derivative"] != 0]
    clauses = [
        f"{(wrong['entries'] == name).sum()} of {(zeros['entries'] == name).sum()} with {name} entries"
        for name in dict.fromkeys(zeros["entries"])
    ]
    times = sorted({float(time) for time in wrong.loc[wrong["entries"] == "distinct", "t"]})
    where = f" (at t = {listed([f'{time:g}' for time in times])})" if times else ""
    yield (
        f"Programs that compute 0 returned 0 in {(zeros['value'] == 0).sum()} of "
        f"{count(len(zeros), 'evaluation')}; their derivative is 0 over the reals and came out "
        f"otherwise in {len(wrong)}: {listed(clauses)}{where}."
    )
    published = zeros[(zeros["program"] == "max") & (zeros["entries"] == "equal")]
    if len(published):
        words = [f"{name} {_span(part['derivative'])}" for name, part in _by_precision(published)]
        yield f"Derivative of the published program, max minus max of equal entries: {'; '.join(words)}."
    sizes = zeros["derivative"].abs()
    if (most := sizes.max()) > 0:
        largest = zeros[sizes == most]
        first = largest.assign(jacobian=largest["jacobian"].fillna("")).iloc[0]
        label = f" with {beta_words(rule(largest).iloc[0])}" if first["jacobian"] else ""
        yield (
            f"The largest of all in size is {most:g}, in {listed(precisions(largest))}: program "
            f"{first['program']}{label}, {first['entries']} entries, t = {first['t']:g}."
        )


def tie_map_sentences(images: pd.DataFrame, windows: pd.DataFrame | None) -> Iterator[str]:
    """Tied windows an image: of the image itself, and of the pools of the network it is fed to.

    Args:
        images: table `images`, a row an image and init.
        windows: table `tied_windows`, a row a window that is tied in a channel; None if none is.
    """
    images = images.assign(context=context(images))
    tied = windows if windows is not None else pd.DataFrame(columns=["cell", "pool"])
    for (title,), part in groups(images, "context"):
        words = []
        for name, here in _by_precision(part):
            mine = tied[tied["cell"].isin(here["cell"]) & (tied["pool"] != _RAW)]
            words.append(f"{name} {_each(mine, 'tied', here)} ({_each(mine, 'tied_above_zero', here)})")
        first = part[part["precision"] == precisions(part)[0]]
        raw = tied[tied["cell"].isin(first["cell"]) & (tied["pool"] == _RAW)]
        total = int((first["channels"] * (first["height"] // 2) * (first["width"] // 2)).sum())
        share = percent(raw["tied"].sum() / total) if len(raw) else "0 %"
        yield (
            f"Tied windows an image{of_context(title)}, all pools and channels of the untrained network, and "
            f"in brackets those tied above 0: {'; '.join(words)} (mean over "
            f"{count(first['image'].nunique(), 'image')} and {count(first['replicate'].nunique(), 'init')}). "
            f"Of the windows of the images themselves {share} are tied."
        )


def norm_pool_sentences(gaps: pd.DataFrame) -> Iterator[str]:
    """How many draws the derivative of the norm at windows of zeros changes, and by how much.

    Args:
        gaps: table `norm_gaps`, a row a draw.
    """
    gaps = gaps.assign(context=context(gaps))
    words = []
    for (title,), part in groups(gaps, "context"):
        for name, here in _by_precision(part):
            is_bad = here["nonfinite"].astype(bool)
            changed = here[~is_bad & (here["gap_sup_sum"].astype(float) != 0)]
            text = f"{name}{of_context(title)} {len(changed)} of {len(here)}"
            if len(changed):
                text += f", by {changed['gap_relative'].max():.2g} of the gradient at most (L2)"
            words.append(text + (f", {is_bad.sum()} not finite" if is_bad.any() else ""))
    values = listed([f"{value:g}" for value in sorted(set(gaps["gradient_at_zero"].astype(float)))])
    zeros = percent(gaps["zero_windows"].sum() / gaps["windows"].sum())
    yield (
        f"Norm pool: derivative {values} at windows of zeros, {zeros} of all windows, instead of 0 "
        f"changed the gradient in these draws: {'; '.join(words)} ({_inits(gaps)} a cell)."
    )


def _by_precision(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in precisions(table):
        yield name, table[table["precision"] == name]


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _each(windows: pd.DataFrame, column: str, images: pd.DataFrame) -> str:
    return f"{windows[column].sum() / len(images) if len(windows) else 0.0:.1f}"


def _inits(table: pd.DataFrame) -> str:
    numbers = table.groupby("cell")["replicate"].nunique()
    low, high = int(numbers.min()), int(numbers.max())
    return count(low, "init") if low == high else f"{low} to {high} inits"
