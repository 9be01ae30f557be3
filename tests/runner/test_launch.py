import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tiebreak.records.durable import RecordError
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


def test_what_is_no_launch_is_told_and_passed_over(tmp_path, trials):
    made = launch(tmp_path, trials)
    with pytest.raises(RecordError, match="no launch in"):
        read_launch(tmp_path)
    for text in ("{", "[]", json.dumps({"study": 3})):
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
