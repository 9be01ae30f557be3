"""Piecewise-linear functions of one variable, what AD takes for their derivative at kinks, and tie rules."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise

from tiebreak.conventions import measure_conventions
from tiebreak.design.axes import UserError


@dataclass(frozen=True, kw_only=True)
class PiecewiseLinear:
    """A continuous function that is linear between kinks.

    Piece i lies between kink i - 1 and kink i, and is slopes[i] x + intercepts[i].

    Args:
        name: as in a formula.
        kinks: in increasing order; only points where the slope changes.
        slopes: one more than kinks.
        intercepts: as many as slopes.

    Raises:
        UserError: numbers of kinks and pieces that do not fit, a jump, or a kink without a change of slope.
    """

    name: str
    kinks: tuple[Fraction, ...]
    slopes: tuple[Fraction, ...]
    intercepts: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        fits = len(self.slopes) == len(self.intercepts) == len(self.kinks) + 1
        if not fits or list(self.kinks) != sorted(set(self.kinks)):
            raise UserError(f"{self.name} needs increasing kinks and one piece more than kinks.")
        for index, kink in enumerate(self.kinks):
            left, right = (self.slopes[i] * kink + self.intercepts[i] for i in (index, index + 1))
            if left != right or self.slopes[index] == self.slopes[index + 1]:
                raise UserError(f"{self.name} must be continuous and must have a kink at {kink}.")

    def __call__(self, x: Fraction) -> Fraction:
        """The value at a rational."""
        piece = bisect_left(self.kinks, x)
        return self.slopes[piece] * x + self.intercepts[piece]

    def is_kink(self, x: Fraction) -> bool:
        """Whether the function is not differentiable there."""
        return x in self.kinks

    def sides(self, x: Fraction) -> tuple[Fraction, Fraction]:
        """The one-sided derivatives (left, right)."""
        return self.slopes[bisect_left(self.kinks, x)], self.slopes[bisect_right(self.kinks, x)]

    def edges_of_zero(self) -> frozenset[Fraction]:
        """The boundary of the set where the function is 0."""
        ends: set[Fraction] = set()
        for index, (slope, intercept) in enumerate(zip(self.slopes, self.intercepts, strict=True)):
            low = self.kinks[index - 1] if index else None
            high = self.kinks[index] if index < len(self.kinks) else None
            if slope:
                root = -intercept / slope
                if (low is None or low <= root) and (high is None or root <= high):
                    ends.add(root)
            elif not intercept:
                ends |= {end for end in (low, high) if end is not None}
        return frozenset(end for end in ends if any(self(end + step) for step in self._beside(end)))

    def _beside(self, x: Fraction) -> tuple[Fraction, Fraction]:
        """Steps to either side that pass no kink."""
        gaps = [abs(kink - x) for kink in self.kinks if kink != x]
        near = min(gaps, default=Fraction(1)) / 2
        return -near, near


def piecewise_linear(
    name: str, *, kinks: Iterable[int | Fraction], slopes: Iterable[int | Fraction], value: int | Fraction
) -> PiecewiseLinear:
    """The function with these slopes.

    Args:
        name: as in a formula.
        kinks: in increasing order; none for a linear function.
        slopes: from the left, one more than kinks.
        value: at the first kink, or at 0 where there is none.

    Example:
        >>> piecewise_linear("abs", kinks=[0], slopes=[-1, 1], value=0)(Fraction(-3))
        Fraction(3, 1)
    """
    at, steps = [Fraction(kink) for kink in kinks], [Fraction(slope) for slope in slopes]
    intercepts = [Fraction(value) - steps[0] * (at[0] if at else 0)]
    for kink, (left, right) in zip(at, pairwise(steps), strict=False):  # a misfit is told by the class
        intercepts.append(intercepts[-1] + (left - right) * kink)
    return PiecewiseLinear(name=name, kinks=tuple(at), slopes=tuple(steps), intercepts=tuple(intercepts))


IDENTITY = piecewise_linear("id", kinks=(), slopes=(1,), value=0)
"""x, as an activation: a neuron without a kink."""

RELU = piecewise_linear("relu", kinks=(0,), slopes=(0, 1), value=0)
"""max(x, 0)."""

LEAKY_RELU = piecewise_linear("leaky_relu", kinks=(0,), slopes=(Fraction(1, 4), 1), value=0)
"""Leaky ReLU with slope 1/4, exact in binary."""

ABS = piecewise_linear("abs", kinks=(0,), slopes=(-1, 1), value=0)
"""|x|."""

RELU6 = piecewise_linear("relu6", kinks=(0, 6), slopes=(0, 1, 0), value=0)
"""min(max(x, 0), 6)."""

HARDTANH = piecewise_linear("hardtanh", kinks=(-1, 1), slopes=(0, 1, 0), value=-1)
"""min(max(x, -1), 1)."""

HARDSIGMOID = piecewise_linear("hardsigmoid", kinks=(-3, 3), slopes=(0, Fraction(1, 6), 0), value=0)
"""min(max(x/6 + 1/2, 0), 1); its slope is not exact in binary."""

SOFTSHRINK = piecewise_linear(
    "softshrink", kinks=(-Fraction(1, 2), Fraction(1, 2)), slopes=(1, 0, 1), value=0
)
"""x moved towards 0 by 1/2."""


def stair(kinks: Iterable[int | Fraction]) -> PiecewiseLinear:
    """The sum of relu(x - kink) over kinks: each kink raises the slope by one.

    Args:
        kinks: different numbers.
    """
    at = sorted(set(kinks))
    return piecewise_linear("stair", kinks=at, slopes=range(len(at) + 1), value=0)


class Side(StrEnum):
    """A one-sided derivative as what AD takes at a kink."""

    LEFT = "left"
    RIGHT = "right"


class Ties(StrEnum):
    """Where a maximum sends its derivative when several arguments attain it."""

    FIRST = "first"
    LAST = "last"
    SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Derivatives at kinks as a program gave them.

    Args:
        table: (name of the function, derivative at each of its kinks).
    """

    table: tuple[tuple[str, tuple[Fraction, ...]], ...]

    def __str__(self) -> str:
        return "torch"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What AD does where a function has no derivative.

    Args:
        proxy: at a kink: one number for all, the left or right derivative, or measured ones.
        ties: at a maximum that is attained several times.
    """

    proxy: Fraction | Side | Measured = Fraction(0)
    ties: Ties = Ties.FIRST

    def at_kinks(self, function: PiecewiseLinear) -> tuple[Fraction, ...]:
        """What AD takes for the derivative at each kink of the function.

        Raises:
            UserError: measured rules that do not know the function.
        """
        if self.proxy is Side.LEFT:
            return function.slopes[:-1]
        if self.proxy is Side.RIGHT:
            return function.slopes[1:]
        if isinstance(self.proxy, Measured):
            if not function.kinks:
                return ()
            for name, derivatives in self.proxy.table:
                if name == function.name:
                    return derivatives
            raise UserError(
                f"torch's derivatives of {function.name} were not measured. Give it to torch_rules(...)."
            )
        return (Fraction(self.proxy),) * len(function.kinks)

    def __str__(self) -> str:
        return f"{self.proxy}, {self.ties}"


_OPERATIONS = ("relu", "relu6", "leaky_relu", "hardtanh", "hardsigmoid", "softshrink", "abs")


def torch_rules() -> Rules:
    """What the torch at hand does in float64 on the CPU: activations at their kinks, `max_pool1d` at ties.

    Measured by backward passes each time it is called (`tiebreak.conventions`), about a second.

    Raises:
        UserError: a torch whose answer is no one number or rule.

    Example:
        >>> torch_rules().at_kinks(RELU)
        (Fraction(0, 1),)
    """
    names = {RELU, RELU6, LEAKY_RELU, HARDTANH, HARDSIGMOID, SOFTSHRINK, ABS}
    found = measure_conventions(dtypes=("float64",), operations=(*_OPERATIONS, "max_pool1d"))
    answers = {(answer.operation, answer.at): answer.gradient for answer in found}

    def at(function: PiecewiseLinear, kink: Fraction) -> Fraction:
        text = answers[function.name, f"x = {kink}"]
        try:
            return Fraction(text.partition(",")[0])
        except ValueError:
            raise UserError(
                f"torch has no one derivative of {function.name} at {kink} here: {text}. Name a proxy."
            ) from None

    table = tuple(
        (function.name, tuple(at(function, kink) for kink in function.kinks))
        for function in sorted(names, key=lambda function: function.name)
    )
    tie = answers["max_pool1d", "tie"]
    if tie not in (Ties.FIRST, Ties.LAST):
        raise UserError(f"this torch's max_pool1d follows no rule that is studied here: {tie}.")
    return Rules(proxy=Measured(table=table), ties=Ties(tie))
