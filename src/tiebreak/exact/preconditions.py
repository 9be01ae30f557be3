"""What must hold before anything is said of a graph: options with a meaning, sums that do not round."""

from __future__ import annotations

import math

import torch

from tiebreak.design.axes import UserError
from tiebreak.exact.contraction import require_exact
from tiebreak.exact.dyadic import subnormal_numbers_are_kept
from tiebreak.exact.evaluation import pixel_numbers
from tiebreak.exact.graph import AveragePool2d, Graph, NotCertifiableError
from tiebreak.exact.rules import MOST_DIVISOR


def require_options(*, log2_error: float, chunk: int | None) -> None:
    """Make sure that an error bound is the logarithm of a probability, and a part of a batch not empty.

    Raises:
        UserError: they are not.
    """
    if not -math.inf < log2_error < 0:
        raise UserError(f"log2_error must be a finite number below 0, got {log2_error}. Use -40.")
    if chunk is not None and chunk < 1:
        raise UserError(f"chunk must be 1 image or more, or None, got {chunk}.")


def require_arithmetic(device: torch.device) -> None:
    """Make sure that float64 does here what its bounds are about.

    Raises:
        NotCertifiableError: sums of products that are not plain ones.
        UserError: subnormal numbers are replaced by 0.
    """
    if not subnormal_numbers_are_kept():
        raise UserError(
            "this process replaces subnormal numbers by 0, and then nothing computed is certain. Call "
            "torch.set_flush_denormal(False) first; threads that were started while it was on keep flushing, "
            "so if this does not help, call it before anything else is computed."
        )
    require_exact(device)


def require_divisors(graph: Graph) -> None:
    """Make sure that average pools divide by whole numbers that the bounds are made for.

    Raises:
        NotCertifiableError: one does not.
    """
    for node in graph.nodes:
        if isinstance(node.operation, AveragePool2d):
            smallest, largest = (float(end) for end in torch.aminmax(node.operation.divisor))
            if not 1 <= smallest <= largest < MOST_DIVISOR:
                raise NotCertifiableError(
                    f"not certifiable, because the average pool at {node.where} divides by a number outside "
                    f"1 to {MOST_DIVISOR}."
                )


def require_pixels(graph: Graph) -> None:
    """Make sure that every window of every pool has a pixel in it.

    Raises:
        NotCertifiableError: one has none.
    """
    for index in graph.pools:
        node = graph.nodes[index]
        size = graph.nodes[node.inputs[0]].shape[2:]
        if not bool((pixel_numbers(node, (size[0], size[1]), device=torch.device("cpu")) >= 0).any(0).all()):
            raise NotCertifiableError(
                f"not certifiable, because a window of the pool at {node.where} has no pixel in it."
            )
