"""The pages of one trial: where it stands and comes from, its record as it was written, its logs."""

from __future__ import annotations

import math
import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tiebreak.records.store import attempts_of
from tiebreak.runner.claim import LEASE_SECONDS
from tiebreak.runner.launch import FOLDER
from tiebreak.watching.attempting import FileClock, attempts
from tiebreak.watching.curves import measured_fields
from tiebreak.watching.folder_view import FolderView
from tiebreak.watching.rendering import NOT_KEPT, PAGE_ROWS, Renderer, flat, one_of, whole
from tiebreak.watching.standing import Standing

_LOG_BYTES = 1_000_000
_ID = re.compile(r"[0-9a-f]{12}")


class TrialPages:
    """The pages of trials. Nothing is served from outside of the results folder.

    Args:
        view: the results folder.
        renderer: of its pages.
    """

    def __init__(self, view: FolderView, renderer: Renderer) -> None:
        self._view = view
        self._page = renderer.page

    def routes(self) -> list[Route]:
        """The addresses of the pages."""
        return [
            Route("/trial/{cell}/{replicate}", self._trial),
            Route("/record/{cell}/{replicate}", self._raw_record),
            Route("/log/{cell}/{replicate}/{attempt}", self._log),
        ]

    def _standing(self, request: Request) -> Standing:
        cell, replicate = request.path_params["cell"], request.path_params["replicate"]
        standing = None
        if _ID.fullmatch(cell) and replicate.isdecimal():
            standing = self._view.survey.standing(f"{cell}/{replicate}")
        if standing is None:
            raise HTTPException(404, f"No study in these results has a trial {cell}/{replicate}.")
        return standing

    def _trial(self, request: Request) -> Response:
        standing = self._standing(request)
        trial = standing.trial
        record = self._view.records.read(standing)
        folder = attempts_of(standing.trial.id, root=self._view.results)
        clock = FileClock(self._view.results)
        made = attempts(folder, lease_seconds=LEASE_SECONDS, clock=clock)
        rows = list(record.rows) if record else []
        kinds = list(dict.fromkeys(str(row["row"]) for row in rows))
        kind = one_of(request, "rows", tuple(kinds), default=kinds[0] if kinds else "")
        of_kind = [row for row in rows if row["row"] == kind]
        pages = max(1, math.ceil(len(of_kind) / PAGE_ROWS))
        page = min(whole(request, "page", default=1), pages)
        columns = list(dict.fromkeys(name for row in of_kind for name in row if name != "row"))
        home = [name for name, index in self._view.indices.items() if index.entry(trial.id) is not None]
        return self._page(
            request,
            "trial",
            standing=standing,
            trial=trial,
            record=record,
            fields=flat(trial.cell.to_dict()),
            provenance=flat(dict(record.provenance)) if record else [],
            attempts=made,
            kinds=[(name, sum(row["row"] == name for row in rows)) for name in kinds],
            kind=kind,
            columns=columns,
            rows=of_kind[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
            page=page,
            pages=pages,
            home=home,
            has_curves=bool(record and measured_fields([record])),
        )

    def _raw_record(self, request: Request) -> Response:
        standing = self._standing(request)
        if not standing.place:
            raise HTTPException(404, f"Trial {standing.trial.id} has no record yet.")
        content = self._inside(self._view.results / "records" / f"{standing.place}.jsonl").read_bytes()
        name = f"{standing.place.replace('/', '-')}.jsonl"
        return PlainTextResponse(
            content, headers={**NOT_KEPT, "content-disposition": f'inline; filename="{name}"'}
        )

    def _log(self, request: Request) -> Response:
        standing = self._standing(request)
        number = request.path_params["attempt"]
        made = attempts(
            attempts_of(standing.trial.id, root=self._view.results),
            lease_seconds=LEASE_SECONDS,
            clock=FileClock(self._view.results),
        )
        log = next((a.holder.log for a in made if str(a.number) == number and a.holder), "")
        if not isinstance(log, str) or not log:
            raise HTTPException(404, f"Attempt {number} at trial {standing.trial.id} names no log.")
        path = self._inside(self._view.results / log, under=self._view.results / FOLDER)
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            content = file.read(_LOG_BYTES)
        cut = f"(the last {_LOG_BYTES} of {size} bytes)\n".encode() if size > _LOG_BYTES else b""
        return PlainTextResponse(cut + content, headers=NOT_KEPT)

    def _inside(self, path: Path, *, under: Path | None = None) -> Path:
        """The file itself, if it lies in the results folder once every link is followed."""
        home = (under or self._view.results).resolve()
        real = path.resolve()
        if not real.is_relative_to(home) or not real.is_relative_to(self._view.results.resolve()):
            raise HTTPException(403, "That file lies outside of the results folder, and is not shown.")
        if not real.is_file():
            raise HTTPException(404, "That file is not there.")
        return real
