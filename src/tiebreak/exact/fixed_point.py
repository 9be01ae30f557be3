"""Fixed point of any width with a bound on its error: decides what float64 leaves open.

A number is sum over i < n of d_i 2**(top - 20 (i + 1)) with whole digits |d_i| <= 2**20, one `top` a tensor;
so sums of products of digits are exact in float64 (as in `contraction`), and n digits carry 20 n bits. The
worst-case bound of a deep network grows by about five bits a layer, and n is doubled until every sign and
order that is not a tie is certain. Source: ours; the splitting into digits is that of K. Ozaki, T. Ogita,
S. Oishi, S. Rump, Error-free transformations of matrix multiplication, Numerical Algorithms 59, 2012.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.bounds import UNIT, Ball
from tiebreak.exact.dyadic import in_pieces, log2_largest, scaled, take_digit
from tiebreak.exact.evaluation import MOST_KEPT, Numbers, Windows, gather, patches
from tiebreak.exact.graph import Affine, AveragePool2d, Conv2d, Linear, Node

BITS = 20
FIRST_DIGITS, MOST_DIGITS = 4, 512
MOST_AT_ONCE = 2**20
"""Weights of a layer that are split into digits together."""

Product = Callable[[Tensor, Tensor], Tensor]
Split = Callable[[Tensor, Tensor], list[Tensor]]
_RADIX = 2.0**BITS
_MUCH = 2.0**1000
_GROWTH = 1 + 2.0**-20
"""Covers every rounding of a bound: each is a sum of fewer than 2**30 positive float64 numbers."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """Real numbers near fixed-point ones.

    Attributes:
        digits: (n, ...) whole numbers of at most 2**20 in size as float64, the most significant first.
        top: the place of digit i is 2**(top - 20 (i + 1)); a multiple of 20.
        error: (...) float64, at most so many units of the last place from the truth.
    """

    digits: Tensor
    top: int
    error: Tensor

    def reshaped(self, shape: tuple[int, ...]) -> Fixed:
        """The same numbers in another shape."""
        return Fixed(self.digits.reshape(len(self.digits), *shape), self.top, self.error.reshape(shape))


class FixedPoint(Numbers[Fixed]):
    """Fixed point with a bound on its error.

    Args:
        width: digits of 20 bits.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._encoded: dict[int, tuple[Tensor, Fixed, Tensor]] = {}

    def batch(self, x: Tensor) -> Fixed:
        """The batch, to the last of `width` digits."""
        return self._encode(x, width=self.width)

    def conv(self, x: Fixed, operation: Conv2d) -> Fixed:
        """Convolution with bias."""
        weight = operation.weight.value
        product = functools.partial(contraction.conv, spec=operation)
        split = functools.partial(_split_conv, spec=operation)
        # A group's channels out are not all channels out, so a weight in groups is not split.
        result = self._contract(
            x, weight, product, split, products=weight[0].numel(), whole=operation.groups > 1
        )
        return self._shifted(result, None if operation.bias is None else operation.bias.value)

    def linear(self, x: Fixed, operation: Linear) -> Fixed:
        """Product with a matrix, with bias."""
        weight = operation.weight.value
        result = self._contract(x, weight, _matrix, _split_matrix, products=weight.shape[1])
        return self._shifted(result, None if operation.bias is None else operation.bias.value)

    def affine(self, x: Fixed, operation: Affine) -> Fixed:
        """Scale and shift a channel."""
        result = self._contract(
            x, operation.scale, torch.mul, _split_scale, products=1, shape=_a_channel(x.error)
        )
        return self._shifted(result, operation.shift)

    def average(self, x: Fixed, operation: AveragePool2d) -> Fixed:
        """Average pool: exact sums, then a long division by whole numbers."""
        rows, columns = operation.rows, operation.columns.t()
        total = self._carried(list(rows @ x.digits @ columns), x.top, (rows @ x.error @ columns) * _GROWTH)
        digits, rest = [], torch.zeros_like(total.error)
        for digit in total.digits:
            part = rest * _RADIX + digit
            quotient = (part / operation.divisor).round_()
            rest = part - quotient * operation.divisor
            digits.append(quotient)
        return self._carried(digits, total.top, (total.error / operation.divisor + 1) * _GROWTH)

    def add(self, first: Fixed, second: Fixed) -> Fixed:
        """Sum."""
        top = max(first.top, second.top)
        one, other = (self._at(value, top) for value in (first, second))
        return self._carried(list(one.digits + other.digits), top, (one.error + other.error) * _GROWTH)

    def concat(self, values: Sequence[Fixed], axis: int) -> Fixed:
        """One after the other."""
        top = max(value.top for value in values)
        moved = [self._at(value, top) for value in values]
        return Fixed(
            torch.cat([value.digits for value in moved], axis + 1),
            top,
            torch.cat([value.error for value in moved], axis),
        )

    def masked(self, x: Fixed, mask: Tensor) -> Fixed:
        """x where the mask is true, exactly 0 elsewhere."""
        return Fixed(x.digits * mask, x.top, x.error.where(mask, 0.0))

    def gathered(self, x: Fixed, windows: Windows) -> Fixed:
        """The chosen entry of each window."""
        return Fixed(gather(x.digits, windows), x.top, gather(x.error, windows))

    def reshaped(self, x: Fixed, shape: tuple[int, ...]) -> Fixed:
        """Another shape."""
        return x.reshaped(shape)

    def centred(self, x: Fixed) -> Ball:
        """The numbers as float64 in units of the last place, with what rounding them costs in the bound."""
        return self._ball(x.digits, x.error)

    def differences(self, x: Fixed, node: Node) -> tuple[Ball, Tensor]:
        """The entries of each window minus the largest, in units of the last place, and which exist.

        Subtracted as digits, so that close numbers lose nothing.
        """
        rough = patches(self.centred(x).value, node, fill=-math.inf)
        exists, error = rough != -math.inf, patches(x.error, node, fill=0.0)
        digits = [patches(digit, node, fill=0.0) for digit in x.digits]
        largest = rough.argmax(0, keepdim=True)
        while True:
            ball = self._ball(torch.stack([digit - digit.gather(0, largest) for digit in digits]), error)
            # float64 may have taken another for the largest; beside that one two larger ones look the same.
            above, larger = ball.value.where(exists, -math.inf).max(0, keepdim=True)
            if not bool((above > 0).any()):
                return ball, exists
            largest = larger.where(above > 0, largest)

    def _ball(self, digits: Tensor, error: Tensor) -> Ball:
        """Horner's rule: exact until 2**53 is passed, and from there on each step rounds relatively.

        A size above `_MUCH` is given as `_MUCH`, and a bound next to that as infinite: a sign and an order
        below the largest number are what is asked, and for these it is as good.
        """
        value = torch.zeros_like(error)
        for digit in digits:
            value = (value * _RADIX + digit).clamp_(-_MUCH, _MUCH)
        radius = (error + 2 * (len(digits) + 1) * UNIT * value.abs()) * _GROWTH
        return Ball(value, radius.where(radius < _MUCH / 2, math.inf))

    def _encode(self, x: Tensor, *, width: int, top: int | None = None) -> Fixed:
        """Digits of float64 numbers, the rest in the bound."""
        top = _round_up(log2_largest(x)) if top is None else top
        digits = x.new_zeros((width, x.numel()))
        error = x.new_zeros(x.numel())
        start = 0
        for piece in in_pieces(x):
            rest, end = piece.clone(), start + len(piece)
            for place in range(width):
                if not bool(rest.any()):
                    break
                digits[place, start:end] = take_digit(rest, place=top - BITS * (place + 1))
            error[start:end] = rest != 0
            start = end
        return Fixed(digits, top, error).reshaped(tuple(x.shape))

    def _constants(self, x: Tensor, *, whole: bool) -> Iterator[tuple[Fixed, Tensor]]:
        """Digits of a tensor of the graph and, scaled to at most 1, its size; a small one computed once.

        A large one comes in parts along its first axis, unless it is asked for as a whole.
        """
        if id(x) in self._encoded:
            yield self._encoded[id(x)][1:]
            return
        top, kept = _round_up(log2_largest(x)), x.numel() <= MOST_KEPT
        rows = len(x) if whole or kept else max(1, MOST_AT_ONCE // x[0].numel())
        for part in x.split(rows):
            fixed = self._encode(part, top=top, width=self.width + 1)
            size = scaled(part.abs(), -top).clamp_(min=2.0**-1000)
            if kept:
                self._encoded[id(x)] = (x, fixed, size)
            yield fixed, size

    def _contract(
        self,
        x: Fixed,
        weight: Tensor,
        product: Product,
        split: Split,
        *,
        products: int,
        shape: tuple[int, ...] | None = None,
        whole: bool = False,
    ) -> Fixed:
        """Sums of products with a tensor of the graph.

        Products of digits i and j with i + j <= len(x.digits) are kept, all later ones go into the bound.
        """
        depth = len(x.digits) + 1  # digit d of the result: 2**(top - 20 (d + 2))
        parts: list[list[Tensor]] = []  # channels that come out, some after the other: digits, then the bound
        top, has_rest = x.top, False
        for fixed, size in self._constants(weight, whole=whole):
            if shape is not None:
                fixed, size = fixed.reshaped(shape), size.reshape(shape)
            digits = self._products(x, fixed, split, depth=depth)
            error = product(x.error * _GROWTH, size)
            parts.append([torch.zeros_like(error) if digit is None else digit for digit in digits] + [error])
            top, has_rest = x.top + fixed.top, has_rest or bool(fixed.error.any())
        *digits, error = (
            parts[0] if len(parts) == 1 else [torch.cat(found, 1) for found in zip(*parts, strict=True)]
        )
        # In units of the last place, 2**(top - 20 (depth + 1)): x's own error times |w|, the products that
        # were left out (each below 2**40 in a place of depth or later), and the rest of the weight.
        unit = _RADIX ** (depth + 1 - len(x.digits))
        error = error * (unit * _GROWTH)
        omitted = products * (depth + 2) * 2.0
        rest = products * 2.0 * _RADIX ** (depth - self.width) if has_rest else 0.0
        return self._carried(digits, top, (error + omitted * _RADIX + rest) * _GROWTH)

    def _products(self, x: Fixed, weight: Fixed, split: Split, *, depth: int) -> list[Tensor | None]:
        """Digits of the sums of products, not yet carried; None for those that are 0."""
        places: list[Tensor | None] = [None] * (depth + 1)
        used = [bool(digit.any()) for digit in weight.digits]
        for i, digit in enumerate(x.digits):
            for j in range(min(len(weight.digits), depth - i)):
                if used[j]:
                    for part in split(digit, weight.digits[j]):
                        _carry(places, i + j, part)
        return places

    def _shifted(self, x: Fixed, bias: Tensor | None) -> Fixed:
        """Add one number a channel."""
        if bias is None:
            return x
        fixed = next(self._constants(bias, whole=True))[0].reshaped(_a_channel(x.error))
        shape = x.error.shape
        digits = fixed.digits.expand(len(fixed.digits), *shape)
        return self.add(x, Fixed(digits, fixed.top, fixed.error.expand(shape)))

    def _at(self, x: Fixed, top: int) -> Fixed:
        """The same numbers with a larger `top` and `width + 1` digits."""
        zeros = [torch.zeros_like(x.error)] * ((top - x.top) // BITS)
        return self._cut([*zeros, *x.digits], top, x.error, width=self.width + 1)

    def _carried(self, digits: list[Tensor], top: int, error: Tensor) -> Fixed:
        """Digits of any size below 2**52 as digits of at most 2**19, the last ones cut off."""
        carry, result = torch.zeros_like(digits[0]), []
        for digit in reversed(digits):
            whole = digit + carry
            carry = (whole / _RADIX).round_()
            result.append(whole - carry * _RADIX)
        while bool(carry.any()):
            following = (carry / _RADIX).round_()
            result.append(carry - following * _RADIX)
            carry, top = following, top + BITS
        result.reverse()
        while len(result) > self.width and not bool(result[0].any()):
            result.pop(0)
            top -= BITS
        return self._cut(result, top, error, width=self.width)

    def _cut(self, digits: list[Tensor], top: int, error: Tensor, *, width: int) -> Fixed:
        """The first `width` digits, the others in the bound; zeros behind where there are fewer."""
        missing = len(digits) - width
        if missing > 0:
            # What is cut is less than one unit of the new last place: digits of at most 2**20, twice summed.
            error = (error * _RADIX**-missing + 2) * _GROWTH
            digits = digits[:width]
        elif missing < 0:
            digits = digits + [torch.zeros_like(error)] * -missing
            error = error * _RADIX**-missing
        return Fixed(torch.stack(digits), top, error)


def _carry(places: list[Tensor | None], place: int, part: Tensor) -> None:
    """Add products, below 2**53, to a place, and what is above 2**20 of it to the place before."""
    high = (part / _RADIX).round_()
    low = part.sub_(high * _RADIX)
    for index, some in ((place, high), (place + 1, low)):
        before = places[index]
        places[index] = some if before is None else before.add_(some)


def _a_channel(x: Tensor) -> tuple[int, ...]:
    """Shape of one number a channel beside x."""
    return (1, x.shape[1], *(1,) * (x.dim() - 2))


def _split_scale(x: Tensor, scale: Tensor) -> list[Tensor]:
    return [x * scale]


def _matrix(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.t()


def _split_matrix(x: Tensor, weight: Tensor) -> list[Tensor]:
    step = contraction.MOST_PRODUCTS
    return [
        x[:, start : start + step] @ weight[:, start : start + step].t()
        for start in range(0, x.shape[1], step)
    ]


def _split_conv(x: Tensor, weight: Tensor, spec: Conv2d) -> list[Tensor]:
    return list(contraction.conv_parts(x, weight, spec))


def _round_up(exponent: float) -> int:
    """The next multiple of 20."""
    return 0 if exponent == -math.inf else BITS * math.ceil(exponent / BITS)
