"""What stands in a results folder, kept up to date at the price of what has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tiebreak.design.cell import SCHEMA, AnyCell, AnyTrial
from tiebreak.design.study import Study
from tiebreak.records.durable import RecordError
from tiebreak.records.migrate import former_ids
from tiebreak.records.store import RecordStore, attempts_of
from tiebreak.runner.claim import LEASE_SECONDS
from tiebreak.runner.eta import Eta
from tiebreak.runner.launch import Launch
from tiebreak.watching.attempting import FileClock, last_attempt
from tiebreak.watching.cell_folders import CellFolders
from tiebreak.watching.glance import Glance
from tiebreak.watching.standing import Change, Standing, State, StudyView
from tiebreak.watching.waiting import Jobs, Launches, scheduled_jobs


class Survey:
    """An up-to-date view of a results folder. It reads records; it writes none.

    Args:
        results: the results folder; it need not exist yet.
        lease_seconds: how old the heartbeat of a process elsewhere may be.
        ask: tells which of the scheduler's jobs wait or run.

    Example:
        >>> survey = Survey(Path("/nonexistent"))
        >>> bool(survey.refresh()), survey.studies
        (False, {})
    """

    def __init__(
        self, results: Path, *, lease_seconds: float = LEASE_SECONDS, ask: Jobs = scheduled_jobs
    ) -> None:
        self.results = Path(results)
        self.studies: Mapping[str, StudyView] = {}
        self.notices: tuple[str, ...] = ()
        self.version = 0
        self._lease_seconds = lease_seconds
        self._clock = FileClock(self.results)
        self._launches = Launches(self.results, ask=ask)
        self._store = RecordStore(self.results, only_looks=True)
        self._known: dict[str, tuple[tuple[int, int], Study | str]] = {}
        self._folders = CellFolders(self.results)
        self._former: dict[str, tuple[str, ...]] = {}
        self._former_of: tuple[object, ...] = ()
        self._trials: dict[str, tuple[Study, dict[str, AnyTrial]]] = {}
        self._standings: dict[str, Standing] = {}
        self._found_launches: tuple[Launch, ...] = ()
        self._live: list[Launch] = []
        self._unread: tuple[object, ...] = (False,)
        self._etas: dict[str, tuple[Study, Eta, set[str]]] = {}

    def refresh(self) -> Change:
        """Look again. Nothing in the folder makes this raise; what cannot be read is said in `notices`."""
        self._clock.forget()
        studies = self._look_at_studies()
        looked_into = self._folders.look()
        if self._look_for_former_ids(studies.values()):
            looked_into = set(self._folders)
        before, after = self._standings, self._all_standings(studies, looked_into)
        views = self._views(studies, after)
        trials = {key for key, item in after.items() if (old := before.get(key)) is not item and old != item}
        trials |= before.keys() - after.keys()
        changed = {
            name
            for name in views.keys() | self.studies.keys()
            if name not in views
            or name not in self.studies
            or _described(views[name]) != _described(self.studies[name])
        }
        change = Change(trials=frozenset(trials), studies=frozenset(changed))
        unread = (self._clock.is_own, *(text for _, text in self._known.values() if isinstance(text, str)))
        if change or looked_into or unread != self._unread:
            self._unread = unread
            notices = self._sentences(studies.values())
            if change or notices != self.notices:
                self.studies, self.notices, self.version = views, notices, self.version + 1
        self._standings = after
        return change

    def standing(self, trial: str) -> Standing | None:
        """Where the trial of an id stands; None if no study has it."""
        return self._standings.get(trial)

    def _look_at_studies(self) -> dict[str, Study]:
        found: dict[str, tuple[tuple[int, int], Study | str]] = {}
        try:
            names = self._store.studies()
        except OSError:
            names = ()
        for name in names:
            try:
                stat = self._store.study_path(name).stat()
                stamp = (stat.st_mtime_ns, stat.st_size)
                known = self._known.get(name)
                if known is not None and known[0] == stamp:
                    found[name] = known
                else:
                    found[name] = (stamp, self._store.read_study(name))
            except FileNotFoundError:
                continue
            except (RecordError, OSError) as error:
                found[name] = ((0, 0), str(error))
        self._known = found
        studies = {name: known for name, (_, known) in found.items() if isinstance(known, Study)}
        self._trials = {
            name: known
            if (known := self._trials.get(name)) and known[0] is study
            else (study, {trial.id: trial for trial in study.trials})
            for name, study in studies.items()
        }
        return studies

    def _look_for_former_ids(self, studies: Iterable[Study]) -> bool:
        """Under which older ids the studies' records may lie; whether that changed."""
        studies = list(studies)
        unknown = self._folders.keys() - {cell.id for study in studies for cell in _cells(study)}
        old = frozenset(name for name in unknown if self._is_older(name))
        key = (old, *map(id, studies))
        if key == self._former_of:
            return False
        self._former_of = key
        self._former = {}
        if old:
            for study in studies:
                for cell in _cells(study):
                    ids = tuple(former for former in former_ids(cell) if former in old)
                    if ids:
                        self._former[cell.id] = ids
        return True

    def _is_older(self, name: str) -> bool:
        found = self._folders[name].records.values()
        return any(isinstance(record, Glance) and record.schema < SCHEMA for record in found)

    def _all_standings(self, studies: Mapping[str, Study], looked_into: set[str]) -> dict[str, Standing]:
        """Where every trial stands; one whose record stood, in a folder that did not change, stands there."""
        homes = looked_into | {cell for cell, ids in self._former.items() if looked_into.intersection(ids)}
        found: dict[str, Standing] = {}
        for name in studies:
            for key, trial in self._trials[name][1].items():
                known = self._standings.get(key)
                if known is not None and known.record is not None and key[: key.index("/")] not in homes:
                    found[key] = known
                elif key not in found:
                    standing = self._standing(trial)
                    found[key] = known if known is not None and known == standing else standing
        return self._with_queued(found)

    def _standing(self, trial: AnyTrial) -> Standing:
        replicate, home = f"{trial.replicate:04d}", trial.cell.id
        damage = ""
        for name in (home, *self._former.get(home, ())):
            folder = self._folders.get(name)
            record = folder.records.get(replicate) if folder else None
            if record is None:
                continue
            if isinstance(record, Glance):
                state = State.of(record.outcome.kind)
                return Standing(trial=trial, state=state, record=record, place=f"{name}/{replicate}")
            damage = record
            break
        attempt = None
        folder = self._folders.get(home)
        if folder and replicate in folder.attempts:
            place = attempts_of(trial.id, root=self.results)
            attempt = last_attempt(place, lease_seconds=self._lease_seconds, clock=self._clock)
        state = State.RUNNING if attempt is not None and attempt.is_alive else State.LEFT
        return Standing(trial=trial, state=state, attempt=attempt, damage=damage)

    def _with_queued(self, standings: dict[str, Standing]) -> dict[str, Standing]:
        """The same, where what is left and has been handed to somebody is queued."""
        self._found_launches = self._launches.found()

        def is_running(trial: str) -> bool:
            return trial in standings and standings[trial].state is State.RUNNING

        self._live = self._launches.alive(self._found_launches, is_running=is_running)
        for trial in {trial for launch in self._live for trial in self._launches.trials(launch)}:
            item = standings.get(trial)
            if item is not None and item.state is State.LEFT:
                known, queued = self._standings.get(trial), replace(item, state=State.QUEUED)
                standings[trial] = known if known is not None and known == queued else queued
        return standings

    def _views(self, studies: Mapping[str, Study], standings: dict[str, Standing]) -> dict[str, StudyView]:
        views = {}
        for name, study in studies.items():
            trials = self._trials[name][1]
            own = [launch for launch in self._found_launches if launch.study == name]
            former = {trial for launch in own for trial in self._launches.trials(launch)}.difference(trials)
            items = tuple(standings[trial] for trial in trials)
            views[name] = StudyView(
                study=study,
                standings=items,
                former=len(former),
                former_recorded=sum(self._has_record(trial) for trial in former),
                launches=tuple(own),
                live=tuple(launch.number for launch in own if launch in self._live),
                eta=self._eta(study, items),
            )
        return views

    def _eta(self, study: Study, standings: Iterable[Standing]) -> Eta:
        """Knows every measured trial of the study; grows with them."""
        measured = {
            key: item
            for key, item in zip(self._trials[study.name][1], standings, strict=True)
            if item.record is not None and item.state is not State.FAILED
        }
        known = self._etas.get(study.name)
        if known is None or known[0] is not study or not known[2] <= measured.keys():
            known = (study, Eta(), set())
            self._etas[study.name] = known
        _, eta, taken = known
        for trial in measured.keys() - taken:
            item = measured[trial]
            if item.record is not None:
                eta.add(item.trial.cell, elapsed_seconds=item.record.elapsed_seconds)
            taken.add(trial)
        return eta

    def _has_record(self, trial: str) -> bool:
        cell, _, replicate = trial.partition("/")
        folder = self._folders.get(cell)
        return folder is not None and isinstance(folder.records.get(replicate), Glance)

    def _sentences(self, studies: Iterable[Study]) -> tuple[str, ...]:
        said = [text for _, text in self._known.values() if isinstance(text, str)]
        listed = {cell.id for study in studies for cell in _cells(study)}
        listed |= {former for ids in self._former.values() for former in ids}
        strays = 0
        damaged: Counter[str] = Counter()
        for name, folder in self._folders.items():
            for record in folder.records.values():
                if isinstance(record, str):
                    damaged[record] += 1
                elif name not in listed:
                    strays += 1
        if strays:
            said.append(
                f"{strays} records belong to no study of this folder: trials run one by one, or cells of "
                "studies that were edited since. They are kept."
            )
        for text, count in damaged.most_common(5):
            where = f"{count} records cannot be read" if count > 1 else "One record cannot be read"
            said.append(f"{where}: {text}")
        if len(damaged) > 5:
            said.append(
                f"{sum(damaged.values())} records cannot be read in all; `tiebreak study` runs them again."
            )
        if self._clock.is_own:
            said.append(
                "The results folder takes no files, so ages of heartbeats are by this machine's clock and "
                "not by the file system's."
            )
        return tuple(said)


def _cells(study: Study) -> Iterable[AnyCell]:
    return (cell for part in study.parts for cell in part.cells)


def _described(view: StudyView) -> tuple[object, ...]:
    """What a study's view says besides the standing of its trials."""
    return (id(view.study), view.former, view.former_recorded, view.launches, view.live)
