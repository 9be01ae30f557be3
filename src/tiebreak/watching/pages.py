"""The live page of a results folder: every address that it answers to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tiebreak.watching.finding import Index
from tiebreak.watching.folder_view import FolderView
from tiebreak.watching.rendering import NOT_KEPT, STATIC, Renderer
from tiebreak.watching.status import time_left
from tiebreak.watching.study_pages import StudyPages
from tiebreak.watching.trial_pages import TrialPages


class _Static(StaticFiles):
    """Files whose address changes with them, so that a browser need not ask again."""

    def file_response(self, *args: Any, **keywords: Any) -> Response:
        response = super().file_response(*args, **keywords)
        response.headers["cache-control"] = "max-age=86400, immutable"
        return response


class Dashboard:
    """The live page of one results folder.

    Args:
        results: the results folder; it need not exist yet.
    """

    def __init__(self, results: Path) -> None:
        self._view = FolderView(results)
        self._renderer = Renderer(self._view)

    def look(self) -> None:
        """Bring the page up to date with the folder."""
        self._view.look()

    def index(self, study: str) -> Index:
        """The trials of a study as they were last seen.

        Raises:
            KeyError: there is no such study.
        """
        return self._view.indices[study]

    def routes(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/", self._overview),
                Route("/version", lambda request: PlainTextResponse(self._view.version, headers=NOT_KEPT)),
                *StudyPages(self._view, self._renderer).routes(),
                *TrialPages(self._view, self._renderer).routes(),
                Mount("/static", _Static(directory=STATIC)),
            ],
            exception_handlers={HTTPException: self._refusal},
        )

    def _overview(self, request: Request) -> Response:
        views = [index.view for index in self._view.indices.values()]
        return self._renderer.page(request, "overview", views=views, time_left=time_left)

    def _refusal(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._renderer.page(request, "refusal", status=error.status_code, sentence=error.detail)
