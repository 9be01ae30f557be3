"""Verbs that read what was measured: tables, figures, the report; and the one that renames records."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tiebreak.design.axes import UserError
from tiebreak.records.durable import TEMPORARY, explained

if TYPE_CHECKING:
    import pandas as pd

    from tiebreak.records.store import RecordStore

_PAPER = "paper"


def tabulate(parsed: argparse.Namespace) -> int:
    """Make a study's tables from its records."""
    from tiebreak.report.table_files import write_tables

    store = store_of(parsed)
    if parsed.name == _PAPER:
        from tiebreak.cli import paper

        return paper.tabulate(parsed, store)
    folder = _tables(store, parsed.name)
    study = store.read_study(parsed.name)
    with explained(folder):
        tables = write_tables(store, study, folder, **_pooled(parsed))
    print(f"{len(tables)} tables in {folder}")
    return 0


def draw(parsed: argparse.Namespace) -> int:
    """Draw a study's figures from its tables."""
    from tiebreak.report.figures import draw_figures

    store = store_of(parsed)
    if parsed.name == _PAPER:
        from tiebreak.cli import paper

        return paper.draw(parsed, store)
    if not _tables(store, parsed.name).is_dir():
        raise UserError(
            f"there are no tables of {parsed.name} in {store.root}. Run `tiebreak tabulate` first."
        )
    folder = store.root / "figures" / parsed.name
    with explained(folder):
        written = draw_figures(_tables(store, parsed.name), folder)
    print(f"{len(written)} files in {folder}")
    return 0


def report(parsed: argparse.Namespace) -> int:
    """Make tables, figures and the page of a study."""
    store = store_of(parsed)
    if parsed.name == _PAPER:
        from tiebreak.cli import paper

        return paper.report(parsed, store)
    print(f"report: {write_page(store, parsed.name, **_pooled(parsed))}")
    return 0


def write_page(
    store: RecordStore, name: str, *, pool_devices: bool = False, pool_versions: bool = False
) -> Path:
    """Make tables, figures and the page; the page's path. It appears whole or the last one stays."""
    from tiebreak.report.html import write_report

    study = store.read_study(name)
    page, unfinished = store.root / "report.html", store.root / f"{TEMPORARY}report-{os.getpid()}.html"
    with explained(store.root):
        try:
            write_report(
                store.root, study, unfinished, pool_devices=pool_devices, pool_versions=pool_versions
            )
            os.replace(unfinished, page)  # a page cut short by a full disk would pass for a finished one
        finally:
            unfinished.unlink(missing_ok=True)
    return page


def migrate(parsed: argparse.Namespace) -> int:
    """Give the records of an older version their present ids and places."""
    store = store_of(parsed)
    print(f"{store.migrate()} records in {store.root} were given their present names")
    return 0


class _Pooled(TypedDict):
    pool_devices: bool
    pool_versions: bool


def _pooled(parsed: argparse.Namespace) -> _Pooled:
    """Which records may share a table although they come from different places."""
    return {"pool_devices": parsed.pool_devices, "pool_versions": parsed.pool_versions}


def import_reference(parsed: argparse.Namespace) -> int:
    """Read a clone of the published repository and keep its results beside ours; say what is odd about it.

    Raises:
        UserError: the clone holds no run and no learning rate; what was kept of an earlier import stands.
    """
    from tiebreak.report.reference import read_reference
    from tiebreak.report.reference_page import beside, keep_reference
    from tiebreak.report.table_files import arguments

    store = store_of(parsed)
    reference = read_reference(parsed.clone)
    for remark in reference.remarks:
        print(remark)
    if not len(reference.runs) and not len(reference.rates):
        raise UserError(
            f"{parsed.clone} holds no run and no learning rate that can be read; nothing was written. Give a "
            "whole clone of the published repository."
        )
    table = beside(reference.table(), _accuracy(store))
    place = keep_reference(store.root / "paper", table, reference.of_files)
    known = int(table["our_num_runs"].gt(0).sum())
    found = f"{len(reference.runs)} runs, {len(reference.rates)} learning rates"
    print(f"{found}; {known} of {len(table)} rows stand beside ours: {place}")
    print(f"`tiebreak report {arguments(_PAPER, store.root)}` shows them on its page.")
    return 0


def _accuracy(store: RecordStore) -> pd.DataFrame:
    """Our table of accuracies by beta; empty where nothing was trained."""
    import pandas as pd

    from tiebreak.report.tables import build_tables, read_frames

    if not store.study_path(_PUBLISHED).exists():
        return pd.DataFrame()
    frames = read_frames(store, store.read_study(_PUBLISHED), pool_devices=True, pool_versions=True)
    return build_tables(frames).get("accuracy", pd.DataFrame())


_PUBLISHED = "paper/accuracy_by_beta"


def _tables(store: RecordStore, name: str) -> Path:
    return store.root / "tables" / name


def store_of(parsed: argparse.Namespace) -> RecordStore:
    """The records in the results folder that the overrides name."""
    from tiebreak.records.store import RecordStore

    return RecordStore(place_in(parsed.overrides, "results"))


def place_in(words: Sequence[str], key: str) -> Path:
    """The folder in the only override that this verb takes."""
    chosen = Path(key if key == "results" else "data")
    for word in words:
        name, sign, value = word.partition("=")
        if name != key or not sign or not value:
            raise UserError(f"this verb takes {key}=DIR, got {word!r}.")
        chosen = Path(value)
    return chosen
