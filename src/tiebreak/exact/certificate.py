"""What was proved: the verdict for each rule at ties, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor


class Mode(StrEnum):
    """How sure a verdict is: by random primes, up to a stated probability; or proved, by enough of them."""

    RANDOM = "random"
    PROOF = "proof"


class Label(StrEnum):
    """What a draw is, for one rule at ties beside PyTorch's.

    `regular`: the gradients are equal in floating point and over the reals. `compensation`: equal over the
    reals, rounding separates them. `bifurcation`: different over the reals; `masked_bifurcation`: different
    over the reals and yet equal in floating point. `nonfinite`: an infinity or NaN in the network, the batch
    or a gradient. `undecided`: nothing could be proved; the certificate says why.
    """

    REGULAR = "regular"
    COMPENSATION = "compensation"
    BIFURCATION = "bifurcation"
    MASKED_BIFURCATION = "masked_bifurcation"
    NONFINITE = "nonfinite"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class PoolTruth:
    """The windows of one pool over the reals, beside those of the floating-point program.

    Attributes:
        where: module path and line.
        windows: all windows.
        tied: windows with several maxima over the reals.
        tied_at_dead_zero: of these, those whose maximum is the 0 of a ReLU, where no gradient passes.
        tied_in_floats: windows with several maxima in floating point.
        tied_only_by_rounding: tied in floating point and not over the reals.
        missed_by_rounding: tied over the reals and not in floating point.
        other_maxima: windows whose set of maxima is not the same in floating point and over the reals.
    """

    where: str
    windows: int
    tied: int
    tied_at_dead_zero: int
    tied_in_floats: int
    tied_only_by_rounding: int
    missed_by_rounding: int
    other_maxima: int


@dataclass(frozen=True, kw_only=True)
class Separation:
    """An entry of D that an interval without 0 proves not to be 0.

    Attributes:
        tensor: name of the parameter.
        index: of the entry in it.
        low: D is at least this there.
        high: and at most this.
    """

    tensor: str
    index: tuple[int, ...]
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether one rule at ties gives another derivative than PyTorch's, over the reals.

    Attributes:
        rule: label of the rule.
        different: whether D != 0; None where that is undecided.
        num_nonzero: number of entries of D that are proved not to be 0, a parameter tensor; those with none
            are left out.
        entries: where D is not 0, bool a parameter; None unless asked for.
        separation: what proves D != 0 where there are no residues: batch norm in training mode.
    """

    rule: str
    different: bool | None
    num_nonzero: dict[str, int]
    entries: dict[str, Tensor] | None = None
    separation: Separation | None = None

    def label(self, *, gap_is_zero: bool, nonfinite: bool) -> Label:
        """What a draw with this verdict is, given the gap that the floating-point program found."""
        if nonfinite:
            return Label.NONFINITE
        if self.different is None:
            return Label.UNDECIDED
        if self.different:
            return Label.MASKED_BIFURCATION if gap_is_zero else Label.BIFURCATION
        return Label.REGULAR if gap_is_zero else Label.COMPENSATION


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """On what the verdicts rest.

    Attributes:
        mode: random or proof.
        seed: from which the primes were drawn.
        primes: moduli of the residues; none where signs and orders alone decide.
        log2_error: bound of log2 of the probability that any statement is wrong; -inf where it is proved.
        bits: bound of log2 of the whole numbers behind D.
        num_equalities: equalities that zero residues stand for.
        num_escalated: neurons and windows that float64 left open and that are not ties.
        digits: most digits of 20 bits that fixed point needed; 0 where float64 was enough.
        vacuous: whether the cotangent is 0 everywhere, so that D = 0 says nothing.
    """

    mode: Mode
    seed: int
    primes: tuple[int, ...]
    log2_error: float
    bits: float
    num_equalities: int
    num_escalated: int
    digits: int
    vacuous: bool


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is true over the reals of a network, a batch and a cotangent.

    Attributes:
        verdicts: one a rule, in the order in which they were asked for.
        pools: in the order in which they ran.
        evidence: primes, seed, error.
        nonfinite: where the floating-point program met an infinity or NaN, or None.
        reason: why nothing is decided, or None.
    """

    verdicts: tuple[Verdict, ...]
    pools: tuple[PoolTruth, ...]
    evidence: Evidence
    nonfinite: str | None
    reason: str | None = None
