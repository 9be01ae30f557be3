"""Verbs about AD over machine numbers: counterexamples, and the scoreboard of theorems."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from tiebreak.design.axes import UserError

if TYPE_CHECKING:
    from tiebreak.theory.trials import Finding


def add_arguments(theory: argparse.ArgumentParser) -> None:
    """The verbs under `theory`."""
    theory.set_defaults(verb=lambda parsed: theory.print_help() or 0)
    verbs = theory.add_subparsers(title="verbs", metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(verb=run)
        return added

    example = verb("counterexample", counterexample, "show a network and a point where AD is wrong")
    example.add_argument("name", nargs="?", help="which; without it, what there is")
    board = verb(
        "scoreboard", scoreboard, "try every theorem on small networks, and the controls that must fail"
    )
    board.add_argument("--only", metavar="THEOREM", help="one theorem and its controls, such as T4")
    board.add_argument("--json", action="store_true", help="one object a line, not the table")


def counterexample(parsed: argparse.Namespace) -> int:
    """Show a counterexample, or the list."""
    from tiebreak.theory.gallery import GALLERY, told
    from tiebreak.theory.gallery import counterexample as chosen

    if parsed.name is None:
        width = max(len(example.name) for example in GALLERY)
        for example in GALLERY:
            print(f"{example.name:{width}}  {example.teaches}")
        return 0
    print(told(chosen(parsed.name)), end="")
    return 0


def scoreboard(parsed: argparse.Namespace) -> int:
    """Run the checks; exit code 1 if one is not as it must be."""
    from tiebreak.theory.theorems import checks, finding

    asked = tuple(check for check in checks() if parsed.only in (None, check.theorem.partition(" ")[0]))
    if not asked:
        names = dict.fromkeys(check.theorem.partition(" ")[0] for check in checks())
        raise UserError(f"--only must be one of {', '.join(names)}, got {parsed.only!r}.")
    good = 0
    for number, check in enumerate(asked, start=1):
        if sys.stderr.isatty():
            print(f"{number} of {len(asked)}: {check.theorem}", end="\r", file=sys.stderr)
        found = finding(check)
        good += found.is_as_it_must_be
        print(_json(found) if parsed.json else _line(found), flush=True)
    if not parsed.json:
        print(f"{good} of {len(asked)} are as they must be.")
    return 0 if good == len(asked) else 1


def _line(found: Finding) -> str:
    check, tally = found.check, found.tally
    said = "as it must be" if found.is_as_it_must_be else "NOT as it must be"
    verdict = f"{'fails' if tally.violations else 'holds'}, {said}"
    lines = [
        f"{check.theorem:11} {verdict}: {tally.violations} violations in {tally.points} points of "
        f"{len(check.networks)} networks",
        f"{'':11} {check.statement}",
    ]
    if tally.witness:
        lines.append(f"{'':11} first: {tally.witness}")
    return "\n".join(lines)


def _json(found: Finding) -> str:
    check, tally = found.check, found.tally
    return json.dumps(
        {
            "theorem": check.theorem,
            "statement": check.statement,
            "is_control": check.is_control,
            "networks": list(check.networks),
            "points": tally.points,
            "violations": tally.violations,
            "witness": tally.witness,
            "is_as_it_must_be": found.is_as_it_must_be,
        },
        ensure_ascii=False,
    )
