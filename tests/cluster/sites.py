"""The one-node SLURM and folders with studies, for the tests of this folder."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ONE_NODE = ROOT / "slurm" / "one_node.sh"
CONFIGS = ROOT / "configs"


class Cluster:
    """The one-node SLURM: its commands, its nodes."""

    def __init__(self, folder, port):
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_FOLDER": str(folder),
            "SLURM_PORT": str(port),
            "SLURM_CONF": str(folder / "slurm.conf"),
            "SLURMD_TIMEOUT": "10",
        }

    def script(self, *words):
        # Into a file: daemons that the script starts would hold a pipe open.
        log = self.folder.parent / "one_node.log"
        with log.open("ab") as output:
            code = subprocess.call(
                [str(ONE_NODE), *words], env=self.environment, stdout=output, stderr=output
            )
        assert code == 0, log.read_text()

    def ask(self, *words):
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    def queue(self):
        """Job or task of an array -> state."""
        lines = self.ask("squeue", "-h", "-r", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def node_state(self, node):
        return self.ask("sinfo", "-h", "-n", node, "-p", "main", "-o", "%t")

    def kill_node(self, node):
        """Kill the daemon of a node; the jobs' processes live on, as on a node that lost its network."""
        os.kill(int((self.folder / "run" / f"{node}.pid").read_text()), signal.SIGKILL)

    def start_node(self, node):
        self.script("node", node)


def wait_until(condition, seconds, what):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {seconds} s in vain for {what}"
        time.sleep(0.1)
    return found


class Site:
    """A folder to work in, with configurations of its own."""

    def __init__(self, folder, cluster=None):
        self.folder = folder
        self.results = folder / "results"
        self.configs = folder / "configs"
        shutil.copytree(CONFIGS, self.configs)
        self.environment = {
            **(cluster.environment if cluster else os.environ),
            "TIEBREAK_CONFIGS": str(self.configs),
            "TIEBREAK_CHECKPOINT_SECONDS": "0.05",
            "OMP_NUM_THREADS": "1",
        }

    def study(self, name, text):
        (self.configs / "study" / f"{name}.yaml").write_text(text)

    def call(self, *words, **environment):
        return subprocess.run(
            [sys.executable, "-m", "tiebreak", *words],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=1200,
        )

    def start(self, *words):
        """The verb in the background; its output goes to a file."""
        with (self.folder / "background.log").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tiebreak", *words],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def tiebreak(self, *words, code=0, **environment):
        done = self.call(*words, **environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout

    def records(self):
        """Trial id -> path."""
        return {f"{p.parent.name}/{p.stem}": p for p in self.results.glob("records/*/[0-9]*.jsonl")}

    def checkpoints(self):
        return list(self.folder.glob(".tiebreak/checkpoints/*/*/*/checkpoint.safetensors"))

    def launch(self, study, number=-1):
        folder = sorted((self.results / "launches" / study).iterdir())[number]
        return json.loads((folder / "launch.json").read_text())

    def logs(self, study, number=-1):
        folder = sorted((self.results / "launches" / study).iterdir())[number] / "logs"
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.iterdir()))

    def endings(self):
        """Trial id -> how its attempts ended; None for one that has not."""
        found = {}
        for attempts in self.results.glob("records/*/*.attempts"):
            numbers = sorted((p for p in attempts.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
            found[f"{attempts.parent.name}/{attempts.stem}"] = [ending_of(number) for number in numbers]
        return found

    def running(self):
        """Holders of the attempts that have not ended, as far as their processes are there."""
        found = []
        for holder in self.results.glob("records/*/*.attempts/*/holder.json"):
            if not (holder.parent / "end.json").exists():
                with contextlib.suppress(FileNotFoundError, ValueError):
                    found.append(json.loads(holder.read_text()))
        return [holder for holder in found if Path(f"/proc/{holder['pid']}").exists()]


def ending_of(attempt):
    try:
        return json.loads((attempt / "end.json").read_text())["ending"]
    except FileNotFoundError:
        return None


def measured(path):
    """The bytes of a record apart from its origin and its times: what was run, each row, the outcome."""
    header, *rows, closing = path.read_text().splitlines()
    header, closing = json.loads(header), json.loads(closing)
    del header["provenance"], closing["elapsed_seconds"], closing["sha256"]
    return [json.dumps(header), *rows, json.dumps(closing)]
