"""Studies on a real SLURM."""

import contextlib
import os
import signal
import subprocess

import pytest
from sites import measured, wait_until

LONG = 900
"""Seconds for what takes a moment on a machine of its own."""

TINY = """
question: Is each of two hundred tiny trials recorded once?
parts:
  - name: train
    replicates: 50
    overrides:
      - protocol=train
      - data=mnist5k
      - data.train_size=128
      - data.test_size=50
      - data.batch_size=16
      - protocol.num_epochs=8
    sweep:
      pool.beta: [0, 1]
      precision: [fp32, bf16]
"""
STAGED = """
question: Does training wait for the learning rate?
parts:
  - name: search
    replicates: 1
    overrides:
      - protocol=lr_search
      - data=mnist5k
      - data.train_size=160
      - data.held_out=64
      - data.batch_size=32
      - protocol.num_candidates=2
      - protocol.num_epochs=1
    sweep:
      precision: [fp32, bf16]
  - name: train
    replicates: 2
    lr_from: search
    overrides:
      - protocol=train
      - data=mnist5k
      - data.train_size=64
      - data.test_size=50
      - data.batch_size=32
      - protocol.num_epochs=1
    sweep:
      precision: [fp32, bf16]
      pool.beta: [0, 100]
"""


def gone(cluster, jobs):
    return lambda: not any(job.partition("_")[0] in jobs for job in cluster.queue())


def test_training_waits_for_the_search_and_the_report_for_both(make_site, cluster):
    site = make_site()
    site.study("staged", STAGED)
    said = site.tiebreak("study", "staged", "launcher=slurm", "jobs=2", "--detach")
    assert "staged: 2 trials in 2 jobs of 1 workers" in said
    # What is edited after the submission changes nothing, not in the stage that is composed later either.
    site.study("staged", STAGED.replace("[0, 100]", "[0, 7]").replace("replicates: 2", "replicates: 3"))
    jobs = site.launch("staged")["jobs"]
    assert len(jobs) == 4  # search, gate, training, report
    wait_until(gone(cluster, jobs), LONG, "the jobs")
    assert len(site.records()) == 2 + 8, site.logs("staged")
    assert (site.results / "report.html").exists(), site.logs("staged")
    names = [measured(path)[0] for path in site.records().values()]
    assert sum('"beta": 100' in name for name in names) == 4
    assert not any('"beta": 7' in name for name in names)
    # The same study run here finds everything done: the same cells, the same learning rates.
    site.study("staged", STAGED)
    assert "10 trials: 10 were done, 0 ran now" in site.tiebreak("study", "staged")


def test_a_gate_lets_nothing_begin_before_all_searches_are_recorded(make_site, cluster):
    site = make_site()
    site.study("staged", STAGED)
    site.tiebreak("study", "staged", "launcher=slurm", "jobs=1", "--detach")
    jobs = site.launch("staged")["jobs"]
    cluster.ask("scancel", jobs[0])
    wait_until(gone(cluster, jobs), LONG, "the jobs")
    assert "have no record, so stage 2 cannot begin" in site.logs("staged")
    assert not [name for name in site.records() if '"train"' in measured(site.records()[name])[0]]
    assert "10 trials: " in site.tiebreak("study", "staged")  # and going on here does the rest


def test_what_slurm_refuses_is_told_in_its_words_and_leaves_nothing(make_site, cluster):
    site = make_site()
    site.study("tiny", TINY)
    for word, words in (
        ("partition=nowhere", "invalid partition"),
        ("time=9-00:00:00", "time limit"),
        ("cpus=64", "cpu"),
    ):
        refused = site.call("study", "tiny", "launcher=slurm", word, "--detach")
        assert refused.returncode == 2
        assert "sbatch refused" in refused.stderr
        assert words in refused.stderr.lower()
        assert "Change partition, account, time" in refused.stderr
    assert not list(site.results.glob("launches/tiny/*"))
    assert not cluster.queue()


def test_watching_follows_the_jobs_to_their_end(make_site):
    site = make_site()
    site.study("tiny", TINY.replace("replicates: 50", "replicates: 2"))
    said = site.call("study", "tiny", "launcher=slurm", "jobs=2", "slots=2", "throttle=1")
    assert said.returncode == 0, said.stderr
    assert "8 trials in 2 jobs of 2 workers" in said.stdout
    assert "8 of 8 trials were recorded, 0 are left" in said.stdout
    assert "jobs: " in said.stderr
    assert "8 trials, all done; nothing was submitted" in site.tiebreak("study", "tiny", "launcher=slurm")


def test_a_cancelled_job_is_no_death_of_its_trials(make_site, cluster):
    site = make_site()
    endless = TINY.replace("num_epochs=8", "num_epochs=1000").replace("replicates: 50", "replicates: 1")
    site.study("endless", endless)

    def cancelled(*, frozen=False):
        site.tiebreak("study", "endless", "launcher=slurm", "jobs=2", "slots=2", "--detach")
        jobs = site.launch("endless")["jobs"]
        wait_until(lambda: len(site.running()) == 4, LONG, f"four running trials\n{site.logs('endless')}")
        wait_until(lambda: len(site.checkpoints()) == 4, LONG, "the first checkpoint of each")
        for holder in site.running() if frozen else ():  # so that they answer nothing until SLURM kills them
            os.kill(holder["pid"], signal.SIGSTOP)
        cluster.ask("scancel", *jobs)
        wait_until(gone(cluster, jobs), LONG, "the jobs")

    cancelled()
    cancelled(frozen=True)
    cancelled()
    endings = list(site.endings().values())
    assert [ended[:2] for ended in endings] == [["stopped", "stopped"]] * 4
    assert {ended[2] for ended in endings} <= {"stopped", None}  # None: nobody has asked since
    assert "Ctrl-C" not in site.logs("endless")


def test_two_hundred_trials_through_every_fault(make_site, cluster, tmp_path):
    serial = make_site(tmp_path / "serial")
    serial.study("tiny", TINY)
    site = make_site(tmp_path / "cluster")
    site.study("tiny", TINY)
    site.results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "none", site.results]
    has_own_disk = subprocess.run(mount, capture_output=True).returncode == 0
    undisturbed = serial.start("study", "tiny", "--workers", "1", "--no-report")  # while others wait
    try:
        launch_with_faults(site, cluster, fills_disk=has_own_disk)
        for _ in range(5):
            if "nothing was submitted" in submit(site):
                break
            wait_until(gone(cluster, site.launch("tiny")["jobs"]), LONG, f"the jobs\n{site.logs('tiny')}")
        assert undisturbed.wait(LONG) == 0
        assert sorted(site.records()) == sorted(serial.records())
        assert len(site.records()) == 200
        for trial, path in serial.records().items():
            assert measured(site.records()[trial]) == measured(path), trial
        endings = site.endings()
        assert all(ended.count("recorded") == 1 for ended in endings.values())
        met = {ending for ended in endings.values() for ending in ended}
        assert {"recorded", "killed", "preempted", "timeout", "stopped"} <= met, met
    finally:
        undisturbed.kill()
        undisturbed.wait()
        if has_own_disk:
            subprocess.run(["umount", "--lazy", site.results], check=True)
    if not has_own_disk:
        pytest.skip(
            "all but the full disk was tried: that needs a file system of its own, and none may be mounted"
        )


def submit(site):
    words = ["launcher=slurm", "jobs=8", "time=0:20:00", "signal_seconds=50", "requeues=20", "--detach"]
    return site.tiebreak("study", "tiny", *words)


def launch_with_faults(site, cluster, *, fills_disk):
    """Submit, and while it runs: kill -9, a lost node, pre-emption, a time limit, scancel, a full disk."""
    submit(site)
    array = site.launch("tiny")["jobs"][0]

    def logs():
        return site.logs("tiny")

    def met(ending):
        wait_until(
            lambda: ending in str(site.endings()), LONG, f"an attempt that ended so: {ending}\n{logs()}"
        )

    wait_until(lambda: len(site.records()) >= 2, LONG, f"the first records\n{logs()}")
    os.kill(wait_until(site.running, LONG, "a running trial")[0]["pid"], signal.SIGKILL)
    met("killed")
    cluster.kill_node("n2")

    whole_node = ["-p", "urgent", "-w", "n3", "--exclusive", "-o", "/dev/null"]
    urgent = cluster.ask("sbatch", "--parsable", *whole_node, "--wrap", "sleep 2")
    met("preempted")

    there = [line.split() for line in cluster.ask("squeue", "-h", "-r", "-o", "%i %N %M").splitlines()]
    task, _, run_for = next(job for job in there if job[1:2] == ["n4"])
    minutes = int(run_for.split(":")[-2])
    cluster.ask("scontrol", "update", f"JobId={task}", f"TimeLimit={minutes + 1}")
    met("timeout")

    wait_until(lambda: cluster.node_state("n2").startswith("down"), LONG, "n2 to be missed")
    cluster.start_node("n2")
    wait_until(gone(cluster, {urgent}), LONG, "the urgent job")
    cluster.ask("scancel", *(f"{array}_{task}" for task in range(4)))
    if fills_disk:
        with (site.results / "ballast").open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        wait_until(lambda: "There is no space left" in logs(), LONG, f"a worker to notice\n{logs()}")
        (site.results / "ballast").unlink()
    wait_until(gone(cluster, site.launch("tiny")["jobs"]), LONG, f"the jobs\n{logs()}")
