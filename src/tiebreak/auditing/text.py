"""An audit for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from tiebreak.auditing.findings import Audit, Layer, RuleGap, Section
from tiebreak.auditing.verdict import number
from tiebreak.exact.certificate import Label

_WIDTH = 110


def text_of(audit: Audit) -> str:
    """The whole audit as plain text.

    Args:
        audit: what was found.
    """
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Audit) -> Iterator[str]:
    yield (
        f"{audit.network}: {audit.num_parameters:,} parameters, {audit.mode} mode, images "
        f"{' x '.join(map(str, audit.batch))}, loss: {audit.loss}; {audit.device}, torch {audit.torch}"
    )
    for sentence in audit.left:
        yield from _wrapped(f"Not handled: {sentence}")
    for section in audit.sections:
        yield ""
        yield f"== {section.precision} ".ljust(_WIDTH, "=")
        yield from _section_lines(section)


def _section_lines(section: Section) -> Iterator[str]:
    yield from _wrapped(section.verdict)
    for sentence in section.advice:
        yield from _wrapped(sentence, first="  try: " if section.nonfinite or _is_work(section) else "  ")
    for sentence in section.remarks:
        yield from _wrapped(sentence, first="  note: ")
    yield ""
    yield from _aligned([RULE_COLUMNS, *rule_rows(section)], left=1)
    if not all(rule.sums_to_one for rule in section.rules):
        yield f"  {ALL_ONES}"
    yield ""
    yield from _aligned([LAYER_COLUMNS, *map(layer_row, section.layers)], left=1)
    yield from _wrapped(LAYERS.format(rule=section.switched or "of the table"), first="  ")
    yield from _wrapped(evidence_of(section), first="  ")


def _is_work(section: Section) -> bool:
    return not section.advice[0].startswith("Nothing")


RULE_COLUMNS = (
    "rule at ties",
    "gap / norm",
    "largest entry",
    "in parameter",
    "over the reals",
    "entries",
)
ALL_ONES = "all_ones counts a tie several times: it is no derivative, and no verdict rests on it."
LAYERS = (
    "live: tied where a gradient may pass, at most; over reals: tied as exact numbers; by rounding: tied "
    "here and "
    "not over the reals; missed: the other way round; ulps, least: from the maximum to the next smaller "
    "entry, "
    "median and minimum, in units in the last place; own gap: how far the gradient moves, as a share of its "
    "norm, when the rule {rule} is switched on in that layer alone."
)


def rule_rows(section: Section) -> list[tuple[str, ...]]:
    """The rules beside PyTorch's, then the same rule run again, as the columns of `RULE_COLUMNS`.

    Args:
        section: one precision.
    """
    rows = [
        (
            rule.rule,
            number(rule.relative),
            number(rule.sup),
            rule.most or "–",
            _over_the_reals(rule),
            f"{sum(rule.num_nonzero.values()):,}" if rule.label else "–",
        )
        for rule in section.rules
    ]
    floor = [
        (f"native, {repeat.condition}", number(repeat.relative), "", "", "", "") for repeat in section.repeats
    ]
    return rows + floor


def _over_the_reals(rule: RuleGap) -> str:
    """The label, or for what is no derivative only whether it differs."""
    if rule.label is None:
        return "not known"
    if rule.sums_to_one or rule.label in (Label.NONFINITE, Label.UNDECIDED):
        return str(rule.label).replace("_", " ")
    return "equal" if rule.label in (Label.REGULAR, Label.COMPENSATION) else "different"


LAYER_COLUMNS = (
    "pool",
    "windows",
    "tied",
    "at 0",
    "above",
    "below",
    "live",
    "over reals",
    "by rounding",
    "missed",
    "ulps",
    "least",
    "own gap",
    "called at",
)


def layer_row(layer: Layer) -> tuple[str, ...]:
    """One layer, as the columns of `LAYER_COLUMNS`.

    Args:
        layer: a call of a pool.
    """
    truth = layer.truth
    counts = (layer.windows, layer.tied, layer.tied_at_zero, layer.tied_above_zero, layer.tied_below_zero)
    return (
        (layer.where.module or "(network)")
        + ("" if layer.where.call is None else f", call {layer.where.call}"),
        *(f"{number:,}" for number in (*counts, layer.live)),
        *(("–",) * 3 if truth is None else map(_grouped, truth_of(layer))),
        *(_ulps(margin) for margin in (layer.margin_median_ulps, layer.margin_min_ulps)),
        number(layer.own_gap),
        "–" if layer.where.file is None else f"{layer.where.file}:{layer.where.line}",
    )


def truth_of(layer: Layer) -> tuple[int, int, int]:
    """Windows tied over the reals, tied only by rounding, and tied over the reals only.

    Args:
        layer: one with a truth.
    """
    assert layer.truth is not None
    return layer.truth.tied, layer.truth.tied_only_by_rounding, layer.truth.missed_by_rounding


def _grouped(value: int) -> str:
    return f"{value:,}"


def _ulps(margin: float | None) -> str:
    if margin is None:
        return "–"
    return f"{margin:,.0f}" if margin < 1e6 else f"{margin:.1e}"


def evidence_of(section: Section) -> str:
    """On what the certified labels rest, or why there are none; one sentence or two.

    Args:
        section: one precision.
    """
    reason = section.reason or ""
    if section.evidence is None:
        if not reason.startswith("not certif"):  # certifiable, or certified for want of memory or time
            return "Not certified: not asked."
        return reason[0].upper() + reason[1:]
    if reason:
        return f"Undecided over the reals: {reason.rstrip('.')}."
    evidence = section.evidence
    primes = (
        f"{len(evidence.primes)} primes drawn from seed {evidence.seed}"
        if evidence.primes
        else "no primes needed"
    )
    return (
        f"Certified for the derivative of the loss at this output, taken as exact numbers: {evidence.mode} "
        f"mode, {primes}, {evidence.num_equalities:,} equalities, {evidence.num_escalated:,} escalated."
    )


def _wrapped(sentence: str, *, first: str = "") -> list[str]:
    return textwrap.wrap(
        sentence,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _aligned(rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Columns side by side: the first `left` and words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [
        place < left or any(cell[:1].isalpha() for cell in column[1:])
        for place, column in enumerate(zip(*rows, strict=True))
    ]
    for row in rows:
        cells = [
            cell.ljust(width) if is_word else cell.rjust(width)
            for cell, width, is_word in zip(row, widths, words, strict=True)
        ]
        yield f"  {'  '.join(cells)}".rstrip()
