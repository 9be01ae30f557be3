"""The audit of a network: its pools, the rules at ties, the floor, the truth, and which layer it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.auditing.findings import Audit, Layer, Location, Repeat, RuleGap, Section
from tiebreak.auditing.given import Loss, batch_of, first_line, require_sound
from tiebreak.auditing.passes import Call, Pass, Subject, is_about_determinism
from tiebreak.auditing.verdict import concluded
from tiebreak.design.axes import (
    MINIMAL,
    DesignError,
    Forward,
    PoolJacobian,
    Precision,
    Selection,
    UserError,
    member,
)
from tiebreak.exact.call_sites import CallSite
from tiebreak.exact.certificate import Certificate, PoolTruth
from tiebreak.numerics.determinism import deterministic, threads
from tiebreak.numerics.gap import Gap, GapMeter, nan_first
from tiebreak.numerics.precision import arithmetic
from tiebreak.report.wording import count, listed

RULES = (MINIMAL, PoolJacobian(selection=Selection.LAST), PoolJacobian(selection=Selection.ALL_ONES))
"""The rules that are compared with PyTorch's by default."""

_MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
_OUTPUT = "the network's output"
_OWN = {torch.float16: Precision.FP16, torch.bfloat16: Precision.BF16, torch.float64: Precision.FP64}


def audit(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
    *,
    precisions: Sequence[Precision] | None = None,
    jacobians: Sequence[PoolJacobian] = RULES,
    device: torch.device | str | None = None,
    certify: bool = True,
    certify_seconds: float | None = None,
    images_at_a_time: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Does the derivative that a network's max pools take at ties matter, on this batch, and why?

    For each precision a copy of the network is run in the network's own mode (training or evaluation). One
    forward pass serves every rule at ties; the rule is then switched in one layer at a time. Beside these
    gaps stand those of the same rule run again, and, where the network can be certified, what is true over
    the reals. The network itself is never called and stays as it is: state, mode, hooks, gradients, and
    torch's generators too.

    Args:
        model: any module that `copy.deepcopy` can copy. Its 2-D max pools are audited, modules and functional
            calls; others are named in `Audit.left`.
        batch: images and labels, as a pair or a mapping, or images alone with a loss that takes the output
            alone. Images are finite and floating point.
        loss: scalar from the network's output and the labels; None for the mean cross-entropy of the output,
            or of the first tensor where the network returns several.
        precisions: None for that of the parameters.
        jacobians: rules to compare with PyTorch's, with the exact forward arm.
        device: None for that of the parameters.
        certify: whether to ask what is true over the reals: the most expensive part.
        certify_seconds: after which that is given up in each precision, and the answer says so; None for
            never.
        images_at_a_time: how many images are certified at once; None for as many as fit into memory.
        progress: told what is being done.

    Returns:
        One section a precision; `to_text()`, `to_json()` and `to_html()` write it.

    Raises:
        UserError: a network, batch or loss that cannot be, or a network without a 2-D max pool.

    Example:
        >>> head = (nn.Flatten(), nn.Linear(36, 2))
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), *head)
        >>> flat = torch.zeros(5, 1, 8, 8)  # every window ties, between equal patches
        >>> found = audit(net, (flat, torch.zeros(5, dtype=torch.long)))
        >>> str(found.sections[0].label) in ("regular", "compensation")  # equal over the reals
        True
    """
    model, given = require_sound(model), batch_of(batch)
    _check_rules(jacobians)
    if certify_seconds is not None and not certify_seconds > 0:
        raise UserError(f"certify_seconds must be above 0, or None for no limit, got {certify_seconds}.")
    if images_at_a_time is not None and images_at_a_time < 1:
        raise UserError(f"images_at_a_time must be 1 or more, or None, got {images_at_a_time}.")
    if given.labels is None and loss is None:
        raise UserError(
            "the batch has no labels. Add a tensor `labels` (or `y`) with one class an image, or give a "
            "loss that takes the network's output alone (--loss package.module:function)."
        )
    chosen = _device(model, device)
    asked = _precisions(model, precisions, chosen)
    share_flat = _share_flat(given.images)
    sections, left = [], ()
    with torch.inference_mode(False), torch.enable_grad():
        for precision in asked:
            say = _saying(progress, precision)
            say("running")
            subject = Subject.of(model, given, loss=loss, precision=precision, device=chosen)
            with subject.computing():
                truth = _Truth(certify, certify_seconds, images_at_a_time)
                section, left = _section(subject, jacobians=jacobians, truth=truth, say=say)
            sections.append(section)
    can_settle = any(isinstance(module, _MODAL) and module.training for module in model.modules())
    return Audit(
        network=type(model).__name__,
        mode="training" if model.training else "evaluation",
        num_parameters=sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad),
        batch=tuple(given.images.shape),
        loss="mean cross-entropy" if loss is None else getattr(loss, "__name__", type(loss).__name__),
        device=str(chosen) if chosen.type == "cpu" else torch.cuda.get_device_name(chosen),
        torch=str(torch.__version__),
        share_flat=share_flat,
        left=left,
        sections=tuple(
            concluded(section, can_settle=can_settle, share_flat=share_flat) for section in sections
        ),
    )


@dataclass(frozen=True)
class _Truth:
    """Whether to ask what is true over the reals, for how many seconds, and of how many images at a time."""

    asked: bool
    seconds: float | None
    chunk: int | None


def _section(
    subject: Subject, *, jacobians: Sequence[PoolJacobian], truth: _Truth, say: Callable[[str], None]
) -> tuple[Section, tuple[str, ...]]:
    """One precision, and the pools that are left to torch."""
    remarks: tuple[str, ...] = ()
    try:
        with deterministic():
            measured = _Measured(subject, jacobians, say, is_deterministic=True)
    except RuntimeError as error:
        if not is_about_determinism(error):
            raise
        remarks = (f"Measured without deterministic algorithms, because torch says: {first_line(error)}.",)
        measured = _Measured(subject, jacobians, say, is_deterministic=False)
    if measured.num_outputs > 1 and subject.loss is None:
        remarks += (
            f"The network returns {measured.num_outputs} tensors; the loss is that of the first. Give your "
            "own with --loss package.module:function.",
        )
    certificate: Certificate | str = "not asked for"
    if truth.asked:
        say("deciding over the reals")
        certificate = subject.certificate(
            [rule for rule in jacobians if rule.selection is not Selection.RANDOM],
            calls=measured.calls,
            progress=lambda step: say(f"deciding over the reals, {step}"),
            seconds=truth.seconds,
            chunk=truth.chunk,
        )
    return measured.section(certificate, remarks=remarks), measured.left


class _Measured:
    """What floating point shows of one precision."""

    def __init__(
        self,
        subject: Subject,
        jacobians: Sequence[PoolJacobian],
        say: Callable[[str], None],
        *,
        is_deterministic: bool,
    ) -> None:
        self.subject, self.jacobians = subject, jacobians
        run = subject.run()
        self.left = _left(run)
        if not run.calls:
            raise UserError(_nothing(self.left))
        self.calls, self.loss, self.num_outputs = run.calls, float(run.loss.detach()), run.num_outputs
        reference = subject.gradient(run)
        meter = GapMeter(reference)
        say("switching the rule in every layer")
        self.gaps = [meter.to(subject.gradient(run, rule=rule)) for rule in jacobians]
        self.nonfinite = self._nonfinite(run, reference)
        self.norm = math.hypot(*(tensor.reference_l2 for tensor in meter.to(reference).tensors))
        self.switched: str | None = None
        self.own: list[float | None] = [None] * len(self.calls)
        if self.nonfinite is None:
            self._bisect(run, meter, say)
        say("running again")
        self.repeats = self._repeated(run, meter, is_deterministic=is_deterministic)

    def _bisect(self, run: Pass, meter: GapMeter, say: Callable[[str], None]) -> None:
        """The widest choice, in one layer at a time; a layer without a live tie cannot move the gradient."""
        choices = [place for place, rule in enumerate(self.jacobians) if _sums_to_one(rule)]
        widest = self.jacobians[max(choices, key=lambda place: self.gaps[place].relative)]
        self.switched = widest.label
        for number, call in enumerate(run.calls):
            say(f"switching the rule in layer {number + 1} of {len(run.calls)}")
            own = self.subject.gradient(run, rule=widest, only=call) if call.live else None
            self.own[number] = 0.0 if own is None else meter.to(own).relative

    def _repeated(self, run: Pass, meter: GapMeter, *, is_deterministic: bool) -> tuple[Repeat, ...]:
        found = [Repeat(condition="backward pass again", relative=self._gap(meter, run))]
        found.append(Repeat(condition="both passes again", relative=self._gap(meter)))
        if self.subject.device.type == "cpu":
            before = torch.get_num_threads()
            other = 1 if before > 1 else 2
            with threads(other):
                condition = f"both passes with {count(other, 'thread')} instead of {before}"
                found.append(Repeat(condition=condition, relative=self._gap(meter)))
        elif is_deterministic:
            with deterministic(False):
                condition = "both passes with deterministic algorithms off"
                found.append(Repeat(condition=condition, relative=self._gap(meter)))
        return tuple(found)

    def _gap(self, meter: GapMeter, run: Pass | None = None) -> float:
        return meter.to(self.subject.gradient(run or self.subject.run())).relative

    def _nonfinite(self, run: Pass, reference: Sequence[Tensor]) -> str | None:
        """Where an infinity or a NaN stands first."""
        subject = self.subject
        kinds = {
            "the parameter": zip(subject.names, subject.parameters, strict=True),
            "the gradient of": zip(subject.names, reference, strict=True),
        }
        wrong = {
            kind: next((name for name, tensor in pairs if not bool(tensor.isfinite().all())), None)
            for kind, pairs in kinds.items()
        }
        if wrong["the parameter"]:
            return f"the parameter {wrong['the parameter']}, once it is a number of {subject.precision}"
        if not bool(subject.batch.images.isfinite().all()):
            return f"the images, once they are numbers of {subject.precision}"
        if not run.finite:
            return _OUTPUT
        if not math.isfinite(self.loss):
            return "the loss"
        if wrong["the gradient of"]:
            return f"the gradient of {wrong['the gradient of']}"
        rules = zip(self.jacobians, self.gaps, strict=True)
        return next((f"the gradient of rule {rule.label}" for rule, gap in rules if gap.nonfinite), None)

    def section(self, certificate: Certificate | str, *, remarks: tuple[str, ...]) -> Section:
        """With what is true over the reals."""
        known = isinstance(certificate, Certificate)
        truths = _aligned(self.calls, certificate.pools if known else ())
        where = certificate.nonfinite if known else None
        return Section(
            precision=self.subject.precision,
            unit_roundoff=self.subject.precision.working_roundoff,
            loss=self.loss,
            gradient_norm=self.norm,
            nonfinite=where if self.nonfinite == _OUTPUT and where else self.nonfinite,
            rules=tuple(
                self._rule(*pair, certificate) for pair in zip(self.jacobians, self.gaps, strict=True)
            ),
            repeats=self.repeats,
            layers=tuple(map(_layer, self.calls, _locations(self.calls), self.own, truths)),
            switched=self.switched,
            evidence=certificate.evidence if known else None,
            reason=certificate.reason if known else certificate,
            remarks=remarks,
        )

    def _rule(self, jacobian: PoolJacobian, gap: Gap, certificate: Certificate | str) -> RuleGap:
        verdicts = certificate.verdicts if isinstance(certificate, Certificate) else ()
        verdict = next((verdict for verdict in verdicts if verdict.rule == jacobian.label), None)
        sups = [nan_first(tensor.sup) for tensor in gap.tensors]
        most = max(range(len(sups)), key=sups.__getitem__)
        nonfinite = self.nonfinite is not None
        return RuleGap(
            rule=jacobian.label,
            sums_to_one=_sums_to_one(jacobian),
            relative=gap.relative,
            sup=gap.sup,
            most=self.subject.names[most] if sups[most] else None,
            label=verdict and verdict.label(gap_is_zero=gap.sup == 0, nonfinite=nonfinite),
            num_nonzero=dict(verdict.num_nonzero) if verdict else {},
        )


def _locations(calls: Sequence[Call]) -> list[Location]:
    """Where each call is; calls from one place are numbered."""
    places = [call.place for call in calls]
    return [
        _location(place, call=places[: index + 1].count(place) if places.count(place) > 1 else None)
        for index, place in enumerate(places)
    ]


def _layer(call: Call, where: Location, own: float | None, truth: PoolTruth | None) -> Layer:
    counts, margins = call.counts, call.margins
    return Layer(
        where=where,
        kernel=call.geometry.kernel,
        stride=call.geometry.stride,
        windows=counts.windows,
        tied=counts.tied,
        tied_at_zero=counts.tied_at_zero,
        tied_above_zero=counts.tied_above_zero,
        tied_below_zero=counts.tied_below_zero,
        live=call.live,
        margin_median_ulps=margins[0] if margins else None,
        margin_min_ulps=margins[1] if margins else None,
        own_gap=own,
        truth=truth,
    )


def _aligned(calls: Sequence[Call], truths: Sequence[PoolTruth]) -> list[PoolTruth | None]:
    """The truth about each call; a certificate leaves out the pools that the output does not depend on."""
    waiting, found = list(truths), []
    for call in calls:
        is_next = waiting and (waiting[0].where, waiting[0].windows) == (str(call.place), call.counts.windows)
        found.append(waiting.pop(0) if is_next else None)
    return found


def _location(place: CallSite, *, call: int | None = None) -> Location:
    if place.file is None:
        return Location(module=place.module, call=call)
    parts = place.file.parts
    if "site-packages" in parts:  # first, as an environment may lie in the working directory
        file = "/".join(parts[parts.index("site-packages") + 1 :])
    elif place.file.is_relative_to(Path.cwd()):
        file = place.file.relative_to(Path.cwd()).as_posix()
    else:
        file = place.file.name
    return Location(module=place.module, file=file, line=place.line, call=call)


def _left(run: Pass) -> tuple[str, ...]:
    """The pools that keep their own rule, in words."""
    return tuple(
        f"{left.name} at {_location(left.place)} keeps PyTorch's own rule: {left.why}."
        for left in dict.fromkeys(run.left)
    )


def _nothing(left: tuple[str, ...]) -> str:
    if not left:
        return "nothing to audit: the network ran no max pool."
    return f"nothing to audit: the network ran no max pool whose rule can be switched. {' '.join(left)}"


def _check_rules(jacobians: Sequence[PoolJacobian]) -> None:
    given = jacobians if isinstance(jacobians, Sequence) else (jacobians,)
    other = next((rule for rule in given if not isinstance(rule, PoolJacobian)), None)
    if other is not None or given is not jacobians:
        raise DesignError(
            "audit compares a sequence of PoolJacobians, as in jacobians=(tiebreak.MINIMAL,), got "
            f"{jacobians if other is None else other!r}."
        )
    if not any(map(_sums_to_one, jacobians)) or any(rule.forward is not Forward.EXACT for rule in jacobians):
        raise DesignError(
            "audit compares rules with the exact forward arm, at least one of which shares a gradient out, "
            f"got {listed([rule.label for rule in jacobians]) or 'none'}. Use tiebreak.MINIMAL."
        )


def _sums_to_one(rule: PoolJacobian) -> bool:
    return rule.selection is not Selection.ALL_ONES


def _device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    try:
        chosen = next(model.parameters()).device if device is None else torch.device(device)
    except RuntimeError:
        raise UserError(f"device must be cpu or cuda, got {device!r}.") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device must be cpu or cuda, got {str(chosen)!r}.")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda needs a CUDA device and this torch sees none. Use device=cpu, or install a torch "
            "that was built for CUDA."
        )
    return chosen


def _precisions(
    model: nn.Module, precisions: Sequence[Precision] | None, device: torch.device
) -> tuple[Precision, ...]:
    """Those asked for, each once; each can be computed in on the device."""
    if precisions is None:
        return (_OWN.get(next(model.parameters()).dtype, Precision.FP32),)
    asked = tuple(dict.fromkeys(member(Precision, precision, key="precision") for precision in precisions))
    if not asked:
        raise UserError("at least one precision must be asked for. Use for example fp32.")
    for precision in asked:
        with arithmetic(precision, device=device):
            pass
    return asked


def _share_flat(images: Tensor) -> float | None:
    """Share of 3x3 neighbourhoods that are constant in every channel: equal patches tie under any weights."""
    if images.dim() != 4 or min(images.shape[-2:]) < 3:
        return None
    pixels = images.detach().double()
    highest, lowest = (sign * functional.max_pool2d(sign * pixels, 3, 1) for sign in (1, -1))
    return float((highest == lowest).all(1).double().mean())


def _saying(progress: Callable[[str], None] | None, precision: Precision) -> Callable[[str], None]:
    return lambda doing: progress(f"{precision}: {doing}") if progress else None
