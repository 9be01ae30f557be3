"""The verb that asks the questions of the study of a user's own network."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

from tiebreak.cli.machine import auto_device
from tiebreak.design.axes import Precision, UserError, member
from tiebreak.records.durable import write


def add_arguments(audit: argparse.ArgumentParser) -> None:
    """The options of `audit`."""
    audit.add_argument("factory", help="package.module:factory, which returns an nn.Module; or a module")
    audit.add_argument(
        "--batch", type=Path, required=True, metavar="FILE", help="images, labels: safetensors"
    )
    audit.add_argument(
        "--precision", default="fp32", help="one or several, as fp32,bf16,fp16 (default: fp32)"
    )
    audit.add_argument("--loss", metavar="NAME", help="package.module:function (default: cross-entropy)")
    audit.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where")
    audit.add_argument("--eval", action="store_true", help="in evaluation mode, whatever the factory chose")
    audit.add_argument("--seed", type=int, default=0, help="of torch's generator before the factory runs (0)")
    asked = audit.add_argument_group("what is true over the reals, the most expensive question")
    asked.add_argument("--no-certify", action="store_true", help="do not ask it")
    asked.add_argument(
        "--certify-seconds", type=float, metavar="S", help="give it up after so long (default: never)"
    )
    asked.add_argument("--images", type=int, metavar="N", help="images at a time (default: by memory)")
    audit.add_argument("--html", type=Path, metavar="FILE", help="write a page, too")
    audit.add_argument("--json", action="store_true", help="JSON instead of text")


def audit(parsed: argparse.Namespace) -> int:
    """Audit a network, print what was found, and write a page where one is asked for."""
    precisions = [member(Precision, word, key="--precision") for word in parsed.precision.split(",")]
    if not 0 <= parsed.seed < 2**63:
        raise UserError(f"--seed must be 0 or more and below 2**63, got {parsed.seed}.")
    if parsed.certify_seconds is not None and not parsed.certify_seconds > 0:
        raise UserError(f"--certify-seconds must be above 0, got {parsed.certify_seconds:g}.")
    if parsed.images is not None and parsed.images < 1:
        raise UserError(f"--images must be 1 or more, got {parsed.images}.")
    if parsed.html is not None:
        _require_writable(parsed.html)
    from tiebreak.console import make_console
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak.auditing import audit as audited
        from tiebreak.auditing.given import load_loss, read_batch
        from tiebreak.models.factory import load_model

    device = str(auto_device()() if parsed.device == "auto" else parsed.device)
    batch = read_batch(parsed.batch)
    with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the JSON
        model = load_model(parsed.factory, seed=parsed.seed)
        loss = load_loss(parsed.loss) if parsed.loss else None
    if parsed.eval:
        model = model.eval()
    with make_console().status("auditing") as status, redirect_stdout(sys.stderr):
        found = audited(
            model,
            batch,
            loss,
            precisions=precisions,
            device=device,
            certify=not parsed.no_certify,
            certify_seconds=parsed.certify_seconds,
            images_at_a_time=parsed.images,
            progress=status.update,
        )
    if parsed.html is not None:
        write(parsed.html, found.to_html())
        print(f"page: {parsed.html}", file=sys.stderr)
    print(found.to_json() if parsed.json else found.to_text(), end="")
    return 0


def _require_writable(page: Path) -> None:
    """Refuse a page that cannot be written, before the work and not after it."""
    if page.is_dir():
        raise UserError(f"--html {page} is a folder. Name a file in it.")
    if not page.parent.is_dir():
        raise UserError(f"--html {page}: there is no folder {page.parent}. Make it first.")
    if not os.access(page if page.exists() else page.parent, os.W_OK):
        raise UserError(f"--html {page} cannot be written: permission denied. Name another file.")
