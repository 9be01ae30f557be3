"""Which rule answers a published quantity from the records, or which test holds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tiebreak.report import reproduced_gradients as gradients
from tiebreak.report import reproduced_training as trainings
from tiebreak.report.nearest import Answer, Row, Tables


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one quantity is answered.

    Args:
        quantity: a regular expression that its published name matches.
        answer: a published number and the tables in, what the records say out.
        protocol: whose records are needed; empty where a formula is enough.
    """

    quantity: str
    answer: Callable[[Row, Tables], Answer | None]
    protocol: str = ""


RULES = (
    Rule(quantity=r"^final test accuracy, mean over runs$", answer=trainings.accuracy, protocol="train"),
    Rule(
        quantity=r"^accuracy, mean over runs that did not end in NaN",
        answer=trainings.accuracy,
        protocol="train",
    ),
    Rule(
        quantity=r"^final test accuracy, sample standard deviation", answer=trainings.spread, protocol="train"
    ),
    Rule(quantity=r"^best test accuracy of all epochs", answer=trainings.best_accuracy, protocol="train"),
    Rule(quantity=r"^runs that ended in NaN", answer=trainings.lost_runs, protocol="train"),
    Rule(quantity=r"^mean accuracy minus that of beta=0$", answer=trainings.effect, protocol="train"),
    Rule(quantity=r"^share of mini-batches with a gap above", answer=gradients.share, protocol="zones"),
    Rule(quantity=r"^share of gaps that are exactly 0$", answer=gradients.share_of_zeros, protocol="zones"),
    Rule(quantity=r"^share of gaps in ", answer=gradients.share_in_decade, protocol="zones"),
    Rule(quantity=r"^share of windows of pool", answer=gradients.share_tied, protocol="zones"),
    Rule(
        quantity=r"^best learning rate of the search$", answer=trainings.learning_rate, protocol="lr_search"
    ),
    Rule(
        quantity=r"^test accuracy of the best candidate",
        answer=trainings.search_accuracy,
        protocol="lr_search",
    ),
    Rule(quantity=r"^distance of weights to the beta=0 run", answer=trainings.distance, protocol="drift"),
    Rule(quantity=r"^derivative of max - max", answer=gradients.zero_program, protocol="zero_program"),
    Rule(quantity=r"^norm of the Jacobian", answer=gradients.norm),
)
"""Which rule answers a quantity, by its name; the first that fits."""

_BLENDED = "tests/numerics/test_pooling_blended.py::test_every_error_of_the_table"
HELD = (
    (r"^(median|largest) relative error of the blended forward", _BLENDED),
    (r"^share of outputs that (are exact|become 0)", _BLENDED),
    (r"^size of an input from which on the blended forward", _BLENDED),
    (r"^number of parameters$", "tests/models/test_build.py::test_published_parameter_counts"),
)
"""Quantities that a test compares with the published value."""


def rule_of(quantity: str) -> Rule | None:
    """The rule that answers a published quantity; None if nothing does."""
    return next((rule for rule in RULES if re.search(rule.quantity, quantity, re.IGNORECASE)), None)


def held_by(quantity: str) -> str:
    """The file of tests that compares a quantity with its published values; empty if none does."""
    return next((test for pattern, test in HELD if re.search(pattern, quantity)), "")
