"""A rule at ties as exact numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tiebreak.design.axes import PoolJacobian, Selection, UserError
from tiebreak.exact.graph import NotCertifiableError

MOST_DIVISOR = 2**20
"""Whole numbers below this have an inverse modulo every prime of `exact.primes`; so have powers of two."""


@dataclass(frozen=True)
class TieRule:
    """What each of the n tied entries of a window gets of the gradient that comes in.

    `beta`: each gets beta / n and the first 1 - beta on top. `last`: the last gets all. `all_ones`: each
    gets all. A window without a tie passes everything to its maximum under every rule.

    Attributes:
        beta: any rational; 0 with other selections.
        selection: `beta`, `last` or `all_ones`.
    """

    beta: Fraction
    selection: Selection = Selection.BETA

    @classmethod
    def of(cls, jacobian: PoolJacobian | Fraction) -> TieRule:
        """The rule of a Jacobian, whose beta is the rational that the float is; or of any rational beta.

        Both forward arms have the same value and the same derivative over the reals.

        Raises:
            NotCertifiableError: the `random` selection, which is a rule of the program and not of the reals;
                a beta whose denominator one of the primes might divide.
        """
        if isinstance(jacobian, Fraction):
            odd = jacobian.denominator // (jacobian.denominator & -jacobian.denominator)
            if odd >= MOST_DIVISOR:
                raise NotCertifiableError(
                    f"not certifiable, because the denominator of beta = {jacobian} is {odd} times a power "
                    f"of two, and residues can divide by numbers below {MOST_DIVISOR} only. Use a beta with "
                    "a smaller denominator, or the float next to it."
                )
            return cls(jacobian)
        if jacobian.selection is Selection.RANDOM:
            raise NotCertifiableError(
                "not certifiable, because selection=random draws anew wherever rounding moves a tie. "
                "Use beta, last or all_ones."
            )
        return cls(Fraction(jacobian.beta), jacobian.selection)

    def shares(self, num_tied: int) -> tuple[Fraction, Fraction, Fraction]:
        """Shares of the first, of each middle and of the last tied entry of a window with `num_tied` maxima.

        Args:
            num_tied: 1 or more; with 1 the first entry is the only one and gets 1.
        """
        if num_tied == 1:
            return Fraction(1), Fraction(0), Fraction(1)
        if self.selection is Selection.LAST:
            return Fraction(0), Fraction(0), Fraction(1)
        if self.selection is Selection.ALL_ONES:
            return Fraction(1), Fraction(1), Fraction(1)
        each = self.beta / num_tied
        return 1 - self.beta + each, each, each


def require_rules(jacobians: object) -> tuple[PoolJacobian | Fraction, ...]:
    """What is to be compared with PyTorch's rule, if these are rules and there is one.

    Raises:
        UserError: no rules, none of them, or something among them that is no rule.
    """
    if not isinstance(jacobians, Iterable) or isinstance(jacobians, str):
        raise UserError(
            f"jacobians must be a sequence of rules, got {jacobians!r}. Put it into brackets: "
            "jacobians=(tiebreak.MINIMAL,)."
        )
    found = tuple(jacobians)
    if not found:
        raise UserError(
            "jacobians must hold at least one rule to compare with PyTorch's, got none. Use for example "
            "jacobians=(tiebreak.MINIMAL,)."
        )
    for rule in found:
        if not isinstance(rule, PoolJacobian | Fraction):
            raise UserError(
                f"jacobians must hold PoolJacobians, or Fractions for rational betas, got {rule!r}. Use for "
                "example PoolJacobian(beta=100)."
            )
    return found


def label_of(jacobian: PoolJacobian | Fraction) -> str:
    """The name that a rule has in verdicts.

    Example:
        >>> label_of(PoolJacobian(beta=1)), label_of(Fraction(1, 3))
        ('minimal', 'beta1/3')
    """
    return jacobian.label if isinstance(jacobian, PoolJacobian) else f"beta{jacobian}"
