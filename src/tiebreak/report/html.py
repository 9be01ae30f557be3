"""One self-contained page of a study: answer, outcomes, figures, the tables behind them, and how to redo it.

The page opens offline: style, script, figures and tables are inside it, and it asks the network for nothing.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tiebreak.design.cell import AnyCell, Cell
from tiebreak.design.study import Study
from tiebreak.records.session import OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.records.table import MISSING
from tiebreak.report.answers import answers
from tiebreak.report.figures import FIGURES, draw_figures
from tiebreak.report.panels import axis_names, varying_axes
from tiebreak.report.table_files import (
    arguments,
    pooling_flags,
    read_index,
    read_tables,
    to_csv,
    write_tables,
)

MAX_PDF_BYTES = 100_000
"""A PDF up to this size is offered inside the page; a larger one stays beside the tables."""

MAX_SHOWN_ROWS = 500
"""Longer tables are offered as CSV only."""

_WORDS = {
    str(OutcomeKind.COMPLETED): "completed",
    str(OutcomeKind.DIVERGED): "diverged",
    str(OutcomeKind.NOT_LEARNED): "not learned",
    str(OutcomeKind.FAILED): "failed",
    MISSING: "missing",
}
_ADDRESS = ("cell", "trial", "reference_cell")


def write_report(
    results_root: Path, study: Study, out: Path, *, pool_devices: bool = False, pool_versions: bool = False
) -> Path:
    """Rebuild tables and figures of a study from its records and write the page.

    Args:
        results_root: folder of records; `tables/<study>` and `figures/<study>` are written in it.
        study: whose page. Trials without a record are counted as missing.
        out: the file to write; folders on the way are made.
        pool_devices: let records of different devices into one table.
        pool_versions: let records of different versions of torch into one table.

    Returns:
        `out`.

    Raises:
        PoolingError: records of different devices or versions, unless they may be pooled.
    """
    tables_folder = results_root / "tables" / study.name
    figures_folder = results_root / "figures" / study.name
    write_tables(
        RecordStore(results_root),
        study,
        tables_folder,
        pool_devices=pool_devices,
        pool_versions=pool_versions,
    )
    draw_figures(tables_folder, figures_folder)
    links = os.path.relpath(results_root, out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = page(study, tables_folder, figures_folder, records_link=links, results_root=results_root)
    out.write_text(text, encoding="utf-8")
    return out


def page(
    study: Study,
    tables_folder: Path,
    figures_folder: Path,
    *,
    records_link: str,
    results_root: Path = Path("results"),
) -> str:
    """The page as text.

    Args:
        study: its question, hypothesis and trials.
        tables_folder: what `write_tables` wrote for it.
        figures_folder: what `draw_figures` drew from that.
        records_link: relative path from the page to the results folder.
        results_root: the results folder as the commands of the page name it.
    """
    tables, index = read_tables(tables_folder), read_index(tables_folder)
    folder = files("tiebreak.report") / "templates"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    trials = tables["trials"]
    outcomes = {word: int((trials["outcome"] == kind).sum()) for kind, word in _WORDS.items()}
    cells = {trial.id: trial.cell for trial in study.trials}
    protocols = list(dict.fromkeys(cell.protocol for cell in cells.values()))
    shown = [kind for kind in FIGURES if (figures_folder / f"{kind.name}.png").exists()]
    behind = {kind.table for kind in shown} | {"trials", "epochs"}
    return template.render(
        study=study,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "sort.js").read_text(encoding="utf-8")),
        answers=answers(tables, protocols),
        has_labels="certified" in tables,
        num_trials=len(trials),
        num_done=len(trials) - outcomes["missing"],
        num_cells=trials["cell"].nunique(),
        outcomes=outcomes,
        outcomes_by_protocol=_by_protocol(tables["outcomes"]),
        outcome_download=_download("outcomes", tables, index),
        figures=[
            {
                "kind": kind,
                "caption": kind.words(tables),
                "png": _data_uri(figures_folder / f"{kind.name}.png", "image/png"),
                "pdf": _small_pdf(figures_folder / f"{kind.name}.pdf"),
                "table": _shown(kind.table, tables, index),
            }
            for kind in shown
        ],
        others=[_shown(name, tables, index) for name in tables if name not in behind and name != "outcomes"],
        downloads=[_download(name, tables, index) for name in tables],
        provenance=index["trials"],
        commands=_commands(study.name, results_root, made=index["trials"]),
        records=[_record(row, records_link, cell=cells[row["trial"]]) for row in trials.to_dict("records")],
        has_pools=any(isinstance(cell, Cell) for cell in cells.values()),
    )


def _commands(study: str, results_root: Path, *, made: Mapping[str, Any]) -> list[str]:
    """What to type to make the page again, from nothing to the page."""
    words = arguments(study, results_root)
    flag = pooling_flags(devices=len(made["devices"]) > 1, versions=len(made["torch"]) > 1)
    return [
        f"tiebreak study {words}",
        f"tiebreak tabulate {words}{flag}",
        f"tiebreak draw {words}",
        f"tiebreak report {words}{flag}",
    ]


def _by_protocol(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A table of several protocols, each with those of the varying axes that it has: not many are shared."""
    axes = axis_names()
    names = [name for name in _columns(table) if name not in axes or table[name].nunique() > 1]
    shown = {}
    for protocol, part in table.groupby("protocol", sort=False):
        filled = [name for name in names if part[name].notna().any()]
        shown[str(protocol)] = {"columns": filled, "rows": _rows(part, filled), "num_rows": len(part)}
    return shown


def _shown(name: str, tables: Mapping[str, pd.DataFrame], index: Mapping[str, Any]) -> dict[str, Any]:
    """A table as the template wants it: varying axes and every measured column."""
    names = _columns(tables[name])
    return {**_download(name, tables, index), "columns": names, "rows": _rows(tables[name], names)}


def _columns(table: pd.DataFrame) -> list[str]:
    axes, varying = set(axis_names()), set(varying_axes(table))
    own = ("recipe", "epoch", "pool", "copy", "jacobian", "reference", "lr")
    names = [name for name in table.columns if name not in axes or name in varying or name in own]
    return [name for name in names if name != "protocol"]


def _rows(table: pd.DataFrame, names: Sequence[str]) -> list[list[dict[str, Any]]]:
    if len(table) > MAX_SHOWN_ROWS:
        return []
    return [[_cell(name, row[name]) for name in names] for row in table.to_dict("records")]


def _download(name: str, tables: Mapping[str, pd.DataFrame], index: Mapping[str, Any]) -> dict[str, Any]:
    text = to_csv(tables[name])
    return {
        "name": name,
        "num_rows": len(tables[name]),
        "csv": Markup(f"data:text/csv;charset=utf-8,{quote(text)}"),
        "made": index[name],
    }


def _cell(column: str, value: Any) -> dict[str, Any]:
    """What a field shows, and what it is sorted by; a number keeps every digit in its title."""
    if isinstance(value, bool) or (isinstance(value, str) and value):
        return {"text": str(value), "sort": str(value), "number": False, "address": column in _ADDRESS}
    if isinstance(value, int):
        return {"text": str(value), "sort": str(value), "number": True, "address": False}
    if isinstance(value, float) and not math.isnan(value):
        return {"text": f"{value:.4g}", "sort": repr(value), "number": True, "address": False}
    return {"text": "–", "sort": "nan", "number": True, "address": False}


def _record(row: Mapping[Any, Any], link: str, *, cell: AnyCell) -> dict[str, Any]:
    path = f"records/{row['trial']}.jsonl"
    return {
        "trial": row["trial"],
        "outcome": _WORDS[row["outcome"]],
        "reason": row["reason"] if isinstance(row["reason"], str) else "",
        "path": path,
        "href": None if row["outcome"] == MISSING else quote(f"{link}/{path}"),
        "name": ", ".join(
            [str(row[name]) for name in ("protocol", "data", "arch", "precision", "jacobian")]
            if isinstance(cell, Cell)
            else cell.words
        ),
    }


def _data_uri(path: Path, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}")


def _small_pdf(path: Path) -> Markup | None:
    if not path.exists() or path.stat().st_size > MAX_PDF_BYTES:
        return None
    return _data_uri(path, "application/pdf")
