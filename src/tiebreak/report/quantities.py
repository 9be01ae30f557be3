"""Published quantities in print: in which unit, with how many digits, and what their n counts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_LEAST_PERCENT = 0.1
"""Below this two decimals of a percentage hold one digit or none; such numbers are given two digits."""

_MOST_WHOLE = 1e9
"""Whole numbers below this are printed digit by digit."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit and how a number is printed in it.

    Args:
        words: its name.
        is_share: the number is a share, or a difference of shares, and is printed times 100.
        suffix: what follows a number.
    """

    words: str
    is_share: bool = False
    suffix: str = ""

    def digits(self, value: float) -> str:
        """The number alone; "none" for NaN. Only 0 itself is printed as 0.

        Example:
            >>> PERCENT.digits(0.99154), PERCENT.digits(0.00024), Unit(words="1").digits(0.0018959)
            ('99.15', '0.024', '0.001896')
        """
        if math.isnan(value):
            return "none"
        if value == 0 or math.isinf(value):
            return f"{value:g}"
        if self.is_share and value == 1:
            return "100"
        if self.is_share:
            percent = 100 * value
            return f"{percent:.2f}" if abs(percent) >= _LEAST_PERCENT else f"{percent:.2g}"
        is_whole = float(value).is_integer() and abs(value) < _MOST_WHOLE
        return f"{value:.0f}" if is_whole else f"{value:.4g}"

    def text(self, value: float, *, low: float = math.nan, high: float = math.nan) -> str:
        """The number with its unit and, where there is one, its interval.

        Example:
            >>> PERCENT.text(0.9887, low=0.98, high=0.99)
            '98.87 % (98.00 to 99.00 %)'
        """
        if math.isnan(value):
            return self.digits(value)
        interval = "" if math.isnan(low) else f" ({self.digits(low)} to {self.digits(high)}{self.suffix})"
        return f"{self.digits(value)}{self.suffix}{interval}"


PERCENT = Unit(words="%", is_share=True, suffix=" %")
POINTS = Unit(words="points", is_share=True, suffix=" points")

_DIFFERENCE = re.compile(r"\bminus that\b|standard deviation")

_COUNTED = (
    (r"^share of (mini-batches|gaps)", "mini-batch", "init"),
    (r"^gap between", "mini-batch", "init"),
    (r"^(range of the share|first gap|share of windows)", "init", "init"),
    (r"^largest Welch", "configuration", "configuration"),
    (r"^best learning rate|of the best candidate", "search", "search"),
    (r"^norm of the Jacobian", "formula", "formula"),
)
"""What n counts, published and here, by the name of the quantity; the first that fits, else runs."""


def unit_of(quantity: str, unit: str) -> Unit:
    """The unit in which a published quantity is printed.

    Args:
        quantity: its name.
        unit: as the file of published numbers has it. Its shares are percentages, differences of them
            percentage points; an error or a gap relative to a size is a ratio, which may pass 1.

    Example:
        >>> unit_of("mean accuracy minus that of beta=0", "share").words
        'points'
        >>> unit_of("relative gap between beta 0 and 1 (l2)", "share").words
        '1'
    """
    if unit != "share":
        return Unit(words=unit)
    if "relative" in quantity:
        return Unit(words="1")
    return POINTS if _DIFFERENCE.search(quantity) else PERCENT


def counted(quantity: str, published: float, ours: float) -> tuple[str, str]:
    """What was published and what was run here, as a number of something; a dash where there is none.

    Example:
        >>> counted("share of mini-batches with a gap above the threshold", 391.0, 20)
        ('391 mini-batches', '20 inits')
        >>> counted("final test accuracy, mean over runs", 10.0, 0)
        ('10 runs', '–')
    """
    fits = (nouns for pattern, *nouns in _COUNTED if re.search(pattern, quantity))
    theirs, mine = next(fits, ["run", "run"])
    return _count(published, theirs), _count(ours, mine)


def _count(number: float, noun: str) -> str:
    if math.isnan(number) or not number:
        return "–"
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{int(number)} {noun if number == 1 else plural}"
