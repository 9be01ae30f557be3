"""Which trials a study runs: shards, reruns, stages, the estimate of the dry run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiebreak.cli import main
from tiebreak.cli.planning import dry_run, only_parts, rerun_choices, select_rerun, set_aside, shard_of
from tiebreak.config import ConfigError, compose_study
from tiebreak.design.axes import Device, UserError
from tiebreak.records.record import Record
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.runner.attempt import Ending
from tiebreak.runner.claim import Attempts

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TUNED = """
question: At the learning rate that PyTorch's derivative likes best, does another derivative learn as well?
parts:
  - name: search
    replicates: 2
    overrides: [protocol=lr_search, data=mnist5k, data.held_out=64, protocol.num_candidates=2]
    sweep: {precision: [fp32, bf16]}
  - name: train
    replicates: 3
    lr_from: search
    overrides: [protocol=train, data=mnist5k]
    sweep: {precision: [fp32, bf16], pool.beta: [0, 100]}
"""
PLAIN = TUNED.replace("    lr_from: search\n", "")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes a study among a copy of the configurations, and composes it."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.setenv("TIEBREAK_CONFIGS", str(tmp_path / "configs"))
    monkeypatch.chdir(tmp_path)

    def compose(text=TUNED, **options):
        (tmp_path / "configs" / "study" / "tuned.yaml").write_text(text)
        return compose_study("tuned", device=lambda: Device.CPU, **options)

    return compose


def recorded(store, trial, *, kind=OutcomeKind.COMPLETED, rows=(), seconds=2.0):
    outcome = Outcome(kind=kind, step=3 if kind is OutcomeKind.DIVERGED else None, reason="")
    store.write(
        Record(trial=trial, provenance={}, rows=tuple(rows), outcome=outcome, elapsed_seconds=seconds)
    )


@pytest.fixture
def trials(study):
    return study(PLAIN).study.trials


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "results")


def test_shards_take_every_trial_once_and_are_alike(trials):
    for count in (1, 2, 5, 16, 40):
        shards = [shard_of(trials, f"{k}/{count}") for k in range(1, count + 1)]
        assert sorted(t.id for shard in shards for t in shard) == sorted(t.id for t in trials)
        assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert shard_of(trials, None) is trials


def test_only_the_parts_that_are_named_are_run(study):
    plan = study(PLAIN)
    search, train = plan.study.parts
    assert only_parts(plan, None) is plan
    assert only_parts(plan, ["train"]).study.trials == train.trials
    assert only_parts(plan, ["train", "search"]).study.parts == (search, train)


def test_a_part_that_is_not_there_or_cannot_be_run_yet(study):
    with pytest.raises(UserError, match=r"tuned has no part 'trian'.*Parts: search, train"):
        only_parts(study(PLAIN), ["trian"])
    waiting = study(TUNED)
    assert waiting.waiting == ("train",)
    with pytest.raises(UserError, match="train waits for learning rates"):
        only_parts(waiting, ["train"])
    assert only_parts(waiting, ["search"]).waiting == ()


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_a_shard_that_cannot_be(trials, text):
    with pytest.raises(UserError, match="--shard must be K/N"):
        shard_of(trials, text)


@pytest.mark.parametrize("kind", ["failed", "diverged", "not_learned"])
def test_records_of_one_outcome_are_set_aside_and_kept(trials, store, kind):
    for trial, outcome in zip(trials, [*OutcomeKind] * 2, strict=False):
        recorded(store, trial, kind=outcome)
    chosen = select_rerun(trials, store, kind=kind)
    assert len(chosen) == 2
    assert all(store.is_done(trial) for trial in trials[:8])  # asking changes nothing
    set_aside(trials, store, kind=kind)
    for trial in chosen:
        assert store.read(trial) is None
        (aside,) = store.attempts_folder(trial).glob("*.jsonl")
        assert aside.name == f"{kind}-0.jsonl"
    assert sum(store.is_done(trial) for trial in trials) == 6


def test_a_rerun_that_was_stopped_means_the_same_trials_when_it_is_given_again(trials, store):
    for trial in trials[:3]:
        recorded(store, trial, kind=OutcomeKind.DIVERGED)
    set_aside(trials[:3], store, kind="diverged")
    recorded(store, trials[0], kind=OutcomeKind.COMPLETED)
    assert select_rerun(trials, store, kind="diverged") == list(trials[1:3])
    assert select_rerun(trials, store, kind="failed") == []
    set_aside(trials, store, kind="diverged")  # nothing is there to be set aside a second time
    assert store.is_done(trials[0])


def test_a_dry_run_is_about_what_the_command_would_run(study, store, capsys):
    plan = study(PLAIN)
    trials = plan.study.trials
    recorded(store, trials[0], kind=OutcomeKind.DIVERGED)
    everything = {"trials": trials, "again": False, "workers": 1}
    for changes, said in (
        ({}, None),
        ({"trials": shard_of(trials, "1/4")}, "of these the command would run 3"),
        ({"trials": [trials[0]], "again": True}, "of these the command would run 1"),
    ):
        assert dry_run(plan, store, **{**everything, **changes}) == 0
        out = capsys.readouterr().out
        assert "16 trials, 1 done, 15 left" in out
        assert (said in out) if said else "of these" not in out


def test_attempts_tell_which_trials_timed_out(trials, store):
    for trial, ending in zip(trials, [Ending.TIMEOUT, Ending.NODE_FAIL, Ending.STOPPED], strict=False):
        Attempts(store.attempts_folder(trial), trial=trial.id).claim().end(ending)
    alive = Attempts(store.attempts_folder(trials[3]), trial="t").claim()
    assert select_rerun(trials, store, kind="timeout") == [trials[0]]
    assert select_rerun(trials, store, kind="node_fail") == [trials[1]]
    assert select_rerun(trials, store, kind="stopped") == [trials[2]]
    assert select_rerun(trials, store, kind="killed") == []
    alive.end(Ending.STOPPED)
    recorded(store, trials[0])
    assert select_rerun(trials, store, kind="timeout") == []


def test_who_died_without_a_word_counts_as_killed(trials, store):
    folder = store.attempts_folder(trials[0])
    script = (
        "from pathlib import Path\nfrom tiebreak.runner.claim import Attempts\nimport os\n"
        f"Attempts(Path({str(folder)!r}), trial='t').claim()\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert select_rerun(trials, store, kind="killed") == [trials[0]]


def test_every_way_to_rerun_is_an_outcome_or_an_ending():
    assert set(rerun_choices()) <= {*OutcomeKind, *Ending}
    assert "completed" not in rerun_choices()


def test_training_waits_for_the_searches_and_then_takes_their_rates(study):
    plan = study()
    assert plan.waiting == ("train",)
    assert [part.name for part in plan.study.parts] == ["search"]
    asked = []

    def best_lr(trials):
        asked.append([trial.id for trial in trials])
        assert len(trials) == 2
        return 0.25 if trials[0].cell.precision == "bf16" else 0.125

    plan = study(best_lr=best_lr)
    assert plan.waiting == ()
    rates = {(str(c.precision), c.reference.beta): c.measure.optimizer.lr for c in plan.study.parts[1].cells}
    assert rates == {("fp32", 0): 0.125, ("fp32", 100): 0.125, ("bf16", 0): 0.25, ("bf16", 100): 0.25}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr_from: search", "lr_from: serach", "lr_from must name a part above it, got 'serach'.*search"),
        (
            "precision: [fp32, bf16], pool",
            "precision: [fp64], pool",
            "no search for train.lenet5.mnist5k.fp64",
        ),
        ("[protocol=train, data=mnist5k]", "[protocol=noise]", "lr_from is for protocol=train and drift"),
        ("[protocol=train,", "[optimizer.lr=1, protocol=train,", "optimizer.lr and lr_from are both set"),
        ("protocol=lr_search, data=mnist5k", "protocol=train, data=mnist5k", "num_candidates|lr_search"),
    ],
)
def test_a_stage_that_cannot_be(study, old, new, words):
    with pytest.raises(ConfigError, match=words):
        study(TUNED.replace(old, new), best_lr=lambda trials: 0.1)


def test_a_search_a_jacobian_is_taken_where_there_is_one(study):
    both = TUNED.replace(
        "sweep: {precision: [fp32, bf16]}", "sweep: {precision: [fp32, bf16], pool.beta: [0, 100]}"
    )
    plan = study(both, best_lr=lambda trials: 0.5 + trials[0].cell.reference.beta)
    assert {c.reference.beta: c.measure.optimizer.lr for c in plan.study.parts[1].cells} == {
        0: 0.5,
        100: 100.5,
    }


SMALL = """
question: Do the stages run one after the other here too?
parts:
  - name: search
    replicates: 1
    overrides: &small
      - data=mnist5k
      - data.batch_size=32
      - data.train_size=96
      - data.held_out=32
      - protocol=lr_search
      - protocol.num_epochs=1
      - protocol.num_candidates=2
  - name: train
    replicates: 2
    lr_from: search
    overrides:
      - data=mnist5k
      - data.batch_size=32
      - data.train_size=64
      - data.test_size=50
      - protocol.num_epochs=1
"""


def test_here_the_stages_run_one_after_the_other(study, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study(SMALL)
    assert main(["study", "tuned", "--dry-run"]) == 0
    assert "train: waits for learning rates" in capfd.readouterr().out
    assert main(["study", "tuned", "--workers", "1", "--no-report"]) == 0, capfd.readouterr()
    assert "3 trials: 1 were done, 2 ran now" in capfd.readouterr().out
    assert main(["study", "tuned", "--dry-run"]) == 0
    assert "3 trials, 3 done, 0 left" in capfd.readouterr().out
    search, *_ = (json.loads(p.read_text().splitlines()[-2]) for p in records(tmp_path, "lr_search"))
    rates = {json.loads(p.read_text().splitlines()[1])["lr"] for p in records(tmp_path, "train")}
    assert rates == {search["lr"]}
    launches = sorted((tmp_path / "results" / "launches" / "tuned").iterdir())
    assert [json.loads((f / "launch.json").read_text())["num_trials"] for f in launches] == [1, 2]
    assert (launches[0] / "logs").is_dir()


def records(folder, protocol):
    return [
        p for p in folder.glob("results/records/*/*.jsonl") if f'"protocol":"{protocol}"' in p.read_text()
    ]


def test_the_dry_run_estimates_cost_and_disk_from_measured_trials(study, store, capsys):
    plan = study(PLAIN)
    assert main(["study", "tuned", "--dry-run", "device=cpu"]) == 0
    assert "time: unknown" in capsys.readouterr().out
    for trial in plan.study.trials[:1]:
        recorded(store, trial, seconds=3600.0, rows=[{"row": "best", "lr": 0.1, "validation_accuracy": 0.5}])
    size = store.path(plan.study.trials[0]).stat().st_size
    assert main(["study", "tuned", "--dry-run", "device=cpu"]) == 0
    said = capsys.readouterr().out
    assert "16 trials, 1 done, 15 left" in said
    assert "cost: about 15 core-hours" in said
    assert f"disk: about {15 * size / 2**20:.3g} MiB" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--detach"], "--detach is for launcher=slurm"),
        (["launcher=slurm", "--workers", "2"], "With launcher=slurm set jobs=N"),
        (["launcher=slurm", "--shard", "1/2"], "--shard is for machines without a scheduler"),
        (["partition=gpu"], "partition belongs to launcher=slurm"),
        (["--shard", "4/3"], "--shard must be K/N"),
        (["launcher=slurm"], "there is no scontrol on this machine"),
    ],
)
def test_a_launch_that_cannot_be_is_a_sentence(study, capsys, monkeypatch, tmp_path, words, sentence):
    study(PLAIN)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert main(["study", "tuned", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("results/launches/*/*"))


def test_a_rerun_that_slurm_refuses_is_given_again(study, store, capsys, monkeypatch, tmp_path):
    from tiebreak.runner import slurm

    search = study(TUNED).study.trials
    recorded(store, search[0], kind=OutcomeKind.FAILED)
    asked = []

    def refuse(launch, settings, *, stages, **options):
        asked.append((stages, [trial.id for trial in launch.trials()]))
        raise slurm.SlurmError("sbatch refused")

    monkeypatch.setattr(slurm, "submit", refuse)
    for _ in range(2):  # the first one has set the record aside
        assert main(["study", "tuned", "launcher=slurm", "--rerun", "failed"]) == 2
        assert "sbatch refused" in capsys.readouterr().err
    assert asked == [(1, [search[0].id])] * 2  # and no later stage with trials that were not asked for
    assert not list(tmp_path.glob("results/launches/*/*"))
