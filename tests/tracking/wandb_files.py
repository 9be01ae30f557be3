"""Reads records and the files of W&B back."""

import json
from dataclasses import dataclass, field
from pathlib import Path


def measured_bytes(store, trial):
    """The record's lines without provenance, time and sum."""
    header, *rows, closing = store.path(trial).read_text("utf-8").splitlines()
    header, closing = json.loads(header), json.loads(closing)
    for key in ("provenance",):
        del header[key]
    for key in ("elapsed_seconds", "sha256"):
        del closing[key]
    return json.dumps(header), rows, json.dumps(closing)


@dataclass
class Run:
    """What a .wandb file says."""

    id: str = ""
    about: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    artifacts: dict = field(default_factory=dict)
    exit_code: int | None = None
    text: str = ""


def read_runs(folder):
    """Every run file under a folder, in the order of their folders."""
    return [read_run(path) for path in sorted(Path(folder).rglob("run-*.wandb"))]


def read_run(path):
    from wandb.proto import wandb_internal_pb2 as proto

    run = Run()
    for payload in payloads(path.read_bytes()):
        record = proto.Record()
        record.ParseFromString(payload)
        run.text += str(record)
        match record.WhichOneof("record_type"):
            case "run":
                about = record.run
                run.id = about.run_id
                run.about = {
                    "project": about.project,
                    "group": about.run_group,
                    "job_type": about.job_type,
                    "name": about.display_name,
                    "tags": list(about.tags),
                    "resume": about.resume,
                    "host": about.host,
                }
                run.config |= items(about.config.update)
            case "config":
                run.config |= items(record.config.update)
            case "history":
                run.history.append(items(record.history.item))
            case "summary":
                run.summary |= items(record.summary.update)
            case "artifact":
                contents = {entry.path: entry.size for entry in record.artifact.manifest.contents}
                run.artifacts[record.artifact.name] = contents
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def items(updates):
    """`key` or `nested_key` to the value."""
    return {update.key or "/".join(update.nested_key): json.loads(update.value_json) for update in updates}


def payloads(data):
    """The records of a file in LevelDB's log format, behind a header of seven bytes."""
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if room < 7 or kind == 0:
            place += room
            continue
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
