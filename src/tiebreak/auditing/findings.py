"""What an audit finds, as plain values: what is written as text, JSON and HTML is read off here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from tiebreak.design.axes import Precision
from tiebreak.exact.certificate import Evidence, Label, PoolTruth
from tiebreak.numerics.gap import nan_first


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a pool is called.

    Attributes:
        module: path of the module whose code calls it; empty for the network itself.
        file: the file of the calling line, as short as it is clear; None where only torch's layers call.
        line: its number, or None.
        call: which of the calls from there, from 1, where there are several.
    """

    module: str
    file: str | None = None
    line: int | None = None
    call: int | None = None

    def __str__(self) -> str:
        return self._place() if self.call is None else f"{self._place()}, call {self.call}"

    def _place(self) -> str:
        if self.file is None:
            return self.module or "the network itself"
        return f"{self.module} ({self.file}:{self.line})" if self.module else f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One call of a max pool, and what its rule alone does to the gradient.

    Attributes:
        where: module, file and line.
        kernel: rows and columns of a window.
        stride: pixels from a window to the next.
        windows: all windows of the batch.
        tied: windows with several maxima in floating point.
        tied_at_zero: of these, those whose maximum is 0.
        tied_above_zero: those whose maximum is above 0.
        tied_below_zero: those whose maximum is below 0.
        live: ties through which a gradient may pass: not those at the 0 of a ReLU. An upper bound.
        margin_median_ulps: median distance from the maximum to the next smaller entry, in units in the last
            place, over the windows that have one; None without such a window.
        margin_min_ulps: the smallest such distance.
        own_gap: gap relative to the gradient's norm when the rule is switched in this call alone; None where
            it was not measured.
        truth: the same windows over the reals, where the network is certifiable.
    """

    where: Location
    kernel: tuple[int, int]
    stride: tuple[int, int]
    windows: int
    tied: int
    tied_at_zero: int
    tied_above_zero: int
    tied_below_zero: int
    live: int
    margin_median_ulps: float | None
    margin_min_ulps: float | None
    own_gap: float | None = None
    truth: PoolTruth | None = None


@dataclass(frozen=True, kw_only=True)
class RuleGap:
    """How far the gradient of one rule at ties is from that of PyTorch's rule.

    Attributes:
        rule: its label.
        sums_to_one: whether it shares a window's gradient out. One that does not, `all_ones`, counts a tie
            several times and is no derivative; no verdict rests on it.
        relative: Euclidean norm of the difference over that of the gradient.
        sup: largest absolute difference of all entries.
        most: name of the parameter with the largest absolute difference; None where there is none.
        label: the certified label; None where the network, or the rule, cannot be certified.
        num_nonzero: entries of the exact difference that are not 0, a parameter; empty without a certificate.
    """

    rule: str
    sums_to_one: bool
    relative: float
    sup: float
    most: str | None
    label: Label | None
    num_nonzero: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """How far the gradient of one and the same rule strays when it is computed again.

    Attributes:
        condition: what was done again, or otherwise.
        relative: as in `RuleGap`.
    """

    condition: str
    relative: float


@dataclass(frozen=True, kw_only=True)
class Section:
    """One precision.

    Attributes:
        precision: of parameters, inputs and arithmetic.
        unit_roundoff: of the arithmetic.
        loss: the value of the loss.
        gradient_norm: Euclidean norm of the gradient with PyTorch's rule.
        nonfinite: where an infinity or NaN stands, or None.
        rules: every rule beside PyTorch's.
        repeats: the non-determinism floor.
        layers: pools in the order in which they ran.
        switched: the rule that was switched in one layer at a time.
        evidence: on what the labels rest; None without a certificate.
        reason: why there is no certificate, `not certifiable, because ...` or, for want of memory or time,
            `not certified, because ...`; or why it decides nothing.
        remarks: what a reader must know of how this was measured.
        verdict: one sentence.
        advice: what to try.
    """

    precision: Precision
    unit_roundoff: float
    loss: float
    gradient_norm: float
    nonfinite: str | None
    rules: tuple[RuleGap, ...]
    repeats: tuple[Repeat, ...]
    layers: tuple[Layer, ...]
    switched: str | None
    evidence: Evidence | None
    reason: str | None
    remarks: tuple[str, ...] = ()
    verdict: str = ""
    advice: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[RuleGap, ...]:
        """The rules that share a window's gradient out: what a program may choose among."""
        return tuple(rule for rule in self.rules if rule.sums_to_one)

    @property
    def widest(self) -> RuleGap:
        """The choice that is furthest from PyTorch's rule."""
        return max(self.choices, key=lambda rule: nan_first(rule.relative))

    @property
    def floor(self) -> float:
        """How far the gradient strays by itself, at most."""
        return max((nan_first(repeat.relative) for repeat in self.repeats), default=0.0)

    @property
    def label(self) -> Label | None:
        """The gravest label of the choices; None without a certificate."""
        return max((rule.label for rule in self.choices if rule.label), key=_GRAVITY.index, default=None)

    @property
    def culprit(self) -> Layer | None:
        """The layer whose rule alone moves the gradient most; None where none moves it."""
        moving = [layer for layer in self.layers if layer.own_gap]
        return max(moving, key=lambda layer: nan_first(layer.own_gap or 0.0), default=None)


_GRAVITY = (
    Label.REGULAR,
    Label.COMPENSATION,
    Label.UNDECIDED,
    Label.MASKED_BIFURCATION,
    Label.BIFURCATION,
    Label.NONFINITE,
)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found of a network, one section a precision.

    Attributes:
        network: name of its class.
        mode: `training` or `evaluation`.
        num_parameters: numbers that ask for a derivative.
        batch: shape of the images.
        loss: what was differentiated, in words.
        device: where.
        torch: its version.
        share_flat: share of the images' 3x3 neighbourhoods that are constant; None where they have none.
        left: pools that are not handled, each in words.
        sections: one a precision, in the order asked for.
    """

    network: str
    mode: str
    num_parameters: int
    batch: tuple[int, ...]
    loss: str
    device: str
    torch: str
    share_flat: float | None
    left: tuple[str, ...]
    sections: tuple[Section, ...]

    def to_json(self) -> str:
        """Everything, as JSON; an infinity or NaN is spelled out."""
        return json.dumps(_plain(self), indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """For a terminal."""
        from tiebreak.auditing.text import text_of

        return text_of(self)

    def to_html(self) -> str:
        """One page that opens offline."""
        from tiebreak.auditing.page import page_of

        return page_of(self)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        plain = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
        return plain | ({"label": _plain(value.label)} if isinstance(value, Section) else {})
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)
