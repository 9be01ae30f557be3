"""The pages of the dashboard, each a function of its address and of what stands in the results folder."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tiebreak.console import duration
from tiebreak.records.store import attempts_of
from tiebreak.runner.claim import LEASE_SECONDS
from tiebreak.runner.launch import FOLDER
from tiebreak.watching.attempting import FileClock, attempts
from tiebreak.watching.axes import spelled
from tiebreak.watching.curves import MOST_CURVES, Records, curves, measured_fields
from tiebreak.watching.finding import Entry, FilterError, Index, final_result, ordered
from tiebreak.watching.gaps import GapCounts, zone_points
from tiebreak.watching.heat import STEPS, Shown, heat_map
from tiebreak.watching.status import failures, first_line, time_left, word
from tiebreak.watching.survey import Standing, State, Survey
from tiebreak.watching.zoneplot import zone_plot

PAGE_ROWS = 50
_SHOWN_COLUMNS = 8
_PREVIEW_CURVES = 24
_LOG_BYTES = 1_000_000
_TRACEBACKS = 12
_STATIC = Path(__file__).with_name("static")
_ID = re.compile(r"[0-9a-f]{12}")


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
        self.results = Path(results)
        self._survey = Survey(self.results)
        self._gaps = GapCounts(self.results)
        self._records = Records(self.results)
        self._lock = threading.Lock()
        self._indices: Mapping[str, Index] = {}
        self._environment = _environment()
        files = sorted(path for path in _STATIC.iterdir() if path.is_file())
        self._static = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
        self.look()

    def look(self) -> None:
        """Bring the view up to date with the folder."""
        with self._lock:
            version = self._survey.version
            self._survey.refresh()
            if self._survey.version != version:
                former = self._indices
                self._indices = {
                    name: former[name]
                    if name in former and former[name].view is view
                    else Index(view, former=former.get(name))
                    for name, view in self._survey.studies.items()
                }

    def index(self, study: str) -> Index:
        """The trials of a study as they were last seen.

        Raises:
            KeyError: there is no such study.
        """
        return self._indices[study]

    @property
    def version(self) -> str:
        """Changes when a page would."""
        return f"{self._survey.version}.{self._gaps.version}"

    def routes(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/", self._overview),
                Route("/version", lambda request: PlainTextResponse(self.version, headers=_NOT_KEPT)),
                Route("/map/{study:path}", partial(self._of_study, self._map)),
                Route("/trials/{study:path}", partial(self._of_study, self._trials)),
                Route("/curves/{study:path}", partial(self._of_study, self._curves)),
                Route("/data/curves/{study:path}", partial(self._of_study, self._curve_data)),
                Route("/zones/{study:path}", partial(self._of_study, self._zones)),
                Route("/failures/{study:path}", partial(self._of_study, self._failures)),
                Route("/trial/{cell}/{replicate}", self._trial),
                Route("/record/{cell}/{replicate}", self._raw_record),
                Route("/log/{cell}/{replicate}/{attempt}", self._log),
                Mount("/static", _Static(directory=_STATIC)),
            ],
            exception_handlers={HTTPException: self._refusal},
        )

    def _page(self, request: Request, name: str, *, status: int = 200, **values: Any) -> Response:
        text = self._environment.get_template(f"{name}.html.j2").render(
            version=self.version,
            static=self._static,
            results=self.results.name or str(self.results),
            here=request.url.path,
            notices=self._survey.notices,
            studies=list(self._indices),
            **values,
        )
        return HTMLResponse(text, status_code=status, headers=_NOT_KEPT)

    def _refusal(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._page(request, "refusal", status=error.status_code, sentence=error.detail)

    def _overview(self, request: Request) -> Response:
        views = [index.view for index in self._indices.values()]
        return self._page(request, "overview", views=views, time_left=time_left)

    def _of_study(
        self, show: Callable[[Request, Index, dict[str, Any]], Response], request: Request
    ) -> Response:
        """A page of a study: its index, and the trials that the filter in the address finds."""
        name = request.path_params["study"]
        index = self._indices.get(name)
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
        rows = _one_of(request, "rows", names, default="precision" if "precision" in names else names[0])
        columns = _one_of(request, "columns", names, default=_second(names, rows))
        shown = Shown(_one_of(request, "show", tuple(Shown), default=Shown.DONE))
        counts, unread = {}, 0
        if shown is Shown.NONZERO:
            counts, unread = self._gaps.of(entry.standing for entry in shared["found"])
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
        page = min(_whole(request, "page", default=1), pages)
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
        count = min(_whole(request, "n", default=_PREVIEW_CURVES), MOST_CURVES)
        return with_records[:count], len(with_records)

    def _drawn(self, request: Request, index: Index, found: Sequence[Entry]) -> dict[str, Any]:
        chosen, num_asked = self._chosen(request, index, found)
        read = [
            (entry, record) for entry in chosen if (record := self._records.read(entry.standing)) is not None
        ]
        names = measured_fields(record for _, record in read)
        of = _one_of(request, "of", names, default=names[0] if names else "")
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
        return JSONResponse(tree, headers=_NOT_KEPT)

    def _zones(self, request: Request, index: Index, shared: dict[str, Any]) -> Response:
        standings = [entry.standing for entry in shared["found"]]
        counts, unread = self._gaps.of(standings)
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
            if len(groups) < _TRACEBACKS and (standing := self._survey.standing(trials[0])) is not None:
                folder = attempts_of(standing.trial.id, root=self.results)
                made = attempts(folder, lease_seconds=LEASE_SECONDS, clock=FileClock(self.results))
                trace = next((attempt.traceback for attempt in reversed(made) if attempt.traceback), "")
            groups.append({"reason": reason, "trials": trials, "trace": trace})
        return self._page(request, "failures", **shared, tab="failures", groups=groups)

    def _standing(self, request: Request) -> Standing:
        cell, replicate = request.path_params["cell"], request.path_params["replicate"]
        standing = None
        if _ID.fullmatch(cell) and replicate.isdecimal():
            standing = self._survey.standing(f"{cell}/{replicate}")
        if standing is None:
            raise HTTPException(404, f"No study in these results has a trial {cell}/{replicate}.")
        return standing

    def _trial(self, request: Request) -> Response:
        standing = self._standing(request)
        trial = standing.trial
        record = self._records.read(standing)
        folder = attempts_of(standing.trial.id, root=self.results)
        clock = FileClock(self.results)
        made = attempts(folder, lease_seconds=LEASE_SECONDS, clock=clock)
        rows = list(record.rows) if record else []
        kinds = list(dict.fromkeys(str(row["row"]) for row in rows))
        kind = _one_of(request, "rows", tuple(kinds), default=kinds[0] if kinds else "")
        of_kind = [row for row in rows if row["row"] == kind]
        pages = max(1, math.ceil(len(of_kind) / PAGE_ROWS))
        page = min(_whole(request, "page", default=1), pages)
        columns = list(dict.fromkeys(name for row in of_kind for name in row if name != "row"))
        home = [name for name, index in self._indices.items() if index.entry(trial.id) is not None]
        return self._page(
            request,
            "trial",
            standing=standing,
            trial=trial,
            record=record,
            fields=_flat(trial.cell.to_dict()),
            provenance=_flat(dict(record.provenance)) if record else [],
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
        content = self._inside(self.results / "records" / f"{standing.place}.jsonl").read_bytes()
        name = f"{standing.place.replace('/', '-')}.jsonl"
        return PlainTextResponse(
            content, headers={**_NOT_KEPT, "content-disposition": f'inline; filename="{name}"'}
        )

    def _log(self, request: Request) -> Response:
        standing = self._standing(request)
        number = request.path_params["attempt"]
        made = attempts(
            attempts_of(standing.trial.id, root=self.results),
            lease_seconds=LEASE_SECONDS,
            clock=FileClock(self.results),
        )
        log = next((a.holder.log for a in made if str(a.number) == number and a.holder), "")
        if not isinstance(log, str) or not log:
            raise HTTPException(404, f"Attempt {number} at trial {standing.trial.id} names no log.")
        path = self._inside(self.results / log, under=self.results / FOLDER)
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            content = file.read(_LOG_BYTES)
        cut = f"(the last {_LOG_BYTES} of {size} bytes)\n".encode() if size > _LOG_BYTES else b""
        return PlainTextResponse(cut + content, headers=_NOT_KEPT)

    def _inside(self, path: Path, *, under: Path | None = None) -> Path:
        """The file itself, if it lies in the results folder once every link is followed."""
        home = (under or self.results).resolve()
        real = path.resolve()
        if not real.is_relative_to(home) or not real.is_relative_to(self.results.resolve()):
            raise HTTPException(403, "That file lies outside of the results folder, and is not shown.")
        if not real.is_file():
            raise HTTPException(404, "That file is not there.")
        return real


_NOT_KEPT = {"cache-control": "no-store"}


def _one_of(request: Request, key: str, options: Sequence[str], *, default: str) -> str:
    value = request.query_params.get(key, "")
    return value if value in options else default


def _whole(request: Request, key: str, *, default: int) -> int:
    value = request.query_params.get(key, "")
    return max(1, int(value)) if value.isdecimal() and len(value) < 10 else default


def _second(names: Sequence[str], first: str) -> str:
    return next((name for name in ("beta", "jacobian", *names) if name in names and name != first), first)


def _flat(tree: Any, name: str = "") -> list[tuple[str, str]]:
    """Every leaf of a tree with its path, as text."""
    if isinstance(tree, Mapping):
        return [
            pair
            for key, value in tree.items()
            for pair in _flat(value, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(tree, list | tuple):
        return [pair for index, value in enumerate(tree) for pair in _flat(value, f"{name}.{index}")]
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
