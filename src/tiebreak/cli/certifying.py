"""Verbs about truth over the reals: write a certificate, and check one that was written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.cli.machine import auto_device
from tiebreak.design.axes import UserError
from tiebreak.design.cell import Cell
from tiebreak.design.stored import trial_of

if TYPE_CHECKING:
    from tiebreak.protocols.points import Point


def add_arguments(certify: argparse.ArgumentParser, check: argparse.ArgumentParser) -> None:
    """The options of both verbs."""
    given = certify.add_argument_group("what is certified: a cell, a checkpoint of one, or a module of yours")
    given.add_argument(
        "overrides", nargs="*", help="key=value, as `tiebreak run` takes them; draw=K: batch K"
    )
    given.add_argument("--checkpoint", type=Path, metavar="FILE", help="a state dict (safetensors)")
    given.add_argument("--eval", action="store_true", help="the network in evaluation mode")
    given.add_argument("--model", metavar="PACKAGE.MODULE:FACTORY", help="a function that returns a module")
    given.add_argument(
        "--model-seed",
        type=int,
        default=0,
        metavar="N",
        help="of torch's generator before the factory runs (0), as `audit --seed`",
    )
    given.add_argument("--batch", type=Path, metavar="FILE", help="images and labels (safetensors)")
    certify.add_argument("--jacobians", metavar="RULES", help="such as minimal,beta100,last")
    certify.add_argument("--error", default="2**-40", help="bound of the probability of a wrong statement")
    certify.add_argument("--seed", type=int, help="of the primes (default: drawn)")
    certify.add_argument("--output", type=Path, default=Path("certificate.json"), metavar="FILE")
    check.add_argument("certificate", type=Path, metavar="FILE", help="a certificate (.json)")
    check.add_argument("--slow", action="store_true", help="in exact rationals; small networks only")
    check.add_argument("--seed", type=int, help="of the fresh primes (default: drawn)")
    for verb, text in ((certify, "default: random"), (check, "default: that of the certificate")):
        verb.add_argument("--mode", choices=["random", "proof"], help=f"random primes, or a proof ({text})")
        verb.add_argument("--images", type=int, metavar="N", help="images at a time (default: by memory)")


def certify(parsed: argparse.Namespace) -> int:
    """Certify a point and write the certificate."""
    _require_sane(parsed)
    log2_error = _exponent(parsed.error)
    from tiebreak.console import make_console
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak.exact.certificate import Mode
        from tiebreak.exact.rules import label_of
        from tiebreak.numerics.native import kernel_status
        from tiebreak.protocols.certificate_files import (
            certify_point,
            require_name,
            verdict_sentences,
            write_certificate,
        )
        from tiebreak.records.provenance import collect, utc_now

    require_name(parsed.output)
    started = utc_now()
    point = _model_point(parsed) if parsed.model else _cell_point(parsed)
    provenance = collect(point.graph.batch.device.type, kernel=str(kernel_status())) | {"started": started}
    with make_console().status("certifying") as status:
        stored = certify_point(
            point,
            mode=Mode(parsed.mode or Mode.RANDOM),
            log2_error=log2_error,
            seed=parsed.seed,
            chunk=parsed.images,
            provenance=provenance,
            progress=lambda step: status.update(f"certifying, {step}"),
        )
    stored = replace(stored, provenance=provenance | {"ended": utc_now()})
    write_certificate(parsed.output, stored)
    print(stored.about)
    labels = stored.labels()
    for jacobian, sentence in zip(stored.jacobians, verdict_sentences(stored.certificate), strict=True):
        name = label_of(jacobian)
        print(f"  {labels[name]}: {sentence}; the float gap is {stored.gaps[name].l1:.3g}")
    for pool in stored.certificate.pools:
        print(
            f"  {pool.where}: {pool.windows} windows, {pool.tied} tied over the reals, "
            f"{pool.tied_only_by_rounding} by rounding alone, {pool.missed_by_rounding} missed by rounding"
        )
    print("  D is the difference of two derivatives of this batch's loss, with its cotangent as computed.")
    print(f"  {parsed.output}")
    return 0


def check(parsed: argparse.Namespace) -> int:
    """Check a certificate, field by field."""
    _require_sane(parsed)
    if parsed.slow and (parsed.seed is not None or parsed.mode is not None):
        raise UserError("--slow is a proof without primes: it takes no --seed and no --mode. Leave them out.")
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak.exact.certificate import Certificate, Mode
        from tiebreak.exact.recheck import Standing, recheck
        from tiebreak.protocols.certificate_files import read_certificate, verdict_sentences

    unpacked = read_certificate(parsed.certificate)
    print(unpacked.stored.about)
    wrong, open_here, second = [], [], None
    for found in recheck(
        unpacked,
        slow=parsed.slow,
        seed=parsed.seed,
        mode=Mode(parsed.mode) if parsed.mode else None,
        chunk=parsed.images,
    ):
        if isinstance(found, Certificate):
            second = found
            continue
        print(f"  {found.standing:5} {found.field}: {found.text}")
        if found.standing is Standing.OTHER:
            wrong.append(found.field)
        elif found.standing is Standing.OPEN:
            open_here.append(found.field)
    if wrong:
        raise UserError(
            f"{parsed.certificate} does not hold: its own numbers do not give {', '.join(wrong)}. "
            "Certify again."
        )
    if open_here:
        raise UserError(
            f"{parsed.certificate} is not refuted and not verified: float64 on this machine leaves "
            f"{', '.join(open_here)} open. Check it on the machine that wrote it."
        )
    assert second is not None
    said = ". ".join(verdict_sentences(second))
    print(f"verified: {said}. About the recorded cotangent; the gaps of the float program are as recorded.")
    return 0


def _cell_point(parsed: argparse.Namespace) -> Point:
    from tiebreak import config
    from tiebreak.protocols.points import jacobians_of, point_of_cell

    draw, overrides = _drawn(parsed.overrides)
    rules = []
    if parsed.jacobians:
        chosen = jacobians_of(parsed.jacobians)
        family = [repr(jacobian.beta) for jacobian in chosen if jacobian.selection == "beta"]
        others = [str(jacobian.selection) for jacobian in chosen if jacobian.selection != "beta"]
        rules = [f"pool.betas=[{','.join(['0', *family])}]", f"pool.selections=[{','.join(others)}]"]
    run = config.compose_run(["protocol=zones", *overrides, *rules], device=auto_device())
    trial = trial_of(Cell, run.trial, asker="tiebreak certify")
    return point_of_cell(trial, run, draw=draw, weights=parsed.checkpoint, evaluation=parsed.eval)


def _model_point(parsed: argparse.Namespace) -> Point:
    from tiebreak.auditing.given import read_classes
    from tiebreak.models.factory import load_model
    from tiebreak.protocols.points import jacobians_of, point_of_model

    images, labels = read_classes(parsed.batch)
    model = load_model(parsed.model, seed=parsed.model_seed)
    if parsed.eval:
        model.eval()
    return point_of_model(
        model,
        images,
        labels,
        jacobians=jacobians_of(parsed.jacobians or "minimal"),
        about=f"{parsed.model} on {parsed.batch.name}{', in evaluation mode' if parsed.eval else ''}",
    )


def _drawn(words: Sequence[str]) -> tuple[int, list[str]]:
    """The number in `draw=K`, and the other words."""
    draw, others = 0, []
    for word in words:
        name, sign, value = word.partition("=")
        if name != "draw" or not sign:
            others.append(word)
        elif value.isdecimal():
            draw = int(value)
        else:
            raise UserError(f"draw must be the number of a batch, 0 or more, got {value!r}.")
    return draw, others


def _require_sane(parsed: argparse.Namespace) -> None:
    for name, least in (("seed", 0), ("images", 1)):
        value = getattr(parsed, name)
        if value is not None and value < least:
            raise UserError(f"--{name} must be {least} or more, got {value}.")
    if "model" not in parsed:
        return
    if not 0 <= parsed.model_seed < 2**63:
        raise UserError(f"--model-seed must be 0 or more and below 2**63, got {parsed.model_seed}.")
    if bool(parsed.model) != bool(parsed.batch):
        missing = "--batch FILE" if parsed.model else "--model PACKAGE.MODULE:FACTORY"
        raise UserError(f"--model and --batch go together. Add {missing}.")
    if parsed.model and (parsed.overrides or parsed.checkpoint):
        what = parsed.overrides[0] if parsed.overrides else "--checkpoint"
        raise UserError(f"{what} belongs to a cell, and --model names a network of yours. Leave one out.")


def _exponent(text: str) -> float:
    """log2 of a probability spelled `2**-40`, `2^-40` or `-40`."""
    try:
        exponent = float(text.removeprefix("2**").removeprefix("2^"))
    except ValueError:
        exponent = 0.0
    if not -10_000 <= exponent < 0:
        raise UserError(f"--error must be from 2**-10000 to below 1, such as 2**-40, got {text!r}.")
    return exponent
