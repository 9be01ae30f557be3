"""Certificates on disk: a JSON file, and the tensors that it is about in a safetensors file beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiebreak.exact.certificate import Certificate, Mode, Verdict
from tiebreak.exact.certify import certify_graph
from tiebreak.exact.files import FloatGap, Stored, Unpacked, pack, renamed, unpack
from tiebreak.exact.json_fields import CertificateError
from tiebreak.exact.memory import images_that_fit
from tiebreak.exact.run import Progress
from tiebreak.numerics.gap import Gap
from tiebreak.protocols.points import Point
from tiebreak.records.durable import explained, replace

SUFFIX = ".json"
"""How the name of a certificate ends."""


def certify_point(
    point: Point,
    *,
    mode: Mode,
    log2_error: float,
    seed: int | None,
    chunk: int | None,
    provenance: Mapping[str, Any],
    progress: Progress | None = None,
) -> Stored:
    """Certify a point, as many images at a time as fit into memory.

    Args:
        point: what is asked.
        mode: random or proof.
        log2_error: in random mode, bound of log2 of the probability of a wrong statement.
        seed: of the primes; None draws one.
        chunk: images at a time; None leaves it to the memory.
        provenance: code, versions and machine.
        progress: told what comes next.

    Raises:
        UserError: a network that does not fit into memory, with what it needs.
        NotCertifiableError: a point about which nothing can be proved.
    """
    asked = {"jacobians": point.jacobians, "mode": mode, "log2_error": log2_error}
    fitting = images_that_fit(point.graph, point.cotangent, chunk=chunk, **asked)
    certificate = certify_graph(
        point.graph, point.cotangent, seed=seed, chunk=fitting, progress=progress, **asked
    )
    return Stored(
        about=point.about,
        graph=point.graph,
        cotangent=point.cotangent,
        certificate=certificate,
        gaps={
            jacobian.label: _float_gap(gap) for jacobian, gap in zip(point.jacobians, point.gaps, strict=True)
        },
        provenance=provenance,
        **asked,
    )


def write_certificate(path: Path, stored: Stored) -> None:
    """Write `path` and, beside it, the tensors, in place of the certificate that may stand there.

    Whenever this ends, also by a kill, `path` is the old certificate or the new one, each with its own
    tensors. Two files cannot be replaced at once, so while those of the old one still have to stand, the new
    tensors lie in a third, which the new text names; once it stands, they get their place.

    Args:
        path: ends in `.json`; what stands there is replaced.
        stored: what to write.

    Raises:
        CertificateError: a path that does not end in `.json`.
        StoreError: one of the two cannot be written.
    """
    require_name(path)
    beside = path.with_name(f"{path.name}.safetensors")  # a name that no file of weights has
    spare = path.with_name(f"{path.name}.new.safetensors")
    text, tensors = pack(stored, tensors_name=beside.name)
    if _tensors_of(path) == beside.name:
        replace(spare, tensors)
        replace(path, renamed(text, tensors_name=spare.name).encode())
    replace(beside, tensors)
    replace(path, text.encode())
    with explained(spare):
        spare.unlink(missing_ok=True)


def _tensors_of(path: Path) -> str | None:
    """The file of tensors that the certificate at a path names; None where there is no whole one."""
    with explained(path):
        try:
            return json.loads(path.read_bytes())["tensors"]["file"]
        except (FileNotFoundError, ValueError, RecursionError, LookupError, TypeError):
            return None


def require_name(path: Path) -> None:
    """Refuse a path that cannot be a certificate's, before anything is computed.

    Raises:
        CertificateError: it does not end in `.json`, or is a folder.
    """
    if path.suffix != SUFFIX:
        raise CertificateError(f"a certificate is a {SUFFIX} file, got {path}. Name it so.")
    if path.is_dir():
        raise CertificateError(f"{path} is a folder. Name a file in it.")


def read_certificate(path: Path) -> Unpacked:
    """Read a certificate and the tensors beside it.

    Raises:
        CertificateError: a file that is missing, cut short or edited; the message names it.
        StoreError: a file that cannot be read.
    """
    try:
        text = _read(path).decode()
    except UnicodeDecodeError:
        raise CertificateError(f"{path} is not a certificate: it is not text.") from None
    try:
        return unpack(text, lambda name: _read(path.with_name(name)))
    except CertificateError as error:
        raise CertificateError(f"{path}: {error}") from None


def verdict_sentences(certificate: Certificate) -> list[str]:
    """What a certificate says of each rule, one sentence a rule."""
    evidence = certificate.evidence
    proved = evidence.log2_error == -math.inf
    sure = "proved" if proved else f"wrong with probability below 2^{evidence.log2_error:.1f}"
    vacuous = "; the cotangent is 0 everywhere, so this says nothing" if evidence.vacuous else ""

    def sentence(verdict: Verdict) -> str:
        if verdict.different is None:
            reason = certificate.reason or "a reason that was not recorded"
            return reason if reason.startswith("undecided") else f"no verdict, because of {reason}"
        if verdict.separation is not None:
            proof = verdict.separation
            entry = f"{proof.tensor}[{', '.join(map(str, proof.index))}]"
            return f"D != 0: its entry {entry} lies between {proof.low:.9g} and {proof.high:.9g} ({sure})"
        if verdict.different:
            return f"D != 0 in {sum(verdict.num_nonzero.values())} entries ({sure})"
        return f"D = 0 ({sure}{vacuous})"

    return [f"{verdict.rule}: {sentence(verdict)}" for verdict in certificate.verdicts]


def _float_gap(gap: Gap) -> FloatGap:
    norms = {name: getattr(gap, name) for name in ("l1", "l2", "sup_sum", "sup", "relative")}
    return FloatGap(**norms, nonfinite=gap.nonfinite)


def _read(path: Path) -> bytes:
    with explained(path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise CertificateError(f"there is no file {path}.") from None
