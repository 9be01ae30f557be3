"""Verbs about AD over machine numbers: counterexamples, and the scoreboard of theorems."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tiebreak.cli.ending import FAULT
from tiebreak.design.axes import UserError


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
    board = verb("scoreboard", scoreboard, "say what `tiebreak study theory/scoreboard` found")
    board.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")
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
    """Show what the study of the theorems found; exit code 1 if one is not as it must be."""
    from tiebreak.cli.closing import close
    from tiebreak.cli.reading import store_of
    from tiebreak.report.tables import build_tables, read_frames

    store = store_of(parsed)
    if not store.study_path(_SCOREBOARD).exists():
        raise UserError(f"no theorem has been tried in {store.root}. Run `tiebreak study {_SCOREBOARD}`.")
    study = store.read_study(_SCOREBOARD)
    if not parsed.json:
        return close(store, study)
    frames = read_frames(store, study, pool_devices=True, pool_versions=True)
    table = build_tables(frames).get("statements")
    if table is None:
        return 0
    print(table.to_json(orient="records", lines=True, force_ascii=False), end="")
    return 0 if bool(table["as_it_must_be"].all()) else FAULT


_SCOREBOARD = "theory/scoreboard"
