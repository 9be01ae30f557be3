"""The label over the reals of a draw: what no threshold can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.data import Batch
from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.exact.certificate import Certificate, Label
from tiebreak.exact.certify import certify_graph, cotangent_of
from tiebreak.exact.dissect import dissect
from tiebreak.exact.graph import Graph, NotCertifiableError
from tiebreak.exact.record import record
from tiebreak.numerics.gap import Gap
from tiebreak.protocols.setting import Setting
from tiebreak.records.session import Row


def certificate_rows(
    setting: Setting,
    model: nn.Module,
    batch: Batch,
    *,
    compared: Sequence[PoolJacobian],
    gaps: Sequence[Gap],
    seed: int,
) -> Iterator[Row]:
    """A `certificate` row a Jacobian and a `pool_truth` row a pool for one batch.

    The network is run once more in the cell's arithmetic, to know which windows tied in floating point. Where
    D is not 0 for a rule of the beta family, a `bifurcation` row takes the first such one apart.

    Args:
        setting: the trial's.
        model: in the state in which the gaps were measured.
        batch: the one they were measured on.
        compared: the Jacobians beside the reference, which must be PyTorch's.
        gaps: theirs, in the same order.
        seed: of the primes.
    """
    certificate: Certificate | None = None
    graph: Graph | None = None
    cotangent: Tensor | None = None
    reason = ""
    try:
        graph, output = record(model, batch.images, forward=lambda: setting.forward(model, batch)[0])
        cotangent = cotangent_of(functional.cross_entropy, output, batch.labels)
        certificate = certify_graph(graph, cotangent, jacobians=compared, seed=seed)
    except NotCertifiableError as error:
        reason = str(error)
    for place, (jacobian, gap) in enumerate(zip(compared, gaps, strict=True)):
        row: Row = {"row": "certificate", "jacobian": jacobian.label, "beta": jacobian.beta}
        if certificate is None:
            label = Label.NONFINITE if gap.nonfinite else Label.UNDECIDED
            yield row | {"label": str(label), "different": None, "reason": reason}
        else:
            yield row | _certified(certificate, place, gap)
    if certificate is not None and graph is not None and cotangent is not None:
        yield from _dissected(setting, model, batch, graph, cotangent, certificate, compared)
    for index, pool in enumerate(certificate.pools if certificate else ()):
        yield {"row": "pool_truth", "pool": index} | {
            item.name: getattr(pool, item.name) for item in fields(pool) if item.name != "where"
        }


def _dissected(
    setting: Setting,
    model: nn.Module,
    batch: Batch,
    graph: Graph,
    cotangent: Tensor,
    certificate: Certificate,
    compared: Sequence[PoolJacobian],
) -> Iterator[Row]:
    for jacobian, verdict in zip(compared, certificate.verdicts, strict=True):
        if not verdict.different or jacobian.selection is not Selection.BETA or verdict.separation:
            continue  # batch norm in training mode has no residues to take apart
        found = dissect(
            graph,
            cotangent,
            beta=Fraction(jacobian.beta),
            primes=certificate.evidence.primes,
            seed=certificate.evidence.seed,
        )
        if found is None:
            continue
        index = tuple(map(int, found.index.split(",")))
        (gradient,) = torch.autograd.grad(setting.loss(model, batch), model.get_parameter(found.tensor))
        entry = float(gradient[index])
        row: Row = {"row": "bifurcation", "jacobian": jacobian.label, "beta": jacobian.beta}
        row |= {item.name: getattr(found, item.name) for item in fields(found) if item.name != "where"}
        yield row | {"gradient": entry, "share": abs(found.difference / entry) if entry else None}
        return


def _certified(certificate: Certificate, place: int, gap: Gap) -> Row:
    verdict, evidence = certificate.verdicts[place], certificate.evidence
    label = verdict.label(
        gap_is_zero=gap.sup_sum == 0, nonfinite=gap.nonfinite or certificate.nonfinite is not None
    )
    row: Row = {
        "label": str(label),
        "different": verdict.different,
        "reason": certificate.reason or "",
        "num_nonzero": sum(verdict.num_nonzero.values()),
        "tensors_nonzero": " ".join(f"{name}:{count}" for name, count in verdict.num_nonzero.items()),
        "mode": str(evidence.mode),
        "seed": evidence.seed,
        "primes": " ".join(map(str, evidence.primes)),
        "log2_error": evidence.log2_error,
        "bits": evidence.bits,
        "num_equalities": evidence.num_equalities,
        "num_escalated": evidence.num_escalated,
        "digits": evidence.digits,
        "vacuous": evidence.vacuous,
    }
    if (proof := verdict.separation) is not None:
        row["separation"] = f"{proof.tensor}[{','.join(map(str, proof.index))}]"
        row |= {"separation_low": proof.low, "separation_high": proof.high}
    return row
