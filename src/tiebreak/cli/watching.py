"""Verbs that watch: how studies stand, in the terminal and on a live page."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.cli.reading import place_in
from tiebreak.design.axes import UserError

if TYPE_CHECKING:
    from tiebreak.watching.standing import StudyView
    from tiebreak.watching.survey import Survey

_EVERY_SECONDS = 2.0


def add_arguments(status: argparse.ArgumentParser, dashboard: argparse.ArgumentParser) -> None:
    """The options of both verbs."""
    status.add_argument(
        "words", nargs="*", metavar="STUDY | results=DIR", help="one study; the results folder"
    )
    status.add_argument("--watch", action="store_true", help="draw again every 2 s until all is done")
    status.add_argument("--json", action="store_true", help="one JSON object instead of text")
    dashboard.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")
    dashboard.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: this machine only)"
    )
    dashboard.add_argument("--port", type=int, default=8765, help="port to listen at (default: 8765)")
    dashboard.add_argument("--no-open", action="store_true", help="open no browser")


def status(parsed: argparse.Namespace) -> int:
    """Say how studies stand."""
    from tiebreak.watching.survey import Survey

    names = [word for word in parsed.words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"status takes one study, got {' '.join(names)}. Leave the name out for all of them.")
    if not parsed.watch:
        gc.disable()  # the process ends before it would pay: a fifth of the time of ten thousand trials
    survey = Survey(_folder([word for word in parsed.words if "=" in word]))
    survey.refresh()
    name = names[0] if names else None
    views = _chosen(survey, name)
    if parsed.json and not parsed.watch:
        from tiebreak.watching.status import tree

        json.dump(tree(survey, views), sys.stdout, allow_nan=False)
        print()
        return 0
    if parsed.json:
        raise UserError("--json is said once and --watch goes on. Leave one of them out.")
    from rich.console import Console

    from tiebreak.watching.status import text

    console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    if not views and not survey.notices:
        console.print(
            f"There is no study in {survey.results} yet. `tiebreak study` lists those there are to run."
        )
        return 0
    if not parsed.watch:
        console.print(text(survey, views))
        return 0
    return _watch(survey, name, console)


def _watch(survey: Survey, name: str | None, console) -> int:
    from rich.live import Live

    from tiebreak.watching.status import text

    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                views = _chosen(survey, name)
                live.update(text(survey, views), refresh=True)
                if all(view.done == len(view.standings) for view in views):
                    return 0
                time.sleep(_EVERY_SECONDS)
                survey.refresh()
    except KeyboardInterrupt:
        return 0


def dashboard(parsed: argparse.Namespace) -> int:
    """Serve the live page until Ctrl-C."""
    from tiebreak.watching.serving import serve

    if not 0 <= parsed.port <= 65535:
        raise UserError(f"--port must be from 0 to 65535, got {parsed.port}.")
    serve(_folder(parsed.overrides), host=parsed.host, port=parsed.port, opens=not parsed.no_open)
    return 0


def _chosen(survey: Survey, name: str | None) -> list[StudyView]:
    if name is None:
        return list(survey.studies.values())
    if name not in survey.studies:
        known = ", ".join(survey.studies) or "none yet"
        why = " ".join(("", *survey.notices)) if survey.notices else ""
        raise UserError(f"there is no study {name!r} in {survey.results}. Studies there: {known}.{why}")
    return [survey.studies[name]]


def _folder(words: list[str]) -> Path:
    """The results folder; one that was named must be there."""
    folder = place_in(words, "results")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"results={folder} is a file. Name the results folder.")
    if words and not folder.exists():
        raise UserError(
            f"there is no folder {folder}. Name the results folder, or run a study into it first."
        )
    return folder
