"""Verbs of the study of nonsmooth training."""

from __future__ import annotations

import argparse
from pathlib import Path

from tiebreak.design.axes import UserError
from tiebreak.records.durable import write


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of `tiebreak descent`."""
    verb.add_argument("table", choices=["claims"], help="claims: statements, numbers and verdicts")
    verb.add_argument("names", nargs="*", metavar="C1", help="which claims (default: all)")
    verb.add_argument("--json", action="store_true", help="every check as JSON, not the table")
    verb.add_argument("--output", type=Path, metavar="FILE", help="a file instead of the terminal")


def descent(parsed: argparse.Namespace) -> int:
    """Test claims about nonsmooth training and say what holds."""
    from tiebreak.console import make_console
    from tiebreak.descent.claims import chosen, examine, to_json, to_text
    from tiebreak.numerics.determinism import threads

    claims = chosen(parsed.names)
    if parsed.output is not None and (parsed.output.is_dir() or not parsed.output.parent.is_dir()):
        raise UserError(f"--output {parsed.output} is no file in a folder that is there. Name one.")
    findings = []
    with make_console().status("testing") as status, threads(1):
        rest = examine(claims)
        for number, claim in enumerate(claims, start=1):
            status.update(f"testing {claim.name}, {number} of {len(claims)}")
            findings.append(next(rest))
            if parsed.output is None and not parsed.json:
                print(to_text(findings[-1:]))
    if parsed.output is not None:
        write(parsed.output, to_json(findings) if parsed.json else to_text(findings))
        print(f"claims: {parsed.output}")
    elif parsed.json:
        print(to_json(findings), end="")
    return 0
