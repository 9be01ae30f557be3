"""An audit as one page that opens offline, in the dress of the report."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tiebreak.auditing import text
from tiebreak.auditing.findings import Audit, Section
from tiebreak.auditing.verdict import number
from tiebreak.exact.certificate import Label

_LEAST = -17
"""Power of ten at the left end of the axis; what is smaller and not 0 stands there."""


def page_of(audit: Audit) -> str:
    """The page as text.

    Args:
        audit: what was found.
    """
    folder = files("tiebreak.report") / "templates"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((folder / "audit.html.j2").read_text(encoding="utf-8"))
    styles = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "audit.css"))
    return template.render(
        audit=audit,
        style=Markup("\n".join(styles)),
        sections=[_section(section) for section in audit.sections],
        rule_columns=text.RULE_COLUMNS,
        layer_columns=text.LAYER_COLUMNS,
        glance_columns=_GLANCE,
        words=_OF_WORDS,
    )


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": str(section.precision),
        "it": section,
        "word": _WORDS[section.label],
        "badge": str(section.label or "unknown"),
        "glance": (
            number(section.widest.relative),
            number(section.floor),
            str(section.culprit.where) if section.culprit else "none",
        ),
        "rules": text.rule_rows(section),
        "layers": [text.layer_row(layer) for layer in section.layers],
        "most": section.layers.index(section.culprit) if section.culprit else -1,
        "axis": _axis(section),
        "evidence": text.evidence_of(section),
        "explained": text.LAYERS.format(rule=section.switched or "of the table"),
        "facts": (
            ("loss", f"{section.loss:.6g}"),
            ("norm of the gradient", f"{section.gradient_norm:.4g}"),
            ("unit roundoff", number(section.unit_roundoff)),
        ),
        "footnote": "" if all(rule.sums_to_one for rule in section.rules) else text.ALL_ONES,
    }


_GLANCE = ("precision", "over the reals", "widest gap / norm", "same rule again", "layer that moves it most")
_OF_WORDS = {"precision", "rule at ties", "in parameter", "over the reals", "pool", "called at", _GLANCE[-1]}
_WORDS = {
    Label.REGULAR: "regular: equal here and over the reals",
    Label.COMPENSATION: "compensation: rounding alone",
    Label.BIFURCATION: "bifurcation: different over the reals",
    Label.MASKED_BIFURCATION: "masked bifurcation: different over the reals, equal here",
    Label.NONFINITE: "not finite",
    Label.UNDECIDED: "undecided",
    None: "not certified",
}


def _axis(section: Section) -> dict[str, Any]:
    """Gaps and floor on one logarithmic axis; positions in percent of its width."""
    gaps = [(rule.rule, rule.relative, "rule" if rule.sums_to_one else "none") for rule in section.rules]
    gaps += [(f"native again: {repeat.condition}", repeat.relative, "floor") for repeat in section.repeats]
    shown = [
        {
            "name": name,
            "kind": kind,
            "value": number(value),
            "at": _place(value),
            "is_zero": value == 0,
        }
        for name, value, kind in gaps
        if math.isfinite(value)
    ]
    return {
        "dots": shown,
        "ticks": [{"at": _place(10.0**power), "power": power} for power in range(-15, 1, 3)],
        "roundoff": _place(section.unit_roundoff),
    }


def _place(value: float) -> float:
    """Percent of the way from 10^-17 to 1; 0 and what is smaller at the left end."""
    if value <= 10.0**_LEAST:
        return 0.0
    return min(100.0, 100.0 * (1 - math.log10(value) / _LEAST))
