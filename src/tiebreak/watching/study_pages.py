"""The pages of one study: heat map, trials, curves, zone plot, failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tiebreak.records.store import attempts_of
from tiebreak.runner.claim import LEASE_SECONDS
from tiebreak.watching.attempting import FileClock, attempts
from tiebreak.watching.axes import spelled
from tiebreak.watching.curves import MOST_CURVES, curves, measured_fields
from tiebreak.watching.finding import Entry, FilterError, Index, final_result, ordered
from tiebreak.watching.folder_view import FolderView
from tiebreak.watching.gaps import zone_points
from tiebreak.watching.heat import STEPS, Shown, heat_map
from tiebreak.watching.rendering import NOT_KEPT, PAGE_ROWS, Renderer, one_of, whole
from tiebreak.watching.status import failures
from tiebreak.watching.zoneplot import zone_plot

_SHOWN_COLUMNS = 8
_PREVIEW_CURVES = 24
_TRACEBACKS = 12


class StudyPages:
    """The pages of studies, each about the trials that the filter in its address finds.

    Args:
        view: the results folder.
        renderer: of its pages.
    """

    def __init__(self, view: FolderView, renderer: Renderer) -> None:
        self._view = view
        self._page = renderer.page

    def routes(self) -> list[Route]:
        """The addresses of the pages."""
        pages = {
            "/map": self._map,
            "/trials": self._trials,
            "/curves": self._curves,
            "/data/curves": self._curve_data,
            "/zones": self._zones,
            "/failures": self._failures,
        }
        return [
            Route(f"{path}/{{study:path}}", partial(self._of_study, show)) for path, show in pages.items()
        ]

    def _of_study(
        self, show: Callable[[Request, Index, dict[str, Any]], Response], request: Request
    ) -> Response:
        """A page of a study: its index, and the trials that the filter in the address finds."""
        name = request.path_params["study"]
        index = self._view.indices.get(name)
        if index is None:
            raise HTTPException(404, f"There is no study {name!r} in these results.")
        text, mistake = request.query_params.get("q", ""), ""
        try:
            found: Sequence[Entry] = index.found(text)
        except FilterError as error:
            found, mistake = [], str(error)
        shared = {
            "index": index,
            "view": index.view,
            "study": name,
            "q": text,
            "mistake": mistake,
            "found": found,
        }
        return show(request, index, shared)

    def _map(self, request: Request, index: Index, shared: dict[str, Any]) -> Response:
        names = index.names()
        rows = one_of(request, "rows", names, default="precision" if "precision" in names else names[0])
        columns = one_of(request, "columns", names, default=_second(names, rows))
        shown = Shown(one_of(request, "show", tuple(Shown), default=Shown.DONE))
        counts, unread = {}, 0
        if shown is Shown.NONZERO:
            counts, unread = self._view.gaps.of(entry.standing for entry in shared["found"])
        grid = heat_map(shared["found"], rows=rows, columns=columns, shown=shown, counts=counts)
        return self._page(
            request,
            "map",
            **shared,
            tab="map",
            names=names,
            grid=grid,
            shown=shown,
            options=list(Shown),
            unread=unread,
            steps=range(STEPS + 1),
        )

    def _trials(self, request: Request, index: Index, shared: dict[str, Any]) -> Response:
        columns = index.names()[:_SHOWN_COLUMNS]
        sort = request.query_params.get("sort", "")
        found = shared["found"]
        if sort:
            found = ordered(found, by=sort)
        pages = max(1, math.ceil(len(found) / PAGE_ROWS))
        page = min(whole(request, "page", default=1), pages)
        shown = found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
        return self._page(
            request,
            "trials",
            **shared,
            tab="trials",
            columns=columns,
            entries=shown,
            sort=sort,
            page=page,
            pages=pages,
            first=(page - 1) * PAGE_ROWS + 1,
            total=len(index.entries),
            result_of=final_result,
        )

    def _chosen(self, request: Request, index: Index, found: Sequence[Entry]) -> tuple[list[Entry], int]:
        """The trials whose curves are asked for, one by one or by the filter, and how many there were."""
        named = request.query_params.getlist("t")
        if named:
            entries = [entry for trial in named if (entry := index.entry(trial)) is not None]
            return entries[:MOST_CURVES], len(named)
        with_records = [
            entry
            for entry in found
            if entry.standing.record is not None
            and entry.standing.trial.cell.protocol in ("train", "drift", "lr_search")
        ]
        count = min(whole(request, "n", default=_PREVIEW_CURVES), MOST_CURVES)
        return with_records[:count], len(with_records)

    def _drawn(self, request: Request, index: Index, found: Sequence[Entry]) -> dict[str, Any]:
        chosen, num_asked = self._chosen(request, index, found)
        read = [
            (entry, record)
            for entry in chosen
            if (record := self._view.records.read(entry.standing)) is not None
        ]
        names = measured_fields(record for _, record in read)
        of = one_of(request, "of", names, default=names[0] if names else "")
        lines = [line for entry, record in read for line in curves(entry.standing, record, of=of)]
        return {"lines": lines, "names": names, "of": of, "num_asked": num_asked, "chosen": chosen}

    def _curves(self, request: Request, index: Index, shared: dict[str, Any]) -> Response:
        drawn = self._drawn(request, index, shared["found"])
        axes = [
            name
            for name in index.names()
            if len({spelled(self._axis(entry, name)) for entry in drawn["chosen"]}) > 1
        ]
        return self._page(
            request,
            "curves",
            **shared,
            **drawn,
            tab="curves",
            axes=axes,
            entry_of=index.entry,
            is_log=request.query_params.get("log") == "1",
            data_url=f"/data{quote(request.url.path)}?{request.url.query}",
            named=request.query_params.getlist("t"),
        )

    def _axis(self, entry: Entry, name: str) -> Any:
        return entry.standing.trial.replicate if name == "replicate" else entry.values.get(name)

    def _curve_data(self, request: Request, index: Index, shared: dict[str, Any]) -> Response:
        drawn = self._drawn(request, index, shared["found"])
        tree = {"of": drawn["of"], "lines": [line.to_tree() for line in drawn["lines"]]}
        return JSONResponse(tree, headers=NOT_KEPT)

    def _zones(self, request: Request, index: Index, shared: dict[str, Any]) -> Response:
        standings = [entry.standing for entry in shared["found"]]
        counts, unread = self._view.gaps.of(standings)
        points = zone_points(standings, counts)
        return self._page(
            request,
            "zones",
            **shared,
            tab="zones",
            plot=zone_plot(points),
            points=points,
            pooled=self._pooled(
                index, [item for item in shared["found"] if item.standing.trial.id in counts]
            ),
            unread=unread,
            num_trials=len(counts),
        )

    def _pooled(self, index: Index, entries: Sequence[Entry]) -> list[str]:
        """Axes besides the precision in which these trials' cells differ."""
        return [
            name
            for name in index.axes.varying
            if name != "precision" and len({spelled(entry.values.get(name)) for entry in entries}) > 1
        ]

    def _failures(self, request: Request, index: Index, shared: dict[str, Any]) -> Response:
        groups = []
        kept = {entry.standing.trial.id for entry in shared["found"]}
        for reason, trials in failures(index.view):
            trials = [trial for trial in trials if trial in kept]
            if not trials:
                continue
            trace = ""
            if len(groups) < _TRACEBACKS and (standing := self._view.survey.standing(trials[0])) is not None:
                folder = attempts_of(standing.trial.id, root=self._view.results)
                made = attempts(folder, lease_seconds=LEASE_SECONDS, clock=FileClock(self._view.results))
                trace = next((attempt.traceback for attempt in reversed(made) if attempt.traceback), "")
            groups.append({"reason": reason, "trials": trials, "trace": trace})
        return self._page(request, "failures", **shared, tab="failures", groups=groups)


def _second(names: Sequence[str], first: str) -> str:
    return next((name for name in ("beta", "jacobian", *names) if name in names and name != first), first)
