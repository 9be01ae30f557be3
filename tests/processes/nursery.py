"""Real processes without the seconds of importing torch: forked, on request, from one that has it loaded.

A child has arguments, folder, environment, standard streams, signals and an exit code of its own. What only a
fresh interpreter shows (what is imported, when, and how its output is buffered) needs a fresh interpreter.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

TIEBREAK = "tiebreak"


class Nursery:
    """Starts `python -m tiebreak`, or a file with a function `main(arguments) -> exit code`."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._streams = tempfile.TemporaryDirectory(prefix="nursery-")
        self._count = 0

    def start(self, *words, cwd, program=TIEBREAK, **environment):
        """A process that has been started; who starts it waits for it or kills it."""
        self._count += 1
        out, err = (Path(self._streams.name) / f"{self._count}.{stream}" for stream in ("out", "err"))
        request = {
            "program": str(program),
            "words": [os.fspath(word) for word in words],
            "cwd": str(cwd),
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
            "out": str(out),
            "err": str(err),
        }
        return Process(self, self.ask(request), words, out, err)

    def run(self, *words, cwd, **environment):
        """The same to its end, as `subprocess.run` with captured text gives it."""
        process = self.start(*words, cwd=cwd, **environment)
        out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self):
        self._process.communicate()
        self._streams.cleanup()


@dataclass
class Process:
    """A process of a nursery."""

    nursery: Nursery
    pid: int
    args: tuple
    out: Path
    err: Path
    returncode: int | None = None

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self):
        if self.returncode is None:
            self.returncode = self.nursery.ask({"wait": self.pid})
        return self.returncode

    def kill(self):
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
        return self.wait()

    def communicate(self):
        """What it wrote to its standard output and standard error, once it has ended."""
        self.wait()
        return tuple(path.read_text(encoding="utf-8", errors="replace") for path in (self.out, self.err))


def _serve():
    import torch  # noqa: F401

    import tiebreak.cli
    import tiebreak.config
    import tiebreak.protocols
    import tiebreak.runner.worker  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork() or _child(request)
        print(answer, flush=True)


def _child(request):
    code = 1
    try:
        for stream, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(request[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        code = _main(request["program"], request["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main(program, words):
    if program == TIEBREAK:
        from tiebreak.__main__ import main

        sys.argv = [TIEBREAK, *words]
        return main()
    spec = importlib.util.spec_from_file_location(Path(program).stem, program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(words)


if __name__ == "__main__":
    _serve()
