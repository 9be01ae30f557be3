"""What the mirror writes, read back from W&B's own files."""

import math

import pytest
from wandb_files import measured_bytes, read_runs

from tiebreak.cli.tracking import mirrored
from tiebreak.records.store import RecordStore
from tiebreak.runner.events import TrialRow, ignore
from tiebreak.runner.session import run_trial
from tiebreak.tracking.settings import Mode


def test_a_mirror_says_what_the_records_say(tmp_path, bench, mirror, trials, notices, undisturbed):
    with mirror() as far:
        here = bench(on_event=mirrored(far, ignore))
        for trial in trials:
            run_trial(trial, bench=here)
    assert notices == []
    assert far.num_mirrored == 3
    runs = {run.id: run for run in read_runs(tmp_path / "wandb")}
    assert set(runs) == {trial.id.replace("/", "-") for trial in trials}
    for trial in trials:
        assert measured_bytes(here.store, trial) == undisturbed[trial.id]
        run, record, cell = runs[trial.id.replace("/", "-")], here.store.read(trial), trial.cell
        assert run.about["group"] == "toys/first"
        assert run.about["project"] == "tiebreak"
        assert run.about["job_type"] == cell.protocol
        assert run.about["name"] == f"{cell.name}/{trial.replicate:04d}"
        assert {cell.protocol, "lenet5", "mnist5k", "fp32", "pool native"} <= set(run.about["tags"])
        assert run.about["resume"]
        assert run.exit_code == 0
        for key, value in cell.to_dict().items():
            assert run.config[key] == value
        assert run.config["trial"] == trial.id
        assert run.config["replicate"] == trial.replicate
        assert run.config["commit"] == record.provenance["commit"]
        assert run.config["provenance"] == record.provenance
        assert run.summary["outcome"] == record.outcome.kind
        assert run.summary.get("step") == record.outcome.step
        assert run.summary["num_rows"] == len(record.rows)
        assert run.summary["elapsed_seconds"] == pytest.approx(record.elapsed_seconds)


def test_a_point_names_the_row_it_comes_from(tmp_path, bench, mirror, trials):
    with mirror() as far:
        here = bench(on_event=mirrored(far, ignore))
        for trial in trials:
            run_trial(trial, bench=here)
    runs = {run.id: run for run in read_runs(tmp_path / "wandb")}
    for trial in trials[:2]:
        rows = here.store.read(trial).rows
        history = runs[trial.id.replace("/", "-")].history
        assert [point["_step"] for point in history] == list(range(len(rows)))
        for point, row in zip(history, rows, strict=True):
            for key, value in row.items():
                if key != "row" and value is not None:
                    seen = point[f"{row['row']}/{key}"]
                    assert seen == value or (math.isnan(seen) and math.isnan(value))
    last = runs[trials[0].id.replace("/", "-")].summary
    assert last["epoch/test_accuracy"] == here.store.read(trials[0]).rows[-1]["test_accuracy"]

    gaps = [row for row in here.store.read(trials[2]).rows if row["row"] == "gap"]
    zones = runs[trials[2].id.replace("/", "-")]
    for label in ("minimal", "beta100"):
        mine = [row for row in gaps if row["jacobian"] == label]
        told = [point for point in zones.history if f"gaps/{label}/num_draws" in point]
        assert [point[f"gaps/{label}/num_draws"] for point in told] == [1, 2, 4, 8]
        for point in told:
            behind = mine[: point[f"gaps/{label}/num_draws"]]
            finite = [row for row in behind if not row["nonfinite"]]
            assert point["gaps/draw"] == behind[-1]["draw"]
            assert point[f"gaps/{label}/num_nonfinite"] == len(behind) - len(finite)
            assert point[f"gaps/{label}/num_nonzero"] == sum(row["gap_sup"] > 0 for row in finite)
            assert point[f"gaps/{label}/l2_max"] == max(row["gap_l2"] for row in finite)
        assert zones.summary[f"gaps/{label}/num_draws"] == len(mine)
        assert zones.summary[f"gaps/{label}/num_nonfinite"] == 1


def test_a_trial_that_is_stopped_and_continued_is_one_run(tmp_path, bench, mirror, trials, monkeypatch):
    from tiebreak.records.session import Stopped
    from tiebreak.runner.attempt import Ending

    trial, seen = trials[0], []
    with mirror() as far:

        def count(event):
            seen.append(event)

        here = bench(
            on_event=mirrored(far, count),
            stop=lambda: Ending.STOPPED if sum(isinstance(event, TrialRow) for event in seen) == 4 else None,
        )
        with pytest.raises(Stopped):
            run_trial(trial, bench=here)
    with mirror() as far:
        run_trial(trial, bench=bench(on_event=mirrored(far, ignore)))
    first, second = read_runs(tmp_path / "wandb")
    assert first.id == second.id == trial.id.replace("/", "-")
    assert first.summary["outcome"] == "unfinished"
    assert second.summary["outcome"] == "completed"
    assert [point["_step"] for point in first.history + second.history] == list(range(10))


def test_a_mirror_made_from_records_is_the_one_that_was_watched(tmp_path, bench, mirror, trials):
    with mirror() as far:
        here = bench(on_event=mirrored(far, ignore))
        for trial in trials:
            run_trial(trial, bench=here)
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    with mirror(folder=tmp_path / "again") as far:
        for trial in trials:
            far.export(trial)
    assert far.num_mirrored == 3
    watched, made = ({run.id: run for run in read_runs(tmp_path / name)} for name in ("wandb", "again"))
    assert watched.keys() == made.keys()
    for identity, run in watched.items():
        assert made[identity].about == run.about
        assert made[identity].config == run.config
        assert without_time(made[identity].summary) == without_time(run.summary)
        assert [without_time(point) for point in made[identity].history] == [
            without_time(point) for point in run.history
        ]
    assert before == {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}


def without_time(tree):
    return {
        key: repr(value)
        for key, value in tree.items()
        if key not in ("_timestamp", "_runtime", "_wandb/runtime")
    }


def test_the_report_of_a_study_is_kept_as_artifacts(tmp_path, mirror):
    files = {"tables/toys/first/a.csv": "a,b\n", "figures/toys/first/f.png": "png", "report.html": "page"}
    for name, text in files.items():
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).write_text(text)
    for _ in range(2):
        with mirror() as far:
            far.report()
    runs = read_runs(tmp_path / "wandb")
    assert len({run.id for run in runs}) == 1
    assert runs[0].about["job_type"] == "report"
    assert runs[0].about["group"] == runs[0].about["name"] == "toys/first"
    assert runs[0].artifacts == {
        "toys-first-tables": {"a.csv": 4},
        "toys-first-figures": {"f.png": 3},
        "toys-first-report": {"report.html": 4},
    }


def test_nothing_of_the_machine_or_its_user_is_written(tmp_path, bench, mirror, trials, monkeypatch):
    import getpass
    import platform

    monkeypatch.setenv("WANDB_RUN_ID", "not-ours")
    monkeypatch.setenv("WANDB_NOTES", "secret notes")
    monkeypatch.setenv("USER", "somebody-by-name")
    monkeypatch.setenv("LOGNAME", "somebody-by-name")
    with mirror() as far:
        run_trial(trials[0], bench=bench(on_event=mirrored(far, ignore)))
    (run,) = read_runs(tmp_path / "wandb")
    assert run.id == trials[0].id.replace("/", "-")
    private = [platform.node(), getpass.getuser(), str(tmp_path), str(tmp_path / "home"), "secret", "argv"]
    lines = [line for line in run.text.splitlines() if any(f'"{word}' in line for word in private)]
    assert lines == []
    assert "/" not in "".join(line for line in run.text.splitlines() if "executable" in line)
    assert run.about["host"] == ""
    assert list((tmp_path / "home").rglob("*")) == []


def test_without_tracking_nothing_is_started(tmp_path, bench, mirror, trials, notices):
    with mirror(mode=Mode.DISABLED, command=["/nonexistent"]) as far:
        here = bench(on_event=mirrored(far, ignore))
        run_trial(trials[0], bench=here)
        far.report()
        assert far.pid is None
    assert notices == []
    assert RecordStore(tmp_path / "results").is_done(trials[0])
    assert not (tmp_path / "wandb").exists()
