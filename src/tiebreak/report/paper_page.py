"""One self-contained page of the paper: published, reproduced and the verdict, for every number and claim."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tiebreak.report.findings import Standing
from tiebreak.report.paper import NAME
from tiebreak.report.paper_figures import drawn
from tiebreak.report.quantities import counted, unit_of
from tiebreak.report.reference_page import reference_section
from tiebreak.report.table_files import arguments, read_index, read_tables, to_csv
from tiebreak.report.thinning import thinned
from tiebreak.report.verdicts import RULE, Verdict

GROUPS = {
    "abstract": "Claims of the abstract",
    "instrument": "Defects of the published instrument",
    "stand_in": "What stands in for the published arithmetic",
    "acceptance": "What a repetition has to show",
}
"""Headings of the claims."""

HEADINGS = {
    "zero": "The zero program",
    "zones": "Share of mini-batches in the bifurcation zone, by threshold",
    "threshold": "Thresholds",
    "gaps": "Histograms of gaps",
    "normpool": "Norm pool",
    "drift": "Distance between weights",
    "accuracy": "Final test accuracy",
    "best_accuracy": "Accuracy of the best epoch",
    "imagenet": "ResNet-50 on ImageNet",
    "effect": "Largest effects",
    "lr": "Learning rates",
    "jacobian_norm": "Norms of the Jacobian",
    "parameters": "Sizes of the networks",
    "own": "Not published: our own tests and arithmetic of the published formula and code, for comparison",
}
"""Headings of the published numbers, by what their ids begin with."""

_CONSTANTS = ("zero", "threshold", "parameters")
"""What the ids of published numbers without chance begin with: constants of the code, formulas, counts."""

_OWN = ("T", "I")
"""Tags of our own earlier tests and arithmetic, which were not published."""

_CLASS = {
    str(Verdict.AGREES): "good",
    str(Verdict.DIFFERS): "bad",
    str(Verdict.ARTEFACT): "warn",
    str(Standing.SUPPORTED): "good",
    str(Standing.CONTRADICTED): "bad",
    str(Standing.HELD): "good",
}


def paper_page(
    tables_folder: Path, figures_folder: Path, *, missing: Sequence[str], results_root: Path
) -> str:
    """The page as text.

    Args:
        tables_folder: what `write_paper_tables` wrote.
        figures_folder: what `draw_paper` drew from that.
        missing: a sentence for each figure that has no records.
        results_root: the results folder as the commands of the page name it.

    Raises:
        TableError: a table is not what was written.
        UserError: an imported reference is not what was written.
    """
    tables, index = read_tables(tables_folder), read_index(tables_folder)
    folder = files("tiebreak.report") / "templates"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["whole"] = _whole
    template = environment.from_string((folder / "paper.html.j2").read_text(encoding="utf-8"))
    style = "".join((folder / name).read_text(encoding="utf-8") for name in ("report.css", "paper.css"))
    words = arguments(NAME, results_root)
    pooled = "".join(f" {word}" for word in index["plan"]["command"].split() if word.startswith("--"))
    verdicts = tables.get("verdicts", pd.DataFrame(columns=["verdict"]))
    plan = tables["plan"]
    return template.render(
        style=Markup(style),
        script=Markup((folder / "sort.js").read_text(encoding="utf-8")),
        rule=_paragraphs(RULE),
        summary=_summary(verdicts) if len(verdicts) else None,
        kinds=_CLASS,
        groups=[(GROUPS[key], list(_claims(part))) for key, part in _grouped(tables["claims"], "group")],
        published=list(_published(verdicts)) if len(verdicts) else [],
        figures=[
            {
                "kind": kind,
                "png": _png(figures_folder / f"{kind.name}.png"),
                "origin": _origin(kind.chosen(tables), tables, kind.study),
                "rows": len(kind.chosen(tables)[kind.table]),
            }
            for kind in drawn(tables)
        ],
        missing=missing,
        thinned=list(thinned(plan)),
        plan=plan.to_dict("records"),
        num_records=index.get("members", {}).get("records", 0),
        num_done=int(plan["num_done"].sum()),
        num_trials=int(plan["num_trials"].sum()),
        reference=reference_section(results_root, tables.get("accuracy")),
        downloads=[
            {
                "name": name,
                "rows": len(table),
                "remark": index[name].get("remark", ""),
                "csv": Markup(f"data:text/csv;charset=utf-8,{quote(to_csv(table))}"),
            }
            for name, table in tables.items()
        ],
        commands=[f"tiebreak {verb} {words}{pooled}" for verb in ("tabulate", "draw", "report")],
    )


def _paragraphs(text: str) -> list[dict[str, Any]]:
    """A docstring's paragraphs and lists, its emphasis taken off."""
    found = []
    for block in text.strip().split("\n\n"):
        items = [" ".join(item.split()) for item in block.split("\n* ")]
        if block.startswith("* "):
            found.append({"items": [item.removeprefix("* ").replace("*", "") for item in items], "text": ""})
        else:
            found.append({"items": [], "text": " ".join(block.split()).replace("*", "")})
    return found


def _grouped(table: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for key, part in table.groupby(column, sort=False):
        yield str(key), part


def _claims(part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for name, findings in _grouped(part, "claim"):
        first = findings.iloc[0]
        yield {
            "name": name,
            "text": first["text"],
            "rule": first["rule"],
            "studies": _text(first["studies"]),
            "command": _text(first["command"]),
            "tally": ", ".join(
                f"{count} {word}" for word, count in findings["verdict"].value_counts(sort=False).items()
            ),
            "findings": [
                {key: ("" if value != value else value) for key, value in row.items()}
                for row in findings[["where", "verdict", "numbers"]].to_dict("records")
            ],
        }


def _summary(verdicts: pd.DataFrame) -> dict[str, Any]:
    """How many numbers have which verdict: those measured, those without chance, and our own earlier tests.

    Returns:
        `num_measured`, `num_constant`, `num_own`, and `rows`: the verdict and its counts in this order, where
        the published numbers together come before our own.
    """
    own = verdicts["origin"].isin(_OWN)
    constant = ~own & verdicts["id"].str.split(".").str[0].isin(_CONSTANTS)
    columns = (~own & ~constant, constant, ~own, own)
    rows = [
        {
            "verdict": str(kind),
            "counts": [int((verdicts.loc[chosen, "verdict"] == kind).sum()) for chosen in columns],
        }
        for kind in Verdict
    ]
    measured, constants, _, tests = (int(chosen.sum()) for chosen in columns)
    return {"num_measured": measured, "num_constant": constants, "num_own": tests, "rows": rows}


def _published(verdicts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Published numbers by what their ids begin with; those of our own earlier tests come last."""
    own = verdicts["origin"].isin(_OWN)
    named = verdicts["id"].str.split(".").str[0].where(~own, "own")
    for key in dict.fromkeys([*named[~own], *named[own]]):
        yield _numbers(key, HEADINGS.get(key, key.replace("_", " ")), verdicts[named == key])


def _numbers(key: str, heading: str, part: pd.DataFrame) -> dict[str, Any]:
    """Published numbers of one heading, with what they were compared with."""
    devices = sorted({str(name) for name in part["device"].dropna() if name})
    again = part["reason"].fillna("").str.contains("re-compressions")
    return {
        "quantity": heading,
        "id": key,
        "devices": devices,
        "num_recompressed": int(again.sum()),
        "tally": ", ".join(
            f"{count} {word}" for word, count in part["verdict"].value_counts(sort=False).items()
        ),
        "rows": [_row(row) for row in part.to_dict("records")],
    }


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    setting = [row["arch"], row["data"], row["precision"], row["optimizer"]]
    if row["batch_norm"] in (True, False):
        setting.append("batch norm" if row["batch_norm"] else "no batch norm")
    if row["beta"] == row["beta"]:
        setting.append(f"beta = {row['beta']:g}")
    unit = unit_of(row["quantity"], row["unit"])
    num_published, num_ours = counted(row["quantity"], row["n"], row["reproduced_n"])
    return {
        "id": row["id"],
        "quantity": row["quantity"],
        "setting": ", ".join(str(word) for word in setting if isinstance(word, str) and word),
        "published": unit.text(row["value"], low=row["low"], high=row["high"]),
        "published_value": float(row["value"]),
        "n": row["n"],
        "num_published": num_published,
        "reproduced": unit.text(row["reproduced"], low=row["reproduced_low"], high=row["reproduced_high"])
        if row["reproduced_n"]
        else "–",
        "reproduced_value": float(row["reproduced"]) if row["reproduced_n"] else math.nan,
        "reproduced_n": row["reproduced_n"] or math.nan,
        "num_ours": num_ours,
        "unit": unit.words,
        "origin": _text(row["origin"]),
        "verdict": row["verdict"],
        "reason": _text(row["reason"]) or _text(row["note"]),
        "study": _text(row["study"]),
        "command": _text(row["command"]),
    }


def _whole(value: float) -> str:
    """A whole number, or a dash where a part has none or several."""
    return "–" if value != value else f"{value:.0f}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _origin(chosen: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame], study: str) -> str:
    """Devices, versions and images of the cells that a figure shows, in a sentence."""
    cells = {cell for table in chosen.values() for cell in table["cell"]}
    members = tables["members"]
    mine = members[members["cell"].isin(cells) & (members["study"] == study)]
    words = [
        f"Study {study}, {mine['cell'].nunique()} cells",
        f"device {', '.join(sorted(set(mine['device_name'].dropna())))}",
        f"torch {', '.join(sorted(set(mine['torch'].dropna().astype(str))))}",
    ]
    sources = sorted(set(mine["source"].dropna()))
    if any("jpeg" in name for name in sources):
        words.append("images named jpeg are JPEG re-compressions, not the official bytes")
    return "; ".join([*words, f"data {', '.join(sources)}"]) + "."


def _png(path: Path) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}")
