"""What the numbers of a section say, in one sentence, and what to try."""

from __future__ import annotations

import math
from dataclasses import replace

from tiebreak.auditing.findings import Layer, Section
from tiebreak.design.axes import Precision
from tiebreak.exact.certificate import Label
from tiebreak.report.wording import count, percent

_FLAT = 0.01
"""Share of flat neighbourhoods from which dithering is worth a try."""


def concluded(section: Section, *, can_settle: bool, share_flat: float | None) -> Section:
    """The section with its verdict and advice.

    Args:
        section: what was measured and certified.
        can_settle: whether evaluation mode changes what a layer does: dropout and batch norm.
        share_flat: share of the images' neighbourhoods that are constant, if known.
    """
    return replace(
        section,
        verdict=_verdict(section),
        advice=_advice(section, can_settle=can_settle, share_flat=share_flat),
    )


def _verdict(section: Section) -> str:
    if section.nonfinite is not None:
        return f"No gradient to compare: an infinity or a NaN stands in {section.nonfinite}."
    if section.evidence is not None and section.evidence.vacuous:
        return "Nothing is said: the derivative of the loss is 0 for every image, whatever the rule at ties."
    label, gap = section.label, number(section.widest.relative)
    if label is Label.REGULAR:
        return (
            "The rule at ties does not matter: every choice gives the same gradient, bit for bit here and "
            f"over the reals ({_certified(section)}). {_ties(section)}"
        )
    if label is Label.COMPENSATION:
        return (
            f"Rounding alone: the choices at ties differ by at most {gap} of the gradient's norm, and over "
            f"the reals they are equal ({_certified(section)}).{_cause(section)}"
        )
    if label is Label.BIFURCATION:
        entries = max(sum(rule.num_nonzero.values()) for rule in section.choices)
        return (
            "The gradient depends on the rule at ties, over the reals and not by rounding: choices differ "
            f"by up to {gap} of the gradient's norm, in {entries:,} of its entries "
            f"({_certified(section)}).{_cause(section)}"
        )
    if label is Label.MASKED_BIFURCATION:
        return (
            "The gradient depends on the rule at ties over the reals, although floating point shows no "
            f"difference ({_certified(section)})."
        )
    if section.widest.relative == 0:
        same = "Every choice at ties gives the same gradient here, bit for bit."
        return f"{same} {_ties(section)}{_unknown(section)}"
    return (
        f"The choices at ties differ by up to {gap} of the gradient's norm, "
        f"{_beside(section)}.{_cause(section)}{_unknown(section)}"
    )


def _certified(section: Section) -> str:
    assert section.evidence is not None
    sure = section.evidence.log2_error
    if sure == -math.inf:
        return "certified: proved"
    return f"certified, wrong with a probability of at most 2^{math.ceil(sure)}"


def _ties(section: Section) -> str:
    windows, tied = (sum(getattr(layer, name) for layer in section.layers) for name in ("windows", "tied"))
    live = sum(layer.live for layer in section.layers)
    if not tied:
        return f"None of the {windows:,} windows is tied."
    many = f"{tied:,} of {windows:,} windows are tied"
    if not live:
        return f"{many}, all of them at the 0 of a ReLU, where no gradient passes."
    return f"{many}, {live:,} of them where a gradient may pass."


def _cause(section: Section) -> str:
    layer = section.culprit
    if layer is None:
        return ""
    moving = sum(1 for other in section.layers if other.own_gap)
    if moving == 1:
        return f" One layer causes it: {layer.where}."
    return f" Of {moving} layers that take part, {layer.where} moves it most ({number(layer.own_gap)} alone)."


def _beside(section: Section) -> str:
    if section.floor == 0:
        return "where PyTorch's rule run again gives the same bits"
    most = next(repeat for repeat in section.repeats if not repeat.relative < section.floor)
    return f"where PyTorch's rule run again strays by up to {number(section.floor)} ({most.condition})"


def _unknown(section: Section) -> str:
    if section.label is Label.UNDECIDED:
        return " Whether they differ over the reals is undecided."
    if section.reason is None or not section.reason.startswith("not certif"):
        return " Whether they differ over the reals was not asked."
    return " Whether they differ over the reals is not known."


def _advice(section: Section, *, can_settle: bool, share_flat: float | None) -> tuple[str, ...]:
    if section.nonfinite is not None:
        if section.precision.storage == "float16" or section.precision is Precision.AMP16:
            return ("Use bf16 or fp32, or scale the loss (or the images) down: fp16 ends at 65504.",)
        return ("Look for the first operation that overflows or divides by 0 before asking about ties.",)
    advice = []
    differs = section.label in (Label.BIFURCATION, Label.MASKED_BIFURCATION)
    if differs:
        advice.append(
            "Choose the derivative instead of leaving it to the order in memory: "
            "tiebreak.rewrite_pools(model, jacobian=tiebreak.MINIMAL) gives a copy whose pools share a "
            "window's gradient equally among its maxima, the element of smallest norm."
        )
    elif section.label in (None, Label.UNDECIDED) and section.widest.relative > max(
        section.floor, 64 * section.unit_roundoff
    ):
        advice.append(
            "Audit in fp64 too (--precision fp64): a gap that shrinks with the unit roundoff is rounding, "
            "one that stays comes from the rule. If it stays, tiebreak.rewrite_pools(model, "
            "jacobian=tiebreak.MINIMAL) makes the derivative independent of the order in memory."
        )
    rounded = [layer for layer in section.layers if layer.own_gap and _by_rounding(layer)]
    if rounded and not differs and section.precision is not Precision.FP64:
        worst = max(rounded, key=_by_rounding)
        advice.append(
            f"Compute {worst.where.module or 'that layer'} and what feeds it in a wider format than "
            f"{section.precision}: {count(_by_rounding(worst), 'window')} there "
            f"{'is' if _by_rounding(worst) == 1 else 'are'} tied by rounding alone."
        )
    live = any(layer.live for layer in section.layers)
    if live and not differs and share_flat is not None and share_flat > _FLAT:  # equal patches never differ
        advice.append(
            f"{percent(share_flat)} of the images' 3x3 neighbourhoods are flat, and equal patches tie under "
            "any weights: dither the images (noise below one grey level) to see which ties that removes."
        )
    is_open = section.label is Label.UNDECIDED or (section.reason or "").startswith("not certifiable")
    if can_settle and is_open:
        advice.append(
            "Audit it in evaluation mode (--eval, or model.eval()) too: that can often be certified."
        )
    return tuple(advice) or ("Nothing needs to be done.",)


def _by_rounding(layer: Layer) -> int:
    return layer.truth.tied_only_by_rounding if layer.truth is not None else 0


def number(value: float | None) -> str:
    """Two digits, as a sentence holds them.

    Example:
        >>> number(3.14159e-5), number(0.0), number(None)
        ('3.1e-05', '0', '–')
    """
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.2g}" if 1e-2 <= abs(value) < 100 else f"{value:.1e}"
