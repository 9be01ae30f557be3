"""How a page is rendered: templates, how values are spelled in them, and what an address asks for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tiebreak.console import duration
from tiebreak.watching.axes import spelled
from tiebreak.watching.folder_view import FolderView
from tiebreak.watching.standing import State
from tiebreak.watching.status import first_line, word

STATIC = Path(__file__).with_name("static")
"""The folder of styles and scripts."""

NOT_KEPT: Mapping[str, str] = MappingProxyType({"cache-control": "no-store"})
"""Headers of an answer that is another one in a moment."""

PAGE_ROWS = 50
"""Rows of a table that are shown at once."""


class Renderer:
    """Renders the pages of one results folder.

    Args:
        view: the folder.
    """

    def __init__(self, view: FolderView) -> None:
        self._view = view
        self._environment = _environment()
        files = sorted(path for path in STATIC.iterdir() if path.is_file())
        self._static = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]

    def page(self, request: Request, name: str, *, status: int = 200, **values: Any) -> Response:
        """The page of a template.

        Args:
            request: what is answered.
            name: of the template.
            status: of the answer.
            values: what the template shows.
        """
        view = self._view
        text = self._environment.get_template(f"{name}.html.j2").render(
            version=view.version,
            static=self._static,
            results=view.results.name or str(view.results),
            here=request.url.path,
            notices=view.survey.notices,
            studies=list(view.indices),
            **values,
        )
        return HTMLResponse(text, status_code=status, headers=NOT_KEPT)


def one_of(request: Request, key: str, options: Sequence[str], *, default: str) -> str:
    """The value of a key in the address, if it is one of the options."""
    value = request.query_params.get(key, "")
    return value if value in options else default


def whole(request: Request, key: str, *, default: int) -> int:
    """The value of a key in the address as a number of 1 or more."""
    value = request.query_params.get(key, "")
    return max(1, int(value)) if value.isdecimal() and len(value) < 10 else default


def flat(tree: Any, name: str = "") -> list[tuple[str, str]]:
    """Every leaf of a tree with its path, as text."""
    if isinstance(tree, Mapping):
        return [
            pair for key, value in tree.items() for pair in flat(value, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(tree, list | tuple):
        return [pair for index, value in enumerate(tree) for pair in flat(value, f"{name}.{index}")]
    return [(name, "" if tree is None else json.dumps(tree) if isinstance(tree, bool) else str(tree))]


def _query(**values: Any) -> str:
    """The query of an address; what is empty is left out."""
    kept = {key: value for key, value in values.items() if value not in (None, "")}
    return f"?{urlencode(kept, doseq=True)}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return spelled(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tiebreak.watching"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "spelled": spelled,
        "number": _number,
        "percent": _percent,
        "duration": duration,
        "word": word,
        "first_line": first_line,
        "path": lambda text: quote(str(text), safe="/"),
    }
    environment.globals |= {"query": _query, "states": tuple(State)}
    return environment
