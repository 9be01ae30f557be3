"""The label over the reals of a draw: what no threshold can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from torch import nn
from torch.nn import functional

from tiebreak.data import Batch
from tiebreak.design.axes import PoolJacobian
from tiebreak.exact.certificate import Certificate, Label
from tiebreak.exact.certify import certify_graph, cotangent_of
from tiebreak.exact.graph import NotCertifiableError
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

    The network is run once more in the cell's arithmetic, to know which windows tied in floating point.

    Args:
        setting: the trial's.
        model: in the state in which the gaps were measured.
        batch: the one they were measured on.
        compared: the Jacobians beside the reference, which must be PyTorch's.
        gaps: theirs, in the same order.
        seed: of the primes.
    """
    certificate: Certificate | None = None
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
    for index, pool in enumerate(certificate.pools if certificate else ()):
        yield {"row": "pool_truth", "pool": index} | {
            item.name: getattr(pool, item.name) for item in fields(pool) if item.name != "where"
        }


def _certified(certificate: Certificate, place: int, gap: Gap) -> Row:
    verdict, evidence = certificate.verdicts[place], certificate.evidence
    label = verdict.label(
        gap_is_zero=gap.sup_sum == 0, nonfinite=gap.nonfinite or certificate.nonfinite is not None
    )
    return {
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
