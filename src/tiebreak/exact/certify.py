"""Certificates: is the derivative that automatic differentiation takes at ties a matter of rounding or not?

For a network at floating-point parameters, a batch and a cotangent g at its output, let

    D = backprop with one rule at ties - backprop with PyTorch's rule,

over the reals, one entry a parameter. A certificate says whether D = 0. It is about this g, which both rules
share because they share the forward pass.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, PoolJacobian, UserError, member
from tiebreak.exact.batch_statistics import certify_batch_statistics
from tiebreak.exact.certificate import Certificate, Evidence, Mode, Verdict
from tiebreak.exact.graph import (
    Affine,
    BatchNorm2d,
    Graph,
    Operation,
    Parameter,
)
from tiebreak.exact.heights import heights, num_primes
from tiebreak.exact.preconditions import (
    require_arithmetic,
    require_divisors,
    require_options,
    require_pixels,
)
from tiebreak.exact.record import record, require_trained
from tiebreak.exact.rules import TieRule, label_of, require_rules
from tiebreak.exact.run import Progress, Run, silent

LOG2_ERROR = -40.0
"""Default bound of log2 of the probability that a certificate in random mode is wrong."""


Loss = Callable[[Tensor, Tensor], Tensor]


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss = functional.cross_entropy,
    jacobians: Sequence[PoolJacobian | Fraction] = (MINIMAL,),
    mode: Mode = Mode.RANDOM,
    log2_error: float = LOG2_ERROR,
    seed: int | None = None,
) -> Certificate:
    """Whether rules at ties change the derivative of a network's loss over the reals, at this very point.

    The network is the module's parameters and the batch as they are, in whatever format, taken for the
    numbers that they hold; it is left as it was. The verdict is about the cotangent `cotangent_of(loss)`.

    Args:
        model: any module of convolutions, linear layers, ReLUs, max and average pools, sums, concatenations
            and batch norm in evaluation mode.
        images: (N, ...), floating point, on the module's device.
        labels: what the loss takes as its second argument.
        loss: scalar from the output (N, classes) and the labels.
        jacobians: rules to compare with PyTorch's.
        mode: random primes up to `log2_error`, or proof.
        log2_error: bound of log2 of the probability of a wrong statement in random mode.
        seed: of the primes; None draws one.

    Raises:
        NotCertifiableError: an operation that is not on the list, with its place.
        UserError: no parameter that asks for a derivative, images without numbers, or no rule to compare.

    Example:
        >>> import torch
        >>> head = (nn.Flatten(), nn.Linear(36, 2))
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), *head)
        >>> images = torch.zeros(5, 1, 8, 8)  # flat: every window ties, between equal patches
        >>> certificate = certify(net, images, torch.zeros(5, dtype=torch.long))
        >>> certificate.verdicts[0].different
        False
    """
    jacobians = require_rules(jacobians)
    require_trained(model)
    graph, output = record(model, images)
    return certify_graph(
        graph,
        cotangent_of(loss, output, labels),
        jacobians=jacobians,
        mode=mode,
        log2_error=log2_error,
        seed=seed,
    )


def cotangent_of(loss: Loss, output: Tensor, labels: Tensor) -> Tensor:
    """The derivative of the loss with respect to the network's output, in float64 at the output as computed.

    Args:
        loss: scalar from output and labels.
        output: (N, classes) as the program computed it.
        labels: of the batch.

    Returns:
        (N, classes) float64; from here on these numbers are exact.

    Raises:
        UserError: a loss that raises, is not one number, or does not depend on the output.
    """
    leaf = output.detach().double().requires_grad_()
    with torch.enable_grad(), torch.autocast(output.device.type, enabled=False):
        try:
            value = loss(leaf, labels)
        except UserError:
            raise
        except Exception as error:  # the loss may be the user's own, and raise anything
            raise UserError(
                f"the loss cannot take an output of the shape {tuple(output.shape)} and these labels: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise UserError(f"the loss must be one number that depends on the output, got {got}.")
        (cotangent,) = torch.autograd.grad(value, leaf)
    return cotangent


def certify_graph(
    graph: Graph,
    cotangent: Tensor,
    *,
    jacobians: Sequence[PoolJacobian | Fraction] = (MINIMAL,),
    mode: Mode = Mode.RANDOM,
    log2_error: float = LOG2_ERROR,
    seed: int | None = None,
    chunk: int | None = None,
    keep_entries: bool = False,
    progress: Progress | None = None,
) -> Certificate:
    """Whether each rule gives another derivative than PyTorch's, over the reals.

    Args:
        graph: the network at its point, from `record`.
        cotangent: (N, classes) floating point: the derivative of the loss with respect to the output, taken
            as the exact numbers that it holds.
        jacobians: rules to compare with PyTorch's, as Jacobians or as any rational beta.
        mode: `random` for as many random primes as `log2_error` asks for, `proof` for as many as prove it.
        log2_error: in random mode, bound of log2 of the probability of any wrong statement; below 0.
        seed: of the primes; None draws one. A network made by someone who knows the seed can deceive it.
        chunk: images at a time; None chooses by memory.
        keep_entries: keep where D is not 0.
        progress: told which images and which layer come next; None for silence.

    Returns:
        The certificate. A network, batch or cotangent with an infinity or NaN gets no verdict, and says so.

    Raises:
        NotCertifiableError: a sum too long to be exact, a rule without a meaning over the reals, or a library
            whose float64 convolutions are not plain sums of products.
        UserError: a cotangent of another shape, an error bound that is no probability, another mode or seed,
            or no rule to compare.
    """
    jacobians = require_rules(jacobians)
    rules = [TieRule.of(jacobian) for jacobian in jacobians]
    labels = [label_of(jacobian) for jacobian in jacobians]
    _check(graph, cotangent, log2_error, chunk)
    mode = member(Mode, mode, key="mode")
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise UserError(f"seed must be a whole number, 0 or more, or None to draw one, got {seed!r}.")
    seed = secrets.randbits(63) if seed is None else seed
    cotangent = cotangent.detach().double()
    nonfinite = nonfinite_place(graph, cotangent)
    if nonfinite is not None:
        return _without_verdict(labels, mode, seed, nonfinite)
    require_pixels(graph)
    require_arithmetic(graph.batch.device)
    if any(isinstance(node.operation, BatchNorm2d) for node in graph.nodes):
        return certify_batch_statistics(
            graph,
            cotangent,
            rules=rules,
            labels=labels,
            mode=mode,
            log2_error=log2_error,
            seed=seed,
            progress=progress or silent,
        )
    sizes = heights(graph, cotangent, rules=rules)
    number = num_primes(graph, sizes, mode, log2_error)
    while True:
        run = Run(
            graph=graph,
            cotangent=cotangent,
            rules=rules,
            mode=mode,
            heights=sizes,
            num_primes=number,
            seed=seed,
            chunk=chunk,
            progress=progress or silent,
        )
        with torch.no_grad(), torch.autocast(graph.batch.device.type, enabled=False):
            run.all_parts()
        certificate = run.certificate(labels, keep_entries=keep_entries)
        if certificate.evidence.log2_error <= log2_error:
            return certificate
        number += 1  # more numbers had to be compared than was expected


def _check(graph: Graph, cotangent: Tensor, log2_error: float, chunk: int | None) -> None:
    shape = graph.nodes[graph.output].shape
    if tuple(cotangent.shape) != shape or not cotangent.is_floating_point():
        raise UserError(
            f"the cotangent must be floating point of the output's shape {shape}, got "
            f"{tuple(cotangent.shape)} of {cotangent.dtype}."
        )
    require_options(log2_error=log2_error, chunk=chunk)
    require_divisors(graph)


def nonfinite_place(graph: Graph, cotangent: Tensor) -> str | None:
    """Where an infinity or a NaN stands."""
    for node in graph.nodes:
        for tensor in vars(node.operation).values():
            value = tensor.value if isinstance(tensor, Parameter) else tensor
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                return f"{_name_of(tensor, node.operation)} at {node.where}"
    if not bool(graph.batch.isfinite().all()):
        return "the batch"
    if graph.nonfinite is not None:
        return graph.nonfinite
    return None if bool(cotangent.isfinite().all()) else "the cotangent"


def _name_of(tensor: Parameter | Tensor, operation: Operation) -> str:
    """A number of an operation, as its user knows it."""
    if isinstance(tensor, Parameter) and tensor.name is not None:
        return f"the parameter {tensor.name}"
    if isinstance(operation, Affine):
        named = " and ".join(name for name in (operation.weight, operation.bias) if name is not None)
        return f"the batch norm of {named}" if named else "the batch norm"
    return "a constant"


def _without_verdict(labels: Sequence[str], mode: Mode, seed: int, nonfinite: str) -> Certificate:
    return Certificate(
        verdicts=tuple(Verdict(rule=label, different=None, num_nonzero={}) for label in labels),
        pools=(),
        evidence=Evidence(
            mode=mode,
            seed=seed,
            primes=(),
            log2_error=-math.inf,
            bits=0.0,
            num_equalities=0,
            num_escalated=0,
            digits=0,
            vacuous=False,
        ),
        nonfinite=nonfinite,
        reason=f"an infinity or a NaN at {nonfinite}",
    )
