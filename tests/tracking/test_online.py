"""What is sent, to a server of our own that answers as far as W&B's client needs it."""

import getpass
import gzip
import json
import platform
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from wandb_files import measured_bytes, read_runs

from tiebreak.cli.tracking import mirrored
from tiebreak.runner.events import TrialRow, ignore
from tiebreak.runner.session import run_trial
from tiebreak.tracking.settings import Mode

HASTY = """
import sys
import tiebreak.tracking.wandb_runs as runs
from tiebreak.cli import main
runs._INIT_SECONDS, runs._FINISH_SECONDS = 1.5, 1.5
sys.exit(main(["mirror", *sys.argv[1:]]))
"""


class Server(ThreadingHTTPServer):
    """Keeps every request: path, headers and body as text."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    def queries(self, word):
        """The variables of the GraphQL queries that hold a word."""
        bodies = [json.loads(body) for path, _, body in list(self.requests) if path == "/graphql"]
        return [body["variables"] for body in bodies if word in body["query"]]

    def end(self):
        if not self._thread.is_alive():
            return
        self.shutdown()
        self._thread.join()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.requests.append((self.path, dict(self.headers), body.decode(errors="replace")))
        content = json.dumps(self.answer(body) if self.path == "/graphql" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self):
        self.do_POST()

    def do_GET(self):
        self.do_POST()

    def answer(self, body):
        asked = json.loads(body)
        query, given = asked["query"], asked.get("variables") or {}
        project = {"id": "p", "name": "tiebreak", "entity": {"id": "e", "name": "somebody"}}
        if "upsertBucket" in query:
            bucket = {"id": "b", "name": given["name"], "displayName": given["displayName"], "config": "{}"}
            bucket |= {"project": project, "historyLineCount": 0, "description": "", "sweepName": None}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "RunResumeStatus" in query:
            return {"data": {"model": {**project, "bucket": None}}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/up/{name}"} for name in given["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    yield server
    server.end()


def test_what_is_sent_is_the_trial_and_nothing_of_the_machine(
    tmp_path, bench, mirror, trials, notices, server, monkeypatch
):
    for name in ("USER", "LOGNAME", "WANDB_USERNAME", "WANDB_USER_EMAIL", "WANDB_HOST"):
        monkeypatch.setenv(name, "somebody-by-name")
    with mirror(mode=Mode.ONLINE) as far:
        for trial in trials:
            run_trial(trial, bench=bench(on_event=mirrored(far, ignore)))
    assert notices == []
    assert far.num_mirrored == 3
    sent = server.queries("upsertBucket")
    assert {one["name"] for one in sent} == {trial.id.replace("/", "-") for trial in trials}
    assert {one["groupName"] for one in sent} - {None} == {"toys/first"}  # later calls leave it as it is
    assert not any(one.get(key) for one in sent for key in ("host", "repo", "commit", "notes"))
    assert {one.get("program") for one in sent} <= {"tiebreak", "", None}
    streamed = "".join(body for path, _, body in server.requests if path.endswith("file_stream"))
    assert "epoch/test_accuracy" in streamed
    assert "diverged" in streamed
    everything = "".join(f"{path}\n{headers}\n{body}" for path, headers, body in server.requests)
    private = ["somebody-by-name", str(tmp_path), sys.executable, sys.prefix, "pytest"]
    # where they could be words of ours, names count only as whole values
    private += [f'"{word}\\"' for word in (platform.node(), getpass.getuser())]
    private += [f'"{word}"' for word in (platform.node(), getpass.getuser())]
    assert [word for word in private if word in everything] == []


def test_a_network_that_is_lost_halfway(
    tmp_path, bench, mirror, trials, notices, server, undisturbed, monkeypatch
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    ended = []

    def lose(event):
        if isinstance(event, TrialRow) and event.index == 4 and not ended:
            ended.append(server.url)
            server.end()

    with mirror(mode=Mode.ONLINE, command=[sys.executable, "-c", HASTY]) as far:
        here = bench(on_event=mirrored(far, lose))
        for trial in trials:
            run_trial(trial, bench=here)
    assert {trial.id: measured_bytes(here.store, trial) for trial in trials} == undisturbed
    assert far.num_mirrored == 3
    assert len(notices) == 1
    assert "W&B cannot be reached" in notices[0]
    offline = [path.parent for path in (tmp_path / "wandb").rglob("offline-run-*/*.wandb")]
    runs = {run.id: run for folder in offline for run in read_runs(folder)}
    assert trials[2].id.replace("/", "-") in runs
    assert {run.summary["outcome"] for run in runs.values()} <= {"completed", "diverged"}
