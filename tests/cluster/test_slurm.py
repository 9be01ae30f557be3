"""Studies on a real SLURM."""

import os
import signal
import subprocess

from sites import measured, wait_until

TINY = """
question: Is each of two hundred tiny trials recorded once?
parts:
  - name: train
    replicates: 50
    overrides:
      - protocol=train
      - data=mnist5k
      - data.train_size=256
      - data.test_size=100
      - data.batch_size=16
      - protocol.num_epochs=4
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
    wait_until(gone(cluster, jobs), 180, "the jobs")
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
    wait_until(gone(cluster, jobs), 120, "the jobs")
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


def test_two_hundred_trials_through_every_fault(make_site, cluster, tmp_path):
    serial = make_site(tmp_path / "serial")
    serial.study("tiny", TINY)
    site = make_site(tmp_path / "cluster")
    site.study("tiny", TINY)
    site.results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", site.results], check=True)
    try:
        launch_with_faults(site, cluster)
        for _ in range(5):
            if len(site.records()) == 200:
                break
            submit(site, time="0:10:00")
            wait_until(gone(cluster, site.launch("tiny")["jobs"]), 300, "the jobs")
        serial.tiebreak("study", "tiny", "--workers", "1", "--no-report")
        assert sorted(site.records()) == sorted(serial.records())
        assert len(site.records()) == 200
        for trial, path in serial.records().items():
            assert measured(site.records()[trial]) == measured(path), trial
        endings = site.endings()
        assert all(ended.count("recorded") == 1 for ended in endings.values())
        met = {ending for ended in endings.values() for ending in ended}
        assert {"recorded", "killed", "preempted", "timeout"} <= met, met
    finally:
        subprocess.run(["umount", "--lazy", site.results], check=True)


def submit(site, *, time):
    site.tiebreak(
        "study",
        "tiny",
        "launcher=slurm",
        "jobs=8",
        f"time={time}",
        "signal_seconds=30",
        "requeues=5",
        "--detach",
    )


def launch_with_faults(site, cluster):
    """Submit, and while it runs: kill -9, a lost node, a full disk, pre-emption, a time limit, scancel."""
    submit(site, time="0:20:00")
    array = site.launch("tiny")["jobs"][0]

    def recorded(count):
        wait_until(lambda: len(site.records()) >= count, 120, f"{count} records\n{site.logs('tiny')}")

    recorded(4)
    os.kill(wait_until(site.running, 60, "a running trial")[0]["pid"], signal.SIGKILL)

    recorded(8)
    cluster.kill_node("n2")
    wait_until(lambda: cluster.node_state("n2").startswith("down"), 60, "n2 to be missed")
    cluster.start_node("n2")

    recorded(16)
    urgent = cluster.ask(
        "sbatch",
        "--parsable",
        "-p",
        "urgent",
        "-w",
        "n3",
        "--exclusive",
        "-o",
        "/dev/null",
        "--wrap",
        "sleep 2",
    )
    wait_until(gone(cluster, {urgent}), 90, "the urgent job")
    wait_until(lambda: "preempted" in str(site.endings()), 30, f"a pre-empted attempt\n{site.logs('tiny')}")

    tasks = [
        task for task, state in cluster.queue().items() if state == "RUNNING" and task.startswith(f"{array}_")
    ]
    minutes = int(cluster.ask("squeue", "-h", "-j", tasks[0], "-o", "%M").split(":")[-2])
    cluster.ask("scontrol", "update", f"JobId={tasks[0]}", f"TimeLimit={minutes + 1}")
    wait_until(lambda: "timeout" in str(site.endings()), 120, f"a time limit\n{site.logs('tiny')}")

    ballast = site.results / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError:
            pass
    wait_until(lambda: "There is no space left" in site.logs("tiny"), 60, "a worker to notice")
    ballast.unlink()

    cluster.ask("scancel", *(f"{array}_{task}" for task in range(4)))
    wait_until(gone(cluster, site.launch("tiny")["jobs"]), 300, f"the jobs\n{site.logs('tiny')}")
