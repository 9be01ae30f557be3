"""A certificate with all that it is about, as one text and one block of tensors: no code and no data needed.

The text is JSON: question, answer, evidence, the gaps of the floating-point program, the network as a list of
operations, where it all comes from, and a SHA-256 of each of these. The numbers of the network, the batch
and the cotangent are safetensors, each in the narrowest format that holds it exactly. Nothing here opens a
file, and a sum is no signature: `recheck` computes everything again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tiebreak.design.axes import DesignError, PoolJacobian
from tiebreak.exact.certificate import Certificate, Evidence, Label, Mode, PoolTruth, Separation, Verdict
from tiebreak.exact.graph import Graph
from tiebreak.exact.graph_text import graph_tree, read_graph
from tiebreak.exact.json_fields import CertificateError, Field
from tiebreak.exact.rules import label_of

KIND, FORMAT = "tiebreak certificate", 1
LEAST_ERROR = -10_000
"""Smallest log2 of an error bound that a file may ask for: some 900 primes."""

_SECTIONS = ("kind", "format", "about", "question", "answer", "evidence", "floats", "graph", "provenance")
_FORMATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, kw_only=True)
class FloatGap:
    """How far the gradients of the floating-point program were apart for one rule, as it was measured.

    Attributes:
        l1: sum of absolute differences.
        l2: Euclidean norm.
        sup_sum: sum over tensors of the largest absolute difference.
        sup: largest absolute difference.
        relative: l2 over the norm of the gradient.
        nonfinite: an infinity or a NaN in one of the two.
    """

    l1: float
    l2: float
    sup_sum: float
    sup: float
    relative: float
    nonfinite: bool

    def label(self, verdict: Verdict, *, nonfinite: bool) -> Label:
        """What a draw with this gap and this verdict is."""
        return verdict.label(gap_is_zero=self.l1 == 0, nonfinite=nonfinite or self.nonfinite)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A certificate with its question and everything that the answer rests on.

    Attributes:
        about: what the network and the batch are, in words.
        graph: the network at its point.
        cotangent: (N, classes) float64, of the loss at the output.
        jacobians: rules that were compared with PyTorch's.
        mode: that was asked for.
        log2_error: that was asked for.
        certificate: the answer.
        gaps: of the floating-point program by rule; empty where it was not measured.
        provenance: code, versions and machine, plain JSON values.
    """

    about: str
    graph: Graph
    cotangent: Tensor
    jacobians: tuple[PoolJacobian | Fraction, ...]
    mode: Mode
    log2_error: float
    certificate: Certificate
    gaps: Mapping[str, FloatGap]
    provenance: Mapping[str, Any]

    def labels(self) -> dict[str, Label]:
        """What the draw is for each rule whose gap was measured."""
        return labels_of(self.gaps, self.certificate)


def pack(stored: Stored, *, tensors_name: str) -> tuple[str, bytes]:
    """The text of a certificate and the tensors beside it.

    Args:
        stored: what to keep.
        tensors_name: name of the file of the tensors, in the folder of the text.

    Example:
        >>> import torch
        >>> from tiebreak.exact.certify import certify_graph
        >>> from tiebreak.exact.record import record
        >>> graph, output = record(torch.nn.Linear(2, 2), torch.ones(1, 2))
        >>> cotangent = torch.ones(1, 2).double()
        >>> stored = Stored(
        ...     about="a line", graph=graph, cotangent=cotangent, jacobians=(PoolJacobian(beta=1),),
        ...     mode=Mode.PROOF, log2_error=-40.0, gaps={}, provenance={},
        ...     certificate=certify_graph(graph, cotangent, mode=Mode.PROOF, seed=1),
        ... )
        >>> text, tensors = pack(stored, tensors_name="line.safetensors")
        >>> unpack(text, lambda name: tensors).stored.certificate == stored.certificate
        True
    """
    numbers: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> str:
        numbers[name] = _narrow(tensor)
        return name

    body: dict[str, Any] = {
        "kind": KIND,
        "format": FORMAT,
        "about": stored.about,
        "question": {
            "rules": {label_of(jacobian): _rule(jacobian) for jacobian in stored.jacobians},
            "mode": str(stored.mode),
            "log2_error": stored.log2_error,
        },
        "answer": answer_tree(stored.certificate),
        "evidence": evidence_tree(stored.certificate),
        "floats": {
            rule: _spelled(asdict(stored.gaps[rule])) | {"label": str(label)}
            for rule, label in stored.labels().items()
        },
        "graph": graph_tree(stored.graph, keep) | {"cotangent": keep("cotangent", stored.cotangent)},
        "provenance": _spelled(dict(stored.provenance)),
    }
    block = save(numbers)
    body["tensors"] = {
        "file": tensors_name,
        "sha256": bytes_sum(block),
        "sums": {name: tensor_sum(tensor) for name, tensor in numbers.items()},
    }
    return _written(body), block


def renamed(text: str, *, tensors_name: str) -> str:
    """The text of a certificate whose tensors lie in a file of another name.

    Args:
        text: as `pack` gives it.
        tensors_name: name of the file of the tensors, in the folder of the text.
    """
    body = json.loads(text)
    body["tensors"]["file"] = tensors_name
    return _written(body)


def _written(body: dict[str, Any]) -> str:
    """The text, with the sums of its sections."""
    body["sums"] = {name: sum_of(section) for name, section in body.items() if name != "sums"}
    return _LIST.sub(_on_one_line, json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False)) + "\n"


@dataclass(frozen=True, kw_only=True, eq=False)
class Unpacked:
    """A certificate as it was read.

    Attributes:
        stored: what it says.
        labels: of each rule for which a floating-point program was run, as recorded.
        altered: sections whose sum is wrong.
    """

    stored: Stored
    labels: Mapping[str, Label]
    altered: tuple[str, ...]


def unpack(text: str, tensors: Callable[[str], bytes]) -> Unpacked:
    """Read what `pack` wrote.

    Args:
        text: of the certificate.
        tensors: the content of the file of tensors, by its name.

    Raises:
        CertificateError: no certificate, of another format, a field that is missing or cannot be, or tensors
            that are not the ones that were certified.
    """
    try:
        tree = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"the certificate is not whole JSON ({error}).") from None
    body = Field(tree, "")
    kind = body["kind"].text()
    if kind != KIND:
        raise CertificateError(f"the field kind must be {KIND!r}, got {kind!r}.")
    version = body["format"].whole(least=1)
    if version != FORMAT:
        raise CertificateError(
            f"the field format must be {FORMAT}, got {version}. Check it with the version of tiebreak that "
            "wrote it."
        )
    body.only(*_SECTIONS, "tensors", "sums")
    sums = body["sums"]
    sums.only(*_SECTIONS, "tensors")
    sections = (*_SECTIONS, "tensors")
    altered = tuple(name for name in sections if sums[name].text() != sum_of(body[name].value))
    numbers = _tensors(body["tensors"], tensors)
    cotangent = body["graph"]["cotangent"].among(numbers)
    graph = read_graph(body["graph"], numbers)
    if tuple(cotangent.shape) != graph.nodes[graph.output].shape:
        raise CertificateError(
            f"the field graph.cotangent must name a tensor of the shape {graph.nodes[graph.output].shape} of "
            f"the output, got {tuple(cotangent.shape)}."
        )
    question = body["question"]
    question.only("rules", "mode", "log2_error")
    log2_error = question["log2_error"].number()
    if not LEAST_ERROR <= log2_error < 0:
        raise CertificateError(
            f"the field question.log2_error must be below 0 and at least {LEAST_ERROR}, got {log2_error}."
        )
    stored = Stored(
        about=body["about"].text(),
        graph=graph,
        cotangent=cotangent.double(),
        jacobians=tuple(_read_rule(name, rule) for name, rule in question["rules"].named().items()),
        mode=question["mode"].member(Mode),
        log2_error=log2_error,
        certificate=_read_certificate(body["answer"], body["evidence"]),
        gaps=_read_floats(body["floats"]),
        provenance=body["provenance"].mapping(),
    )
    _check_rules(stored)
    labels = {rule: body["floats"][rule]["label"].member(Label) for rule in stored.gaps}
    return Unpacked(stored=stored, labels=labels, altered=altered)


def answer_tree(certificate: Certificate) -> dict[str, Any]:
    """What is true over the reals, as plain JSON values."""
    return {
        "verdicts": {
            verdict.rule: {"different": verdict.different, "num_nonzero": verdict.num_nonzero}
            | ({} if verdict.separation is None else {"separation": _separation_tree(verdict.separation)})
            for verdict in certificate.verdicts
        },
        "pools": [asdict(pool) for pool in certificate.pools],
        "nonfinite": certificate.nonfinite,
        "reason": certificate.reason,
    }


def _separation_tree(proof: Separation) -> dict[str, Any]:
    return asdict(proof) | {"index": list(proof.index)}


def evidence_tree(certificate: Certificate) -> dict[str, Any]:
    """On what it rests, as plain JSON values."""
    return _spelled(asdict(certificate.evidence) | {"primes": list(certificate.evidence.primes)})


def labels_of(gaps: Mapping[str, FloatGap], certificate: Certificate) -> dict[str, Label]:
    """What the draw is for each rule whose gap was measured."""
    verdicts = {verdict.rule: verdict for verdict in certificate.verdicts}
    nonfinite = certificate.nonfinite is not None
    return {rule: gap.label(verdicts[rule], nonfinite=nonfinite) for rule, gap in gaps.items()}


def _rule(jacobian: PoolJacobian | Fraction) -> dict[str, Any]:
    if isinstance(jacobian, Fraction):
        return {"beta": str(jacobian)}
    return {
        "beta": jacobian.beta,
        "forward": str(jacobian.forward),
        "selection": str(jacobian.selection),
    }


def _read_rule(name: str, field: Field) -> PoolJacobian | Fraction:
    """A rule under its own name."""
    if isinstance(field["beta"].value, str):
        field.only("beta")
        try:
            rule: PoolJacobian | Fraction = Fraction(field["beta"].text())
        except (ValueError, ZeroDivisionError):
            raise field["beta"].wrong("a number or a ratio of whole numbers") from None
    else:
        field.only("beta", "forward", "selection")
        try:
            rule = PoolJacobian(
                beta=field["beta"].number(),
                forward=field["forward"].value,
                selection=field["selection"].value,
            )
        except DesignError as error:
            raise CertificateError(f"the field {field.path} cannot be: {error}") from None
    if label_of(rule) != name:
        raise CertificateError(f"the field {field.path} is the rule {label_of(rule)}, not {name}.")
    return rule


def _check_rules(stored: Stored) -> None:
    """Every rule has a verdict, and nothing else has."""
    asked = [label_of(jacobian) for jacobian in stored.jacobians]
    for path, found in (
        ("answer.verdicts", [verdict.rule for verdict in stored.certificate.verdicts]),
        ("floats", list(stored.gaps) or asked),
    ):
        if found != asked:
            raise CertificateError(
                f"the field {path} must have the rules {', '.join(asked)} of the question, got "
                f"{', '.join(found) or 'none'}."
            )


def _read_certificate(answer: Field, evidence: Field) -> Certificate:
    answer.only("verdicts", "pools", "nonfinite", "reason")
    verdicts = []
    for rule, item in answer["verdicts"].named().items():
        item.only("different", "num_nonzero", "separation")
        different, counts = item["different"], item["num_nonzero"]
        verdicts.append(
            Verdict(
                rule=rule,
                different=None if different.value is None else different.truth(),
                num_nonzero={name: count.whole(least=1) for name, count in counts.named().items()},
                separation=_read_separation(item["separation"]) if "separation" in item.mapping() else None,
            )
        )
    pools = []
    for item in answer["pools"].items():
        item.only(*(one.name for one in fields(PoolTruth)))
        counts = {one.name: item[one.name].whole() for one in fields(PoolTruth) if one.name != "where"}
        pools.append(PoolTruth(where=item["where"].text(), **counts))
    return Certificate(
        verdicts=tuple(verdicts),
        pools=tuple(pools),
        evidence=_read_evidence(evidence),
        nonfinite=answer["nonfinite"].optional(),
        reason=answer["reason"].optional(),
    )


def _read_separation(field: Field) -> Separation:
    field.only("tensor", "index", "low", "high")
    return Separation(
        tensor=field["tensor"].text(),
        index=field["index"].shape(),
        low=field["low"].number(),
        high=field["high"].number(),
    )


def _read_evidence(field: Field) -> Evidence:
    field.only(*(item.name for item in fields(Evidence)))
    return Evidence(
        mode=field["mode"].member(Mode),
        seed=field["seed"].whole(),
        primes=tuple(item.whole(least=2) for item in field["primes"].items()),
        log2_error=field["log2_error"].number(),
        bits=field["bits"].number(),
        num_equalities=field["num_equalities"].whole(),
        num_escalated=field["num_escalated"].whole(),
        digits=field["digits"].whole(),
        vacuous=field["vacuous"].truth(),
    )


def _read_floats(field: Field) -> dict[str, FloatGap]:
    gaps = {}
    names = [item.name for item in fields(FloatGap) if item.name != "nonfinite"]
    for rule, item in field.named().items():
        item.only(*names, "nonfinite", "label")
        norms = {name: item[name].number() for name in names}
        gaps[rule] = FloatGap(**norms, nonfinite=item["nonfinite"].truth())
    return gaps


def _tensors(field: Field, read: Callable[[str], bytes]) -> dict[str, Tensor]:
    """The tensors, each one that was certified."""
    field.only("file", "sha256", "sums")
    name = field["file"].text()
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise field["file"].wrong("the name of a file beside the certificate")
    block = read(name)
    try:
        numbers = load(block)
    except SafetensorError as error:
        raise CertificateError(f"the tensors in {name} are no whole safetensors file ({error}).") from None
    for key, tensor in numbers.items():
        if not tensor.is_floating_point() and tensor.dtype is not torch.uint8:
            raise CertificateError(f"the tensor {key} in {name} must be floating point, got {tensor.dtype}.")
    sums = {key: item.text() for key, item in field["sums"].named().items()}
    for missing in sorted(set(sums) - set(numbers)):
        raise CertificateError(f"the tensor {missing} is missing in {name}.")
    for extra in sorted(set(numbers) - set(sums)):
        raise CertificateError(f"the tensor {extra} in {name} is not one of the certificate's.")
    changed = [key for key, tensor in numbers.items() if tensor_sum(tensor) != sums[key]]
    if changed:
        raise CertificateError(
            f"the tensor {', '.join(sorted(changed))} in {name} is not the one that was certified: its "
            "SHA-256 is another."
        )
    if bytes_sum(block) != field["sha256"].text():
        raise CertificateError(f"the field tensors.sha256 is not that of {name}, although every tensor is.")
    return numbers


def _narrow(x: Tensor) -> Tensor:
    """The same numbers in the narrowest format that holds every one of them."""
    x = x.detach().cpu().contiguous()
    if x.is_floating_point():
        for dtype in _FORMATS:
            if torch.equal(x.to(dtype).double(), x.double()):
                return x.to(dtype)
    return x.clone()


def bytes_sum(block: bytes) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(block).hexdigest()


def tensor_sum(x: Tensor) -> str:
    """SHA-256 of the format, shape and bytes of a tensor."""
    head = f"{x.dtype}:{tuple(x.shape)}:".encode()
    content = x.contiguous().reshape(-1).view(torch.uint8).numpy().data if x.numel() else b""
    return hashlib.sha256(head + bytes(content)).hexdigest()


def sum_of(section: Any) -> str:
    """SHA-256 of a section in JSON's shortest spelling, its keys in order."""
    text = json.dumps(section, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _spelled(tree: Any) -> Any:
    """JSON has no infinities and no NaN: they are spelled out."""
    match tree:
        case float() if not math.isfinite(tree):
            return str(tree)
        case dict():
            return {key: _spelled(item) for key, item in tree.items()}
        case str():
            return str(tree)
        case Sequence():
            return [_spelled(item) for item in tree]
        case _:
            return tree


_LIST = re.compile(r"\[\n *([^\[\]{}\"]*?)\n *\]")
"""A list of numbers, one a line; a line never ends inside a text."""


def _on_one_line(numbers: re.Match[str]) -> str:
    return "[" + re.sub(r",\n *", ", ", numbers[1]) + "]"


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")
