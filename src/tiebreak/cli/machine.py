"""Verbs about this machine: its data, its compiled kernel, the conventions of its arithmetic."""

from __future__ import annotations

import argparse
import sys

from tiebreak.cli.reading import place_in
from tiebreak.design.axes import UserError
from tiebreak.records.durable import write


def fetch(parsed: argparse.Namespace) -> int:
    """Download a data set."""
    from tiebreak.data import fetch
    from tiebreak.design.axes import DataName, member

    root = place_in(parsed.overrides, "data_root")
    fetch(member(DataName, parsed.data, key="data"), root=root, progress=sys.stderr.isatty())
    print(f"{parsed.data} is in {root}")
    return 0


def kernel(parsed: argparse.Namespace) -> int:
    """Say whether the compiled kernel is there."""
    from tiebreak.numerics.native import kernel_status

    status = kernel_status()
    print(f"compiled CPU kernel: {'ready' if status.available else 'absent'} ({status.reason})")
    return 0


def conventions(parsed: argparse.Namespace) -> int:
    """Measure what this torch does at ties and kinks."""
    from tiebreak.console import make_console
    from tiebreak.conventions import compiler_status, measure_conventions, surroundings, to_json, to_markdown

    if parsed.output is not None and parsed.output.is_dir():
        raise UserError(f"--output {parsed.output} is a folder. Name a file in it.")
    if parsed.output is not None and not parsed.output.parent.is_dir():
        raise UserError(
            f"--output {parsed.output}: there is no folder {parsed.output.parent}. Make it first."
        )
    device = auto_device()() if parsed.device == "auto" else parsed.device
    compiled, reason = False, "--no-compile was given"
    if not parsed.no_compile:
        compiled, reason = compiler_status(device=device)
    with make_console().status("measuring") as status:
        found = measure_conventions(
            device=device,
            compiled=compiled,
            progress=lambda done, total: status.update(f"measuring: {done} of {total} operations"),
        )
    where = surroundings(device=device, compiled="measured" if compiled else f"not measured: {reason}")
    text = to_json(found, where=where) if parsed.json else to_markdown(found, where=where)
    if parsed.output is None:
        print(text, end="")
        return 0
    write(parsed.output, text)
    print(f"conventions: {parsed.output}")
    return 0


def auto_device():
    """What `device=auto` becomes; said once."""
    from tiebreak.cuda import best_device
    from tiebreak.design.axes import Device

    chosen: list[Device] = []

    def resolve() -> Device:
        if not chosen:
            chosen.append(best_device())
            why = "a CUDA device is there" if chosen[0] is Device.CUDA else "there is no CUDA device"
            print(f"device: {chosen[0]} (auto: {why})", file=sys.stderr)
        return chosen[0]

    return resolve
