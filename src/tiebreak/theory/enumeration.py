"""All of M^W at once, vectorised: which points are touched, not differentiable, or differentiable and wrong.

Three steps, each on the points that the one before left open.

1. Reverse-mode AD. Where no touched node has an adjoint other than 0, AD is right: the derivative h(d) in a
   direction differs from AD's by the sum over touched nodes of the adjoint times what AD gets wrong at that
   node alone, so by nothing.
2. h along both directions of every axis: where h(e) + h(-e) is not 0, f is not differentiable.
3. h along integer directions that are drawn once: one on which h is not what the axes say proves that f is
   not differentiable; where there is none, h is taken to be linear.

So *not differentiable* is proved for every point that is counted there, and *differentiable* rests on step 1
or on `num_directions` directions and their opposites. All numbers are exact: that float64 holds them is
checked beforehand from bounds on every node (`exactness`), and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.theory.activations import PiecewiseLinear, Rules, Ties
from tiebreak.theory.exactness import require_exact
from tiebreak.theory.machine import Format, MachineSet
from tiebreak.theory.network import Activation, Affine, Maximum, Network, Parameter, Product

CHUNK = 2**17
"""Points at a time."""

LARGEST_STEP = 31
"""Of the integer directions that are drawn."""

_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Count:
    """What an enumeration found.

    Args:
        points: of M^W that were looked at.
        touched: with a node at a kink or a tie.
        live: touched, with an adjoint of that node that is not 0.
        not_differentiable: where f has no derivative.
        incorrect: where it has one and AD gives another.
        live_incorrect: points where *live* and *not differentiable* do not agree.
        witness: a point where AD is incorrect, or None.
    """

    points: int
    touched: int
    live: int
    not_differentiable: int
    incorrect: int
    live_incorrect: int
    witness: tuple[Fraction, ...] | None


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What some points are, one entry a point.

    Args:
        touched: bool.
        live: bool.
        not_differentiable: bool.
        incorrect: bool.
        gradient: AD's, (parameters, points), float64.
    """

    touched: Tensor
    live: Tensor
    not_differentiable: Tensor
    incorrect: Tensor
    gradient: Tensor


def count(
    network: Network,
    machine: MachineSet,
    *,
    rules: Rules,
    device: str = "cpu",
    chunk: int = CHUNK,
    num_directions: int = 16,
    start: int = 0,
    stop: int | None = None,
) -> Count:
    """Count the kinds of points in M^W, or in a part of it.

    Args:
        network: any.
        machine: M.
        rules: what AD does at kinks and ties.
        device: cpu or cuda.
        chunk: points at a time.
        num_directions: of the last step.
        start: first point, in the order of `points_of`.
        stop: one past the last; None for all.

    Raises:
        UserError: numbers that float64 may not hold exactly.

    Example:
        >>> from tiebreak.theory.families import plus_minus
        >>> from tiebreak.theory.machine import format_of
        >>> found = count(plus_minus(), format_of("e2m1").machine_set(), rules=Rules())
        >>> found.points, found.not_differentiable, found.incorrect, found.witness
        (15, 0, 1, (Fraction(0, 1),))
    """
    require_exact(network, machine, rules=rules, largest_step=LARGEST_STEP)
    total = len(machine) ** len(network.parameters)
    end = total if stop is None else min(stop, total)
    sums = torch.zeros(5, dtype=torch.int64, device=device)
    witness: tuple[Fraction, ...] | None = None
    for first in range(start, end, chunk):
        points = points_of(network, machine, start=first, stop=min(first + chunk, end), device=device)
        found = _decide(network, points, rules=rules, num_directions=num_directions)
        kinds = (
            found.touched,
            found.live,
            found.not_differentiable,
            found.incorrect,
            found.live != found.not_differentiable,
        )
        sums += torch.stack([kind.sum() for kind in kinds])
        if witness is None and bool(found.incorrect.any()):
            place = int(found.incorrect.nonzero()[0])
            witness = tuple(Fraction(value) for value in points[:, place].tolist())
    touched, live, singular, incorrect, other = sums.tolist()
    return Count(
        points=max(0, end - start),
        touched=touched,
        live=live,
        not_differentiable=singular,
        incorrect=incorrect,
        live_incorrect=other,
        witness=witness,
    )


def verdicts(
    network: Network, machine: MachineSet, indices: Tensor, *, rules: Rules, num_directions: int = 16
) -> Verdicts:
    """What single points of M^W are.

    Args:
        network: any.
        machine: M.
        indices: of points, int64, in the order of `points_of`.
        rules: what AD does at kinks and ties.
        num_directions: of the last step.

    Raises:
        UserError: numbers that float64 may not hold exactly.
    """
    require_exact(network, machine, rules=rules, largest_step=LARGEST_STEP)
    points = _points(network, machine, indices)
    return _decide(network, points, rules=rules, num_directions=num_directions)


def points_of(network: Network, machine: MachineSet, *, start: int, stop: int, device: str = "cpu") -> Tensor:
    """Points of M^W by number: the first parameter changes fastest.

    Args:
        network: for the number of parameters.
        machine: M.
        start: first point.
        stop: one past the last.
        device: cpu or cuda.

    Returns:
        (parameters, points), float64.
    """
    return _points(network, machine, torch.arange(start, stop, device=device))


def gradients(network: Network, points: Tensor, *, rules: Rules) -> Tensor:
    """AD's gradient at each point.

    Args:
        network: any.
        points: (parameters, points), float64.
        rules: what AD does at kinks and ties.

    Returns:
        (parameters, points), float64.
    """
    return _reverse(network, _forward(network, points), points, rules=rules)[0]


def touches(
    network: Network, machine: MachineSet, *, arithmetic: Format | None = None, chunk: int = CHUNK
) -> Tensor:
    """Which points of M^W are touched, over the reals or as a program in rounded arithmetic sees it.

    Args:
        network: any.
        machine: M.
        arithmetic: each sum and product is rounded to this format; None for none.
        chunk: points at a time.

    Returns:
        (points,), bool.

    Raises:
        UserError: numbers that float64 may not hold exactly.
    """
    require_exact(network, machine, rules=Rules(), largest_step=LARGEST_STEP)
    total = len(machine) ** len(network.parameters)
    found = []
    for first in range(0, total, chunk):
        points = points_of(network, machine, start=first, stop=min(first + chunk, total))
        values = _forward(network, points, arithmetic=arithmetic)
        masks = [mask for _, mask in _touched(network, values)]
        found.append(torch.stack(masks).any(0) if masks else torch.zeros_like(points[0], dtype=torch.bool))
    return torch.cat(found)


def _points(network: Network, machine: MachineSet, indices: Tensor) -> Tensor:
    numbers = torch.tensor([float(number) for number in machine.numbers], dtype=torch.float64)
    numbers = numbers.to(indices.device)
    coordinates, left = [], indices
    for _ in network.parameters:
        coordinates.append(numbers[left % len(machine)])
        left = left // len(machine)
    return torch.stack(coordinates)


def _decide(network: Network, points: Tensor, *, rules: Rules, num_directions: int) -> Verdicts:
    values = _forward(network, points)
    gradient, adjoints = _reverse(network, values, points, rules=rules)
    touched = torch.zeros_like(points[0], dtype=torch.bool)
    live = torch.zeros_like(touched)
    for place, mask in _touched(network, values):
        touched |= mask
        adjoint = adjoints[place]
        if adjoint is not None:
            live |= mask & (adjoint != 0)
    singular = torch.zeros_like(touched)
    incorrect = torch.zeros_like(touched)
    open_points = live.nonzero()[:, 0]
    if open_points.numel():
        broken, true = _linearity(network, points[:, open_points], num_directions=num_directions)
        singular[open_points] = broken
        wrong = (true != gradient[:, open_points]).any(0)
        incorrect[open_points] = ~broken & wrong
    return Verdicts(
        touched=touched, live=live, not_differentiable=singular, incorrect=incorrect, gradient=gradient
    )


def _linearity(network: Network, points: Tensor, *, num_directions: int) -> tuple[Tensor, Tensor]:
    """Where h is found not to be linear, and h along the axes, which is the gradient elsewhere."""
    width, number = points.shape
    values = _forward(network, points)
    broken = torch.zeros(number, dtype=torch.bool, device=points.device)
    along = []
    for axis in range(width):
        step = [0] * width
        step[axis] = 1
        ahead = _directional(network, values, step, points)
        step[axis] = -1
        broken |= ahead + _directional(network, values, step, points) != 0
        along.append(ahead)
    gradient = torch.stack(along)
    for step in _directions(width, num_directions):
        left = (~broken).nonzero()[:, 0]
        if not left.numel():
            break
        some = points[:, left]
        weights = torch.tensor(step, dtype=points.dtype, device=points.device)[:, None]
        expected = (weights * gradient[:, left]).sum(0)
        broken[left] |= _directional(network, _forward(network, some), step, some) != expected
    return broken, gradient


def _directions(width: int, number: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(_SEED)
    if width > 1:
        for _ in range(number):
            drawn = torch.randint(-LARGEST_STEP, LARGEST_STEP + 1, (width,), generator=generator).tolist()
            yield drawn
            yield [-value for value in drawn]


# ---- one pass over the nodes -------------------------------------------------------------------------------


def _forward(network: Network, points: Tensor, *, arithmetic: Format | None = None) -> list[Tensor]:
    """Every node's value, (points,) each."""

    def rounded(x: Tensor) -> Tensor:
        return x if arithmetic is None else arithmetic.rounded(x)

    values: list[Tensor] = []
    for node in network.nodes:
        match node:
            case Parameter(index):
                values.append(points[index])
            case Affine(terms, constant):
                total: Tensor | None = None
                for coefficient, source in terms:
                    term = values[source]
                    if coefficient != 1:
                        term = rounded(term * float(coefficient))
                    total = term if total is None else rounded(total + term)
                if total is None:
                    total = torch.zeros_like(points[0])
                values.append(rounded(total + float(constant)) if constant else total)
            case Product(left, right):
                values.append(rounded(values[left] * values[right]))
            case Activation(function, argument):
                x = values[argument]
                slope, intercept = _pieces(function, x)
                values.append(rounded(slope * x + intercept))
            case Maximum(arguments):
                values.append(torch.stack([values[argument] for argument in arguments]).amax(0))
    return values


def _pieces(function: PiecewiseLinear, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Slope and intercept of the piece left of or at each x."""
    slopes, intercepts = _numbers(function.slopes), _numbers(function.intercepts)
    if not function.kinks:
        return slopes[0], intercepts[0]
    piece = torch.bucketize(x, torch.tensor(_numbers(function.kinks), dtype=x.dtype, device=x.device))
    return _chosen(slopes, piece, x), _chosen(intercepts, piece, x)


def _chosen(numbers: Sequence[float], index: Tensor, x: Tensor) -> Tensor | float:
    if len(set(numbers)) == 1:
        return numbers[0]
    return torch.tensor(numbers, dtype=x.dtype, device=x.device)[index]


def _numbers(exact: Sequence[Fraction]) -> list[float]:
    return [float(number) for number in exact]


def _touched(network: Network, values: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Nodes that can be touched, and where they are."""
    for place, node in enumerate(network.nodes):
        if isinstance(node, Activation) and node.function.kinks:
            x = values[node.argument]
            mask = x == float(node.function.kinks[0])
            for kink in node.function.kinks[1:]:
                mask = mask | (x == float(kink))
            yield place, mask
        elif isinstance(node, Maximum):
            attained = sum((values[argument] == values[place]).int() for argument in node.arguments)
            if isinstance(attained, Tensor):
                yield place, attained > 1


def _reverse(
    network: Network, values: list[Tensor], points: Tensor, *, rules: Rules
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradient, (parameters, points), and adjoint of every node (None: the output does not read it)."""
    adjoints: list[Tensor | None] = [None] * len(values)
    adjoints[-1] = torch.ones_like(points[0])
    gradient = torch.zeros_like(points)

    def add(place: int, share: Tensor) -> None:
        held = adjoints[place]
        adjoints[place] = share if held is None else held + share

    for place in reversed(range(len(values))):
        seed = adjoints[place]
        if seed is None:
            continue
        match network.nodes[place]:
            case Parameter(index):
                gradient[index] += seed
            case Affine(terms, _):
                for coefficient, source in terms:
                    add(source, seed if coefficient == 1 else seed * float(coefficient))
            case Product(left, right):
                add(left, seed * values[right])
                add(right, seed * values[left])
            case Activation(function, argument):
                add(argument, seed * _slope(function, values[argument], rules.at_kinks(function)))
            case Maximum(arguments):
                attained = torch.stack([values[argument] for argument in arguments]) == values[place]
                for argument, share in zip(arguments, _shares(attained, rules.ties), strict=True):
                    add(argument, seed * share)
    return gradient, adjoints


def _slope(function: PiecewiseLinear, x: Tensor, at_kinks: Sequence[Fraction]) -> Tensor | float:
    slope = _pieces(function, x)[0]
    for kink, derivative, left in zip(function.kinks, at_kinks, function.slopes, strict=False):
        if derivative != left:
            slope = torch.where(x == float(kink), float(derivative), slope)
    return slope


def _shares(attained: Tensor, ties: Ties) -> Tensor:
    """What each argument gets, (arguments, points), float64."""
    match ties:
        case Ties.FIRST:
            chosen = attained & (attained.int().cumsum(0) == 1)
        case Ties.LAST:
            chosen = attained & (attained.flip(0).int().cumsum(0).flip(0) == 1)
        case Ties.SPLIT:
            return attained.double() / attained.sum(0)
    return chosen.double()


def _directional(network: Network, values: list[Tensor], step: Sequence[int], points: Tensor) -> Tensor:
    """h along one direction at every point; a rate that is 0 for all points is None."""
    rates: list[Tensor | None] = []
    for place, node in enumerate(network.nodes):
        match node:
            case Parameter(index):
                rates.append(torch.full_like(points[0], step[index]) if step[index] else None)
            case Affine(terms, _):
                parts = [(c, rate) for c, source in terms if (rate := rates[source]) is not None]
                total: Tensor | None = None
                for coefficient, rate in parts:
                    scaled = rate if coefficient == 1 else rate * float(coefficient)
                    total = scaled if total is None else total + scaled
                rates.append(total)
            case Product(left, right):
                by_left, by_right = rates[left], rates[right]
                first = None if by_left is None else by_left * values[right]
                second = None if by_right is None else by_right * values[left]
                rates.append(second if first is None else first if second is None else first + second)
            case Activation(function, argument):
                rate = rates[argument]
                if rate is None:
                    rates.append(None)
                    continue
                below = _slope(function, values[argument], function.slopes[:-1])
                above = _slope(function, values[argument], function.slopes[1:])
                slope = torch.where(rate > 0, above, below) if function.kinks else below
                rates.append(rate * slope)
            case Maximum(arguments):
                moving = [rates[argument] for argument in arguments]
                stacked = torch.stack([torch.zeros_like(points[0]) if r is None else r for r in moving])
                attained = torch.stack([values[argument] for argument in arguments]) == values[place]
                rates.append(stacked.masked_fill(~attained, -torch.inf).amax(0))
    last = rates[-1]
    return torch.zeros_like(points[0]) if last is None else last
