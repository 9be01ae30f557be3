"""`tabulate paper`, `draw paper` and `report paper`: the verbs that read, for all studies of the paper."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.design.axes import Device
from tiebreak.records.durable import TEMPORARY, RecordError, explained

if TYPE_CHECKING:
    import pandas as pd

    from tiebreak.design.study import Study
    from tiebreak.records.store import RecordStore


def tabulate(parsed: argparse.Namespace, store: RecordStore) -> int:
    """Make the tables of the paper from the records of its studies."""
    tables = _tables(parsed, store)
    print(f"{len(tables)} tables in {_folder(store, 'tables')}")
    return 0


def draw(parsed: argparse.Namespace, store: RecordStore) -> int:
    """Make the tables of the paper, then every figure that they allow; say what the others need.

    Tables that stand and were edited by hand are refused before anything is written over them.
    """
    from tiebreak.report.paper_figures import draw_paper
    from tiebreak.report.table_files import read_tables

    read_tables(_folder(store, "tables"))
    _tables(parsed, store)
    figures = _folder(store, "figures")
    with explained(figures):
        written, missing = draw_paper(_folder(store, "tables"), figures)
    for sentence in missing:
        print(sentence, file=sys.stderr)
    without = f"; {len(missing)} figures lack records, named above" if missing else ""
    print(f"{len(written)} files in {figures}{without}")
    return 0


def report(parsed: argparse.Namespace, store: RecordStore) -> int:
    """Make tables, figures and the page of the paper; the page appears whole or the last one stays."""
    from tiebreak.report.paper_figures import draw_paper
    from tiebreak.report.paper_page import paper_page

    _tables(parsed, store)
    tables, figures = _folder(store, "tables"), _folder(store, "figures")
    page, unfinished = store.root / "paper.html", store.root / f"{TEMPORARY}paper-{os.getpid()}.html"
    with explained(store.root):
        _, missing = draw_paper(tables, figures)
        try:
            text = paper_page(tables, figures, missing=missing, results_root=store.root)
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, page)
        finally:
            unfinished.unlink(missing_ok=True)
    print(f"report: {page}")
    return 0


def _folder(store: RecordStore, kind: str) -> Path:
    from tiebreak.report.paper import NAME

    return store.root / kind / NAME


def _tables(parsed: argparse.Namespace, store: RecordStore) -> dict[str, pd.DataFrame]:
    from tiebreak.report.paper import studies_of, write_paper_tables

    if not store.root.is_dir():
        raise RecordError(
            f"There is no results folder {store.root}. Give one with results=DIR, or run a study."
        )
    folder = _folder(store, "tables")
    with explained(folder):
        return write_paper_tables(
            store,
            studies_of(store, _planned(store)),
            folder,
            published=_published(store),
            pool_devices=parsed.pool_devices,
            pool_versions=parsed.pool_versions,
        )


def _published(store: RecordStore) -> Path | None:
    """The published numbers beside the results or, of results elsewhere, those of this checkout."""
    places = (store.root / "paper" / "published.csv", Path("results/paper/published.csv"))
    return next((path for path in places if path.exists()), None)


def _planned(store: RecordStore) -> list[Study]:
    """Studies of the paper that were never started, as they are configured for a CPU."""
    from tiebreak import config
    from tiebreak.report.paper import is_of_paper

    names = [name for name in config.list_studies() if is_of_paper(name) and name not in store.studies()]
    return [run.study for run in config.compose_studies(names, device=lambda: Device.CPU)]
