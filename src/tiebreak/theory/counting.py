"""The protocol `enumeration`: what AD is at every point of M^W, counted, with a map of two parameters.

Two ways, which share no code, give the counts: the enumeration where float64 is exact, and the oracle where
it would round, or where the cell wants a judge. A judge looks at the touched points one by one, in rationals,
says whether AD's answer is a limit of derivatives or in their hull, and whether both ways agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.design.axes import Device, UserError
from tiebreak.design.enumeration import LETTERS, Enumeration
from tiebreak.records.session import Outcome, OutcomeKind, Session
from tiebreak.theory.enumeration import CHUNK, LARGEST_STEP, verdicts
from tiebreak.theory.exactness import require_exact
from tiebreak.theory.linear_programs import Vector
from tiebreak.theory.oracle import Kind, cells, differentiate, evaluate, judge, touched
from tiebreak.theory.posing import Posed, posed

MOST_POINTS = 10**10
"""Of an enumeration: half an hour on one core, minutes on a GPU."""

MOST_DRAWN = 10**7
"""Points that are drawn; their numbers are held at once."""

MOST_JUDGED = 100_000
"""Points that the oracle is asked about: a minute or two."""

MOST_MAPPED = 63
"""Numbers of M of a map of two parameters."""

CORRECT, INCORRECT, SINGULAR = range(3)

_CODES = {Kind.CORRECT: CORRECT, Kind.INCORRECT: INCORRECT, Kind.NOT_DIFFERENTIABLE: SINGULAR}


def measure_counts(measure: Enumeration, session: Session, *, seed: int, device: Device) -> Outcome:
    """Emit one row `count`, and of a network of two parameters that was looked at whole rows `map_line`.

    Args:
        measure: the settings.
        session: where rows go.
        seed: of the points that are drawn.
        device: of the enumeration; the oracle knows none.

    Raises:
        UserError: too many points, or a device that is not there.
        Stopped: after a checkpoint, when the session was asked to stop.
    """
    if device is Device.CUDA and not torch.cuda.is_available():
        raise UserError("device=cuda needs a CUDA device and this torch sees none. Use device=cpu.")
    started = time.process_time()
    question = posed(measure)
    found = _Found(is_kept=measure.judge or _has_map(measure, question))
    points = _Points.of(measure, question, seed=seed, device=device)
    is_exact = _fits_float64(question)
    if is_exact:
        _enumerate(question, points, found, session, most_kept=MOST_JUDGED if measure.judge else None)
    limits, hull, disagreements = _ask_oracle(question, points, found, wanted=measure.judge, known=is_exact)
    session.emit(
        {
            "row": "count",
            "network": question.network.name,
            "num_numbers": len(question.machine),
            "num_parameters": len(question.network.parameters),
            "num_kinks": sum(len(neuron.function.kinks) for neuron in question.network.activations),
            "at_kinks": question.at_kinks(),
            "way": "enumeration" if is_exact else "oracle",
            "points": points.number,
            "touched": found.touched,
            "live": found.live,
            "singular": found.singular,
            "incorrect": found.incorrect,
            "limits": limits,
            "in_hull": hull,
            "disagreements": disagreements,
            **question.shares_bound(),
            "closed_form": None if measure.num_points else question.closed_form,
            "witness": _witness(question, found.witness),
            "seconds": time.process_time() - started,
        }
    )
    if _has_map(measure, question):
        _emit_map(question, found, session)
    return Outcome(kind=OutcomeKind.COMPLETED)


# ---- which points ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Points:
    """Points by number, in the order of `enumeration.points_of`; `drawn` of those, or all."""

    number: int
    device: str
    drawn: Tensor | None

    @staticmethod
    def of(measure: Enumeration, question: Posed, *, seed: int, device: Device) -> _Points:
        """Every point, or as many as the cell draws.

        Raises:
            UserError: too many.
        """
        size, width = len(question.machine), len(question.network.parameters)
        total = f"{question.network.name} has {size}^{width} points"
        if not measure.num_points:
            if question.num_points > MOST_POINTS:
                raise UserError(
                    f"{total}, and at most {MOST_POINTS:.0e} can be looked at. Take a smaller set, or draw "
                    "some, as in protocol.num_points=1000000."
                )
            return _Points(question.num_points, str(device), None)
        if measure.num_points > MOST_DRAWN:
            raise UserError(f"at most {MOST_DRAWN:.0e} points can be drawn, got {measure.num_points}.")
        if question.num_points >= 2**63:
            raise UserError(f"{total}, more than can be numbered in 64 bits. Take a smaller network or set.")
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(question.num_points, (measure.num_points,), generator=generator)
        return _Points(measure.num_points, str(device), drawn)

    def chunk(self, first: int, last: int) -> Tensor:
        """The numbers of some points, int64."""
        if self.drawn is None:
            return torch.arange(first, last, device=self.device)
        return self.drawn[first:last].to(self.device)


@dataclass
class _Found:
    """What was found so far; of touched points also which they are and what, if that is kept."""

    is_kept: bool
    touched: int = 0
    live: int = 0
    singular: int = 0
    incorrect: int = 0
    witness: int = -1
    places: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def add(self, place: int, code: int, *, is_live: bool) -> None:
        """A touched point."""
        self.touched += 1
        self.live += is_live
        self.singular += code == SINGULAR
        self.incorrect += code == INCORRECT
        if code == INCORRECT and self.witness < 0:
            self.witness = place
        if self.is_kept:
            self.places.append(place)
            self.codes.append(code)


# ---- the two ways ------------------------------------------------------------------------------------------


def _fits_float64(question: Posed) -> bool:
    """Whether float64 holds the enumeration exactly; where not, the oracle looks at every point."""
    try:
        require_exact(question.network, question.machine, rules=question.rules, largest_step=LARGEST_STEP)
    except UserError:
        return False
    return True


def _enumerate(
    question: Posed, points: _Points, found: _Found, session: Session, *, most_kept: int | None
) -> None:
    """Look at all points, chunk by chunk; a stopped trial goes on after its last chunk."""
    checkpoint = session.restore()
    begin = 0
    if checkpoint is not None:
        begin = checkpoint.state["points"]
        for name, value in checkpoint.state["found"].items():
            setattr(found, name, value)
    for first in range(begin, points.number, CHUNK):
        last = min(first + CHUNK, points.number)
        indices = points.chunk(first, last)
        here = verdicts(question.network, question.machine, indices, rules=question.rules)
        codes = here.incorrect * INCORRECT + here.not_differentiable * SINGULAR
        found.touched += int(here.touched.sum())
        found.live += int(here.live.sum())
        found.singular += int(here.not_differentiable.sum())
        found.incorrect += int(here.incorrect.sum())
        if found.witness < 0 and bool(here.incorrect.any()):
            found.witness = int(indices[here.incorrect][0])
        if most_kept is not None and found.touched > most_kept:
            raise _too_many(question, f"more than {most_kept} touched points")
        if found.is_kept:
            found.places += indices[here.touched].tolist()
            found.codes += codes[here.touched].tolist()
        session.progress(last, points.number)
        if last < points.number and session.wants_checkpoint():
            session.save({}, {"points": last, "found": vars(found)})


def _ask_oracle(
    question: Posed, points: _Points, found: _Found, *, wanted: bool, known: bool
) -> tuple[int | None, int | None, int | None]:
    """How many of all points are limits, how many in the hull, and at how many the two ways differ.

    Where the enumeration has not looked (not `known`) the oracle counts; where it has, the oracle is asked
    if that is `wanted`, and compared. Where no node is touched AD is the derivative, a limit and in the hull.
    """
    if not wanted and known:
        return None, None, None
    outside_limits = outside_hull = differing = 0
    for place, code in _to_judge(question, points, found, known=known):
        truth = judge(question.network, _point(question, place), rules=question.rules)
        if code is None:
            found.add(place, _CODES[truth.kind], is_live=truth.by_ad.is_live)
        else:
            differing += code != _CODES[truth.kind]
        if wanted:
            is_limit = truth.by_ad.gradient in truth.cells
            outside_limits += not is_limit
            outside_hull += not (is_limit or truth.is_in_hull)
    if not wanted:
        return None, None, None
    number = points.number
    return number - outside_limits, number - outside_hull, differing if known else None


def _to_judge(
    question: Posed, points: _Points, found: _Found, *, known: bool
) -> Iterator[tuple[int, int | None]]:
    """Touched points by number, with what the enumeration says of each."""
    if known:
        yield from zip(tuple(found.places), tuple(found.codes), strict=True)
        return
    if points.number > MOST_JUDGED:
        raise _too_many(question, f"{points.number} points")
    for place in points.chunk(0, points.number).tolist():
        if touched(question.network, evaluate(question.network, _point(question, place))):
            yield place, None


def _too_many(question: Posed, number: str) -> UserError:
    return UserError(
        f"{question.network.name} has {number}, and the oracle, which is asked by protocol.judge=true and "
        f"where float64 would round, is asked about {MOST_JUDGED} at most. Take a smaller set, a function "
        "and a rule that are exact in binary without judge, or draw some, as in protocol.num_points=10000."
    )


# ---- rows --------------------------------------------------------------------------------------------------


def _point(question: Posed, place: int) -> Vector:
    """The point of M^W with a number; the first parameter changes fastest."""
    found: list[Fraction] = []
    for _ in question.network.parameters:
        place, digit = divmod(place, len(question.machine))
        found.append(question.machine.numbers[digit])
    return tuple(found)


def _witness(question: Posed, place: int) -> str:
    """The first incorrect point in words, or nothing."""
    if place < 0:
        return ""
    network, point = question.network, _point(question, place)
    at = ", ".join(f"{name} = {value}" for name, value in zip(network.parameters, point, strict=True))
    by_ad = differentiate(network, point, rules=question.rules).gradient
    truth = cells(network, point)  # one, unless the directions of the enumeration missed a bend
    derivative = (
        f"the derivative is {_shown(truth[0])}" if len(truth) == 1 else "the oracle finds no derivative"
    )
    return f"at {at} AD gives {_shown(by_ad)}, {derivative}"


def _shown(vector: Vector) -> str:
    return f"({', '.join(map(str, vector))})"


def _has_map(measure: Enumeration, question: Posed) -> bool:
    """Whether the network has two parameters and was looked at whole, on a set that a figure can show."""
    is_plane = len(question.network.parameters) == 2
    return is_plane and not measure.num_points and len(question.machine) <= MOST_MAPPED


def _emit_map(question: Posed, found: _Found, session: Session) -> None:
    """A row for each number of the second parameter, with a letter for each of the first."""
    size = len(question.machine)
    letters = [LETTERS[CORRECT]] * size**2
    for place, code in zip(found.places, found.codes, strict=True):
        letters[place] = LETTERS[code]
    for line, number in enumerate(question.machine.numbers):
        session.emit(
            {
                "row": "map_line",
                "across": question.network.parameters[0],
                "up": question.network.parameters[1],
                "line": line,
                "number": float(number),
                "points": "".join(letters[line * size : (line + 1) * size]),
            }
        )
