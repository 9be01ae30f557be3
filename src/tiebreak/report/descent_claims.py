"""Statements about training with kinks, each with numbers that could refute it, and the verdict they give.

A claim is tested as it is worded. Each of its checks says what a number must be for the claim to stand, and
the verdict is counted: it *holds* if all checks pass, *fails* if none does, and is *mixed* otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import pandas as pd

from tiebreak.design.axes import UserError
from tiebreak.report import descent_evidence as evidence
from tiebreak.report.checks import Check, Verdict, verdict_of

Tables = Mapping[str, pd.DataFrame]


class Origin(StrEnum):
    """Where a statement is from.

    `abstract`: our wording of what abstracts of arXiv 2401.08426 say (its versions differ, and the text was
    not at hand); `derived`: ours, with the proof in docs/descent.md; `known`: of the literature on the edge
    of stability.
    """

    ABSTRACT = "abstract"
    DERIVED = "derived"
    KNOWN = "known"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement and how it is tested.

    Args:
        name: C1 to C10.
        statement: as it is tested.
        origin: where it is from.
        scope: what the numbers are about; nothing is said beyond it.
        gather: its checks from the tables of a study, None where cells that it is about are not there.
    """

    name: str
    statement: str
    origin: Origin
    scope: str
    gather: Callable[[Tables], tuple[Check, ...] | None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim after its test.

    Args:
        name: of the claim.
        statement: of the claim.
        origin: of the claim.
        scope: of the claim.
        verdict: counted from the checks.
        checks: what was measured, and what it had to be.
    """

    name: str
    statement: str
    origin: Origin
    scope: str
    verdict: Verdict
    checks: tuple[Check, ...]

    @property
    def num_passed(self) -> int:
        """Checks whose number lies in its range."""
        return sum(check.passed for check in self.checks)


CLAIMS = (
    Claim(
        name="C1",
        statement="A convex loss with a kink at its minimiser keeps a floor in proportion to the step; "
        "rounding the kink, and nothing else, removes it.",
        origin=Origin.ABSTRACT,
        scope="one-layer ReLU regression, y < 0, 5 problems, 20,000 steps of 0.003 to 1; c1relu at "
        "0.25 to 0.95 of 2/L, L bounding its Hessian",
        gather=evidence.convex_floors,
    ),
    Claim(
        name="C2",
        statement="Continuously differentiable networks converge faster than ReLU networks.",
        origin=Origin.ABSTRACT,
        scope="MLPs of width 32 on 500 digits, 150 full-batch epochs, 3 seeds, each at its best of 3 "
        "learning rates; c1relu changes smoothness alone",
        gather=evidence.network_losses,
    ),
    Claim(
        name="C3",
        statement="In fp64 gradient methods on an L1 penalty set no coefficient to exactly 0; proximal "
        "descent sets those of the true solution.",
        origin=Origin.ABSTRACT,
        scope="linear model, 100 x 20, 5 problems, 35 penalties of 0.05 to 100 lambda_max, steps 0.1 and "
        "0.01, 10,000 steps",
        gather=evidence.exact_zeros,
    ),
    Claim(
        name="C4",
        statement="With X'X/N = I gradient descent far above lambda_max has ||b||_1 = P a lambda/(2 - a), "
        "and passes the norm of no penalty where T-L2 says.",
        origin=Origin.DERIVED,
        scope="orthonormal design, 100 x 20, 3 problems, steps 0.1 and 0.01",
        gather=evidence.orthonormal_norms,
    ),
    Claim(
        name="C5",
        statement="A larger L1 penalty gives a larger L1 norm.",
        origin=Origin.ABSTRACT,
        scope="linear model, gradient descent, steps 0.1 and 0.01, 5 problems, penalties 0.05 to 100 "
        "lambda_max",
        gather=evidence.norm_against_penalty,
    ),
    Claim(
        name="C6",
        statement="RMSprop's L1 norm above lambda_max is P a/2, whatever the penalty.",
        origin=Origin.DERIVED,
        scope="linear model, 3 problems, penalties 5 to 1000 lambda_max, steps 0.01 and 0.003",
        gather=evidence.rmsprop_plateaus,
    ),
    Claim(
        name="C7",
        statement="On a convex Lipschitz loss no constant step diverges: the best gap stays below a G^2/2 + "
        "R^2/(2 a (k+1)); on the quadratic a > 2/L diverges.",
        origin=Origin.DERIVED,
        scope="5 Lipschitz losses of one number and the quadratic, 500 starts, steps 0.01 to 8",
        gather=evidence.bounded_gaps,
    ),
    Claim(
        name="C8",
        statement="Beyond a = 2/L losses that are C2 and sub-quadratic cycle with secant 2/a, and Huber's, "
        "which is C1 only, does not: its amplitudes fill [a/2, a - 1] and its sharpness is 0.",
        origin=Origin.DERIVED,
        scope="losses of one number, 500 starts, steps 2.01, 2.1 and 3; not so in regression "
        "with many points",
        gather=evidence.cycles,
    ),
    Claim(
        name="C9",
        statement="All convex non-smooth Lipschitz functions display unstable convergence.",
        origin=Origin.ABSTRACT,
        scope="one function decides: x^2/2 up to 1 and 2|x| - 3/2 beyond, 500 starts",
        gather=evidence.kinked_bowl,
    ),
    Claim(
        name="C10",
        statement="ReLU networks train at the edge of stability: late sharpness is 2/lr.",
        origin=Origin.KNOWN,
        scope="MLP 49-32-32-10 on 200 digits, squared loss, full batch, lr 0.8, 3000 steps, 3 seeds",
        gather=evidence.late_sharpness,
    ),
)
"""In the order of their numbers."""


def chosen(names: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these names, in the order of their numbers; all for no names.

    Raises:
        UserError: a name that no claim has.
    """
    known = {claim.name: claim for claim in CLAIMS}
    wanted = {name.upper() for name in names}
    if unknown := sorted(wanted - set(known)):
        raise UserError(f"there is no claim {', '.join(unknown)}. The claims are {', '.join(known)}.")
    return tuple(claim for claim in CLAIMS if not wanted or claim.name in wanted)


def findings(tables: Tables, *, claims: Sequence[Claim] = CLAIMS) -> tuple[Finding, ...]:
    """Judge the claims that the tables of a study are about; those whose cells are not there are left out.

    Args:
        tables: as `build_tables` or `read_tables` give them.
        claims: which.
    """
    found = []
    for claim in claims:
        if (checks := claim.gather(tables)) is not None:
            found.append(
                Finding(
                    name=claim.name,
                    statement=claim.statement,
                    origin=claim.origin,
                    scope=claim.scope,
                    verdict=verdict_of(checks),
                    checks=checks,
                )
            )
    return tuple(found)


def claim_tables(found: Sequence[Finding]) -> dict[str, pd.DataFrame]:
    """Tables `descent_claims`, one row a claim, and `descent_checks`, one row a check."""
    claims = [
        {
            "claim": finding.name,
            "verdict": str(finding.verdict),
            "num_checks": len(finding.checks),
            "num_passed": finding.num_passed,
            "words": finding.statement,
            "scope": finding.scope,
            "origin": str(finding.origin),
        }
        for finding in found
    ]
    checks = [
        {
            "claim": finding.name,
            "check": check.name,
            "value": check.value,
            "wanted": check.wanted,
            "low": check.low,
            "high": check.high,
            "passed": check.passed,
        }
        for finding in found
        for check in finding.checks
    ]
    return {"descent_claims": pd.DataFrame(claims), "descent_checks": pd.DataFrame(checks)}


def to_json(found: Sequence[Finding]) -> str:
    """Findings as one JSON list; numbers that are not finite are spelled as in records."""

    def spelled(value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        if isinstance(value, dict):
            return {key: spelled(item) for key, item in value.items()}
        return [spelled(item) for item in value] if isinstance(value, list | tuple) else value

    rows = []
    for finding in found:
        row = asdict(finding)
        row["checks"] = [asdict(check) | {"passed": check.passed} for check in finding.checks]
        rows.append(spelled(row))
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_text(found: Sequence[Finding]) -> str:
    """Findings for a terminal: the verdict, the claim, its scope, and each check with its range."""
    lines = []
    for finding in found:
        lines += [
            f"{finding.name:4} {finding.verdict.upper()} ({finding.num_passed} of {len(finding.checks)} "
            f"checks)  {finding.statement}",
            f"     {finding.scope} [{finding.origin}]",
        ]
        width = max(len(check.name) for check in finding.checks)
        lines += [
            f"     {'+' if check.passed else '-'} {check.name:{width}}  {check.value:.6g} "
            f"(wanted {check.wanted})"
            for check in finding.checks
        ]
        lines.append("")
    return "\n".join(lines)
