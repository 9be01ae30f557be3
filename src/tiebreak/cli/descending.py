"""Verbs of the study of training with kinks."""

from __future__ import annotations

import argparse
from pathlib import Path

from tiebreak.design.axes import UserError
from tiebreak.records.durable import write

_CLAIMS = "descent/claims"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of `tiebreak descent`."""
    verb.add_argument("table", choices=["claims"], help="claims: statements, numbers and verdicts")
    verb.add_argument("words", nargs="*", metavar="C1 | results=DIR", help="which claims; the results folder")
    verb.add_argument("--json", action="store_true", help="every check as JSON, not the table")
    verb.add_argument("--output", type=Path, metavar="FILE", help="a file instead of the terminal")


def descent(parsed: argparse.Namespace) -> int:
    """Say what `tiebreak study descent/claims` found."""
    from tiebreak.cli.reading import store_of
    from tiebreak.report.descent_claims import chosen, findings, to_json, to_text
    from tiebreak.report.tables import build_tables, read_frames

    parsed.overrides = [word for word in parsed.words if "=" in word]
    claims = chosen([word for word in parsed.words if "=" not in word])
    if parsed.output is not None and (parsed.output.is_dir() or not parsed.output.parent.is_dir()):
        raise UserError(f"--output {parsed.output} is no file in a folder that is there. Name one.")
    store = store_of(parsed)
    if not store.study_path(_CLAIMS).exists():
        raise UserError(f"no claim has been tested in {store.root}. Run `tiebreak study {_CLAIMS}`.")
    frames = read_frames(store, store.read_study(_CLAIMS), pool_devices=True, pool_versions=True)
    found = findings(build_tables(frames), claims=claims)
    if missing := [claim.name for claim in claims if claim.name not in {item.name for item in found}]:
        raise UserError(
            f"{', '.join(missing)} cannot be judged: trials are missing in {store.root}. Run `tiebreak study "
            f"{_CLAIMS}`, or name other claims."
        )
    text = to_json(found) if parsed.json else to_text(found)
    if parsed.output is not None:
        write(parsed.output, text)
        print(f"claims: {parsed.output}")
    else:
        print(text, end="")
    return 0
