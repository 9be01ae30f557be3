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
    Rule(quantity=r"^share of gaps that are exactly 0$", answer=gradients.share_in_bin, protocol="zones"),
    Rule(quantity=r"^share of gaps in ", answer=gradients.share_in_bin, protocol="zones"),
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
    (
        r"^value of the blended forward",
        "tests/test_paper.py::test_examples_of_the_blended_forward_in_fp16_are_what_it_computes",
    ),
    (r"^number of parameters$", "tests/models/test_build.py::test_published_parameter_counts"),
)
"""Quantities that a test compares with the published value."""

UNCOMPARED = (
    (
        r"^gaps\.(noise|same_backprop|different_backprop)\.",
        "no generator was published: network, images, noise and number of draws are not known",
    ),
    (r"^drift\.first_xp\.", "no generator was published: network, images and steps are not known"),
    (r"^drift\.\w+\.beta\d+\.(accuracy|nan_epoch)$", "the table of drifts has distances only"),
    (
        r"^zones\.\w+\.\w+\.share_spread$",
        "a range of shares of 391 mini-batches: ours are of few, which widens it",
    ),
    (r"^zones\.first_exceedance\.", "one draw of one initialisation; our draws are kept by decade"),
    (r"^effect\.beta1\.largest_t$", "the largest of 20 configurations, of which few were run here"),
    (r"^arms\.", "our own earlier test, on 1,024 digits of 8x8; beyond/forward_arm asks it of MNIST"),
    (
        r"^(gaps\.lenet5|bn_volume)\.",
        "our own earlier test of a few draws on other images; the claims ask it of our records",
    ),
)
"""Published numbers, by id, that no record can stand beside, and why."""


def rule_of(quantity: str) -> Rule | None:
    """The rule that answers a published quantity; None if nothing does."""
    return next((rule for rule in RULES if re.search(rule.quantity, quantity, re.IGNORECASE)), None)


def held_by(quantity: str) -> str:
    """The file of tests that compares a quantity with its published values; empty if none does."""
    return next((test for pattern, test in HELD if re.search(pattern, quantity)), "")


def uncompared(row: Row) -> str:
    """Why no record can stand beside a published number, if that is so; else empty.

    Example:
        >>> uncompared({"id": "other", "quantity": "weight of the moon"})
        'no rule compares it'
        >>> uncompared({"id": "lr", "quantity": "best learning rate of the search"})
        ''
    """
    reason = next((why for pattern, why in UNCOMPARED if re.search(pattern, row["id"])), "")
    known = rule_of(row["quantity"]) is not None or held_by(row["quantity"])
    return reason or ("" if known else "no rule compares it")
