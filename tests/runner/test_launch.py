import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tiebreak.design.cell import Trial
from tiebreak.records.durable import RecordError, StoreError
from tiebreak.runner.launch import launches, new_launch, read_launch


def launch(tmp_path, trials, **changes):
    return new_launch(tmp_path / "results", study="paper/depth", trials=trials, launcher="local", **changes)


def test_a_launch_is_read_back_as_it_was_made(tmp_path, trials):
    made = launch(tmp_path, trials, settings={"jobs": 3}, waiting=["accuracy"])
    assert read_launch(made.folder) == made
    assert made.trials() == trials
    assert made.holder.is_here
    assert not made.holder.is_gone()
    changed = made.changed(jobs=("17", "18"))
    assert read_launch(made.folder) == changed
    assert launches(tmp_path / "results") == (changed,)
    assert made.log("17_3-0") == "launches/paper/depth/0001/logs/17_3-0.log"


def test_launches_at_the_same_moment_have_numbers_of_their_own(tmp_path, trials):
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: launch(tmp_path, trials).number, range(24)))
    assert sorted(numbers) == list(range(1, 25))


def test_a_launch_that_cannot_be_written_leaves_nothing(tmp_path, trials, monkeypatch):
    def full(path, content):
        raise StoreError("There is no space left")

    monkeypatch.setattr("tiebreak.runner.launch.create", full)
    with pytest.raises(StoreError):
        launch(tmp_path, trials)
    assert not list((tmp_path / "results/launches/paper/depth").iterdir())


def test_a_folder_with_an_odd_name_beside_launches_is_passed_over(tmp_path, trials):
    (tmp_path / "results/launches/paper/depth/\u00b2").mkdir(parents=True)
    assert launch(tmp_path, trials).number == 1


def test_what_is_no_launch_is_told_and_passed_over(tmp_path, trials):
    made = launch(tmp_path, trials)
    with pytest.raises(RecordError, match="no launch in"):
        read_launch(tmp_path)
    tree = json.loads((made.folder / "launch.json").read_text())
    odd = [{"jobs": [1]}, {"jobs": [[1]]}, {"waiting": [None]}, {"study": None}, {"holder": {"pid": "x"}}]
    for text in ("{", "[]", json.dumps({"study": 3}), *(json.dumps(tree | change) for change in odd)):
        (made.folder / "launch.json").write_text(text)
        with pytest.raises(RecordError, match="not a launch"):
            read_launch(made.folder)
    assert launches(tmp_path / "results") == ()


def test_later_stages_have_manifests_of_their_own(tmp_path, trials):
    from tiebreak.runner.manifest import write_manifest

    made = launch(tmp_path, trials[:2])
    for stage in range(2, 12):
        write_manifest(made.manifest(stage), trials[stage % 6 : stage % 6 + 1])
    assert made.trials() == [*trials[:2], *(trials[stage % 6] for stage in range(2, 12))]


def test_gpus_are_shared_out_as_many_to_a_worker_as_its_trials_have_ranks(tmp_path, trials, make_job):
    from tiebreak.runner.crew import plan_workers

    def visible(trials, gpus, workers):
        made = launch(tmp_path, trials)
        jobs = [make_job(trials, index=index, of=workers) for index in range(workers)]
        plans = plan_workers(made, jobs, name="w", trials=trials, gpus=gpus)
        assert len({plan.log for plan in plans}) == workers
        return [plan.environment.get("CUDA_VISIBLE_DEVICES") for plan in plans]

    assert visible(trials, ("0", "2"), 3) == ["0", "2", "0"]
    cell = replace(trials[0].cell, execution=replace(trials[0].cell.execution, num_ranks=2))
    wide = [Trial(cell=cell, replicate=0)]
    assert visible(wide, ("0", "1", "2", "3", "4"), 3) == ["0,1", "2,3", "0,1"]
    assert visible(wide, ("7",), 1) == ["7"]


def test_a_machine_without_gpus_leaves_the_variable_alone(tmp_path, trials, make_job, monkeypatch):
    from tiebreak.runner.crew import plan_workers

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    (plan,) = plan_workers(launch(tmp_path, trials), [make_job(trials)], name="w", trials=trials)
    assert plan.environment["CUDA_VISIBLE_DEVICES"] == "5"
    assert plan.environment["TIEBREAK_LOG"] == "launches/paper/depth/0001/logs/w-0.log"
