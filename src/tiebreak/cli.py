"""The verbs of `tiebreak`. Each imports what it needs when it runs: `--help` waits for nothing."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.design.axes import UserError
from tiebreak.records.durable import MACHINE, TEMPORARY, explained, sentence

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from tiebreak.config import Run, StudyRun
    from tiebreak.design.study import Study
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.session import Measure

_STATE = Path(".tiebreak")
_RESULTS = Path("results")
_ERROR_FILE = _STATE / "error.txt"

MISTAKE = 2
"""Exit code of a mistake of the user's."""
FAULT = 1
"""Exit code of a fault of ours, and of a trial that failed."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

_OVERRIDES = "key=value, as `tiebreak run --cfg` prints them; results=DIR and data_root=DIR say where"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake is one sentence on standard error and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["worker"]:  # started by `study`, not by people
        return _worker(words[1:])
    parsed = _parse(words)
    try:
        return _explained(lambda: parsed.verb(parsed))
    except KeyboardInterrupt:
        return _say(
            "interrupted; what was recorded is kept. Give the same command again to go on.", INTERRUPTED
        )


def _explained(work: Callable[[], int]) -> int:
    """The exit code of `work`; an exception becomes one sentence on standard error and its code."""
    try:
        _require_here()
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()  # or a full disk is noticed after the exit code is settled
        return code
    except UserError as error:
        return _say(str(error), MISTAKE)
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output()
        return FAULT
    except OSError as error:
        if error.errno not in MACHINE:
            return _fault(error)
        if error.filename is None:  # standard output: what it still holds would fail again at the end
            _drop_output()
        return _say(sentence(error, error.filename or "the output"), MISTAKE)
    except Exception as error:
        return _fault(error)


def _drop_output() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _require_here() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was removed. Change into one that is there.") from None


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line; overrides may stand before, between and after the options."""
    parser = _parser()
    parsed, left = parser.parse_known_args(words)
    if left and (not hasattr(parsed, "overrides") or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        parsed.overrides = [*parsed.overrides, *left]
    return parsed


def _say(sentence: str, code: int) -> int:
    print(f"tiebreak: {sentence}", file=sys.stderr)
    return code


def _fault(error: Exception) -> int:
    try:
        _ERROR_FILE.parent.mkdir(parents=True, exist_ok=True)
        _ERROR_FILE.write_text(traceback.format_exc(), encoding="utf-8")
        where = f"The traceback is in {_ERROR_FILE}"
    except OSError:
        where = "The traceback could not be written"
    return _say(
        f"this is a fault of ours: {type(error).__name__}: {' '.join(str(error).split())}. {where}; please "
        "report it.",
        FAULT,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tiebreak",
        description="Does the derivative that max-pooling takes at a tie matter, and when?",
        epilog="tiebreak VERB --help explains a verb.",
    )
    parser.set_defaults(verb=lambda parsed: parser.print_help() or 0)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(verb=run)
        return added

    run = verb("run", _run, "run one trial and record it; -m for Hydra's multirun")
    run.add_argument("--cfg", action="store_true", help="print the configuration and run nothing")
    run.add_argument("-m", "--multirun", action="store_true", help="Hydra's multirun, with any launcher")
    run.add_argument("overrides", nargs="*", help=_OVERRIDES)

    study = verb("study", _study, "run every trial of a study that has no record, then write its report")
    study.add_argument("name", nargs="?", help="a study; without a name the studies are listed")
    study.add_argument("overrides", nargs="*", help=_OVERRIDES)
    study.add_argument("--dry-run", action="store_true", help="print the cells and what is done; run nothing")
    study.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    study.add_argument("--rerun", choices=["failed"], help="first set the records of failed trials aside")
    study.add_argument("--no-report", action="store_true", help="run the trials only")

    for name, function, text in (
        ("tabulate", _tabulate, "make the tables of a study from its records"),
        ("draw", _draw, "draw the figures of a study from its tables"),
        ("report", _report, "tables, figures and the one-page report of a study, from its records"),
    ):
        reader = verb(name, function, text)
        reader.add_argument("name", help="a study that was run")
        reader.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")
        reader.add_argument(
            "--pool-devices", action="store_true", help="let records of different devices mix"
        )

    fetch = verb("fetch", _fetch, "download a data set into the data root")
    fetch.add_argument("data", help="mnist, fashion_mnist, cifar10, cifar100 or svhn")
    fetch.add_argument("overrides", nargs="*", metavar="data_root=DIR", help="the data root (default: data)")

    migrate = verb("migrate", _migrate, "give records of an older version their present names")
    migrate.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")

    conventions = verb("conventions", _conventions, "measure what this torch does at ties and kinks")
    conventions.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where")
    conventions.add_argument("--no-compile", action="store_true", help="eager only: seconds, not minutes")
    conventions.add_argument("--json", action="store_true", help="every answer as JSON, not the table")
    conventions.add_argument("--output", type=Path, metavar="FILE", help="a file instead of the terminal")

    verb("kernel", _kernel, "say whether the compiled CPU kernel is there, building it if it can be")
    return parser


def _run(parsed: argparse.Namespace) -> int:
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak import config

    if parsed.cfg:
        print(config.to_yaml(parsed.overrides), end="")
        return 0
    if parsed.multirun:
        return config.multirun(parsed.overrides, _run_composed, stopped=INTERRUPTED)
    return _run_one(config.compose_run(parsed.overrides, device=_auto_device()))


def _run_composed(composed: DictConfig) -> int:
    """One trial of a multirun, perhaps in a process of its own: it says itself what went wrong."""
    from tiebreak import config

    return _explained(lambda: _run_one(config.run_of(composed, device=_auto_device())))


def _run_one(run: Run) -> int:
    from tiebreak.console import TrialProgressLine, make_console
    from tiebreak.records.session import OutcomeKind
    from tiebreak.records.store import RecordStore

    store = RecordStore(run.results)
    trial = run.trial
    record = store.read(trial)
    if record is not None:
        outcome, note = record.outcome, " (recorded before; nothing ran)"
    else:
        from tiebreak.records.session import Stopped
        from tiebreak.runner.checkpoint import CheckpointStore
        from tiebreak.runner.session import Bench, origin_of, run_trial
        from tiebreak.runner.worker import stop_on_signals

        measure, kernel = _loaded_protocols()

        with TrialProgressLine(make_console()).shown() as progress, stop_on_signals() as stop:
            bench = Bench(
                store=store,
                checkpoints=CheckpointStore(_checkpoints(store)),
                measure=measure,
                data_root=run.data_root,
                provenance=partial(origin_of, kernel=kernel),
                on_event=progress,
                stop=stop.is_set,
                refusals=(UserError,),
                checkpoint_every_seconds=_checkpoint_seconds(),
            )
            try:
                outcome, note = run_trial(trial, bench=bench), ""
            except Stopped as stopped:
                return _say(str(stopped), INTERRUPTED)
        record = store.read(trial)
    at = f" at step {outcome.step}" if outcome.step is not None else ""
    why = f": {outcome.reason}" if outcome.reason else ""
    print(f"{trial.cell.name}, replicate {trial.replicate}: {outcome.kind}{at}{why}{note}")
    if record is not None:
        finals = [row for row in record.rows if row["row"] in ("epoch", "best")]
        if finals:
            shown = ("epoch", "lr", "train_loss", "test_loss", "test_accuracy", "validation_accuracy")
            print("  " + "  ".join(f"{key}={finals[-1][key]:.6g}" for key in shown if key in finals[-1]))
    print(f"  {store.path(trial)}")
    return FAULT if outcome.kind is OutcomeKind.FAILED else 0


def _checkpoint_seconds() -> float:
    """How much work a crash may cost, from TIEBREAK_CHECKPOINT_SECONDS or half a minute."""
    text = os.environ.get("TIEBREAK_CHECKPOINT_SECONDS", "30")
    try:
        return max(0.0, float(text))
    except ValueError:
        raise UserError(f"TIEBREAK_CHECKPOINT_SECONDS must be a number of seconds, got {text!r}.") from None


def _loaded_protocols() -> tuple[Measure, str]:
    """How a trial is measured, and what its provenance says of the compiled kernel; this loads torch."""
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak.numerics.native import kernel_status
        from tiebreak.protocols import measure

        return measure, str(kernel_status())


def _auto_device():
    """What `device=auto` becomes; said once."""
    from tiebreak.cuda import best_device
    from tiebreak.design.axes import Device

    chosen: list[Device] = []

    def resolve() -> Device:
        if not chosen:
            chosen.append(best_device())
            why = "a CUDA device is there" if chosen[0] is Device.CUDA else "there is no CUDA device"
            print(f"device: {chosen[0]} (auto: {why})", file=sys.stderr)
        return chosen[0]

    return resolve


def _study(parsed: argparse.Namespace) -> int:
    from tiebreak import config
    from tiebreak.records.store import RecordStore

    if parsed.name is None:
        print("\n".join(config.list_studies()))
        return 0
    plan = config.compose_study(parsed.name, parsed.overrides, device=_auto_device())
    store = RecordStore(plan.results, only_looks=parsed.dry_run)
    workers = parsed.workers if parsed.workers is not None else _num_cores()
    if workers < 1:
        raise UserError(f"--workers must be 1 or more, got {workers}.")
    if parsed.dry_run:
        return _dry_run(plan, store, workers=workers)
    if parsed.rerun:
        _reopen_failed(plan, store)
    return _run_study(plan, store, workers=workers, report=not parsed.no_report)


def _num_cores() -> int:
    """Cores that this process may use, where the system tells; else those there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reopen_failed(plan: StudyRun, store: RecordStore) -> None:
    from tiebreak.records.session import OutcomeKind

    for trial in plan.study.trials:
        record = store.read(trial)
        if record is not None and record.outcome.kind is OutcomeKind.FAILED:
            store.reopen(trial)


def _dry_run(plan: StudyRun, store: RecordStore, *, workers: int) -> int:
    from tiebreak.console import duration

    study = plan.study
    print(f"{study.name}: {study.question}")
    for part in study.parts:
        print(f"\n{part.name}: {len(part.cells)} cells x {part.num_replicates} replicates")
        for cell in part.cells:
            done = sum(store.is_done(trial) for trial in part.trials if trial.cell == cell)
            print(f"  {done:3d}/{part.num_replicates} {cell.name}")
    data = [cell.data for part in study.parts for cell in part.cells]
    for folder in sorted(
        {item.folder or str(item.name) for item in data if item.name.is_folder and not item.content}
    ):
        print(f"\n{folder} has no images in {plan.data_root}: once they are there, its cells have other ids")
    left = [trial for trial in study.trials if not store.is_done(trial)]
    print(f"\n{len(study.trials)} trials, {len(study.trials) - len(left)} done, {len(left)} left")
    seconds = _measured(plan, store).seconds_left(left, workers=workers)
    if left and seconds is None:
        print("time: unknown until a trial of the study has been measured")
    elif seconds is not None:
        print(f"time: about {duration(seconds)} with {workers} workers, from measured trials")
    return 0


def _measured(plan: StudyRun, store: RecordStore):
    """An estimator that knows what trials of the study took: here, or else in the default results folder."""
    from tiebreak.records.session import OutcomeKind
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.eta import Eta

    eta = Eta()
    reference = [] if store.root == _RESULTS else [RecordStore(_RESULTS, only_looks=True)]
    for known in (store, *reference):
        for trial in plan.study.trials:
            record = known.read(trial)
            if record is not None and record.outcome.kind is not OutcomeKind.FAILED:
                eta.add(trial.cell, elapsed_seconds=record.elapsed_seconds)
        if eta.trial_seconds(plan.study.trials[0].cell) is not None:
            break
    return eta


def _run_study(plan: StudyRun, store: RecordStore, *, workers: int, report: bool) -> int:
    from tiebreak.console import StudyProgress, make_console
    from tiebreak.records.session import OutcomeKind
    from tiebreak.runner.local import run_study

    study = plan.study
    store.write_study(study)
    left = [trial for trial in study.trials if not store.is_done(trial)]
    console = make_console()
    progress = StudyProgress(
        left,
        done_before=len(study.trials) - len(left),
        workers=workers,
        eta=_measured(plan, store),
        console=console,
    )
    with progress.shown() as listen:
        summary = run_study(
            study.trials,
            store=store,
            workers=workers,
            command=[sys.executable, "-m", "tiebreak", "worker"],
            checkpoints=_checkpoints(store),
            data_root=plan.data_root,
            on_event=listen,
            checkpoint_every_seconds=_checkpoint_seconds(),
        )
    print(f"{study.name}: {summary}")
    page = plan.results / "report.html"
    if report and (summary.recorded or not _is_current(page, store, study)):
        _write_report(store, study.name, pool_devices=False)
    if report:
        print(f"report: {page}")
    if summary.stopped:
        return INTERRUPTED
    return FAULT if summary.outcomes.get(OutcomeKind.FAILED) else 0  # what others hold is theirs to end


def _is_current(page: Path, store: RecordStore, study: Study) -> bool:
    """Whether the page is this study's, and younger than its list of trials and every record of them."""
    files = [store.study_path(study.name), *map(store.path, study.trials)]
    try:
        with page.open(encoding="utf-8", errors="replace") as text:
            is_ours = f"<title>{escape(study.name)} · " in text.read(1000)
        return is_ours and page.stat().st_mtime_ns >= max(
            file.stat().st_mtime_ns for file in files if file.exists()
        )
    except FileNotFoundError:
        return False


def _tabulate(parsed: argparse.Namespace) -> int:
    from tiebreak.report.tables import write_tables

    store = _store(parsed)
    folder = _tables(store, parsed.name)
    study = store.read_study(parsed.name)
    with explained(folder):
        tables = write_tables(store, study, folder, pool_devices=parsed.pool_devices)
    print(f"{len(tables)} tables in {folder}")
    return 0


def _draw(parsed: argparse.Namespace) -> int:
    from tiebreak.report.figures import draw_figures

    store = _store(parsed)
    if not _tables(store, parsed.name).is_dir():
        raise UserError(
            f"there are no tables of {parsed.name} in {store.root}. Run `tiebreak tabulate` first."
        )
    folder = store.root / "figures" / parsed.name
    with explained(folder):
        written = draw_figures(_tables(store, parsed.name), folder)
    print(f"{len(written)} files in {folder}")
    return 0


def _report(parsed: argparse.Namespace) -> int:
    store = _store(parsed)
    print(f"report: {_write_report(store, parsed.name, pool_devices=parsed.pool_devices)}")
    return 0


def _write_report(store: RecordStore, name: str, *, pool_devices: bool) -> Path:
    from tiebreak.report.html import write_report

    study = store.read_study(name)
    page, unfinished = store.root / "report.html", store.root / f"{TEMPORARY}report-{os.getpid()}.html"
    with explained(store.root):
        try:
            write_report(store.root, study, unfinished, pool_devices=pool_devices)
            os.replace(unfinished, page)  # a page cut short by a full disk would pass for a finished one
        finally:
            unfinished.unlink(missing_ok=True)
    return page


def _tables(store: RecordStore, name: str) -> Path:
    return store.root / "tables" / name


def _store(parsed: argparse.Namespace) -> RecordStore:
    from tiebreak.records.store import RecordStore

    return RecordStore(_place(parsed.overrides, "results"))


def _checkpoints(store: RecordStore) -> Path:
    """Unfinished trials of one results folder: the same trial may be running for another one."""
    name = hashlib.sha256(str(store.root.resolve()).encode()).hexdigest()[:8]
    return _STATE / "checkpoints" / name


def _place(words: Sequence[str], key: str) -> Path:
    """The folder in the only override that this verb takes."""
    chosen = Path(key if key == "results" else "data")
    for word in words:
        name, sign, value = word.partition("=")
        if name != key or not sign or not value:
            raise UserError(f"this verb takes {key}=DIR, got {word!r}.")
        chosen = Path(value)
    return chosen


def _fetch(parsed: argparse.Namespace) -> int:
    from tiebreak.data import fetch
    from tiebreak.design.axes import DataName, member

    root = _place(parsed.overrides, "data_root")
    fetch(member(DataName, parsed.data, key="data"), root=root, progress=sys.stderr.isatty())
    print(f"{parsed.data} is in {root}")
    return 0


def _migrate(parsed: argparse.Namespace) -> int:
    store = _store(parsed)
    print(f"{store.migrate()} records in {store.root} were given their present names")
    return 0


def _kernel(parsed: argparse.Namespace) -> int:
    from tiebreak.numerics.native import kernel_status

    status = kernel_status()
    print(f"compiled CPU kernel: {'ready' if status.available else 'absent'} ({status.reason})")
    return 0


def _conventions(parsed: argparse.Namespace) -> int:
    from tiebreak.console import make_console
    from tiebreak.conventions import compiler_status, measure_conventions, surroundings, to_json, to_markdown

    if parsed.output is not None and not parsed.output.parent.is_dir():
        raise UserError(
            f"--output {parsed.output}: there is no folder {parsed.output.parent}. Make it first."
        )
    device = _auto_device()() if parsed.device == "auto" else parsed.device
    compiled, reason = False, "--no-compile was given"
    if not parsed.no_compile:
        compiled, reason = compiler_status(device=device)
    with make_console().status("measuring") as status:
        found = measure_conventions(
            device=device,
            compiled=compiled,
            progress=lambda done, total: status.update(f"measuring: {done} of {total} operations"),
        )
    where = surroundings(device=device, compiled="measured" if compiled else f"not measured: {reason}")
    text = to_json(found, where=where) if parsed.json else to_markdown(found, where=where)
    if parsed.output is None:
        print(text, end="")
        return 0
    with explained(parsed.output):
        parsed.output.write_text(text, encoding="utf-8")
    print(f"conventions: {parsed.output}")
    return 0


def _worker(words: Sequence[str]) -> int:
    from tiebreak.runner.worker import Job, main_loop

    loaded = cache(_loaded_protocols)  # at the first trial: a worker with nothing to do loads nothing

    return main_loop(
        Job.from_arguments(words),
        measure=lambda trial, session: loaded()[0](trial, session),
        refusals=(UserError,),
        kernel=lambda: loaded()[1],
    )


if __name__ == "__main__":
    sys.exit(main())
