"""The verbs of `tiebreak`. Each imports what it needs when it runs: `--help` waits for nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tiebreak.cli import (
    auditing,
    certifying,
    descending,
    jobs,
    machine,
    ranks,
    reading,
    running,
    studying,
    theory,
    tracking,
    watching,
)
from tiebreak.cli.ending import FAULT, INTERRUPTED, MISTAKE, say, told

__all__ = ["FAULT", "INTERRUPTED", "MISTAKE", "main"]

_OVERRIDES = "key=value, as `tiebreak run --cfg` prints them; results=DIR and data_root=DIR say where"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake is one sentence on standard error and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["worker"]:  # started by `study`, not by people
        return running.worker(words[1:])
    if words[:1] == ["mirror"]:  # the same
        return tracking.mirror(words[1:])
    if words[:1] == ["rank"]:  # started by the rank 0 of a training
        return told(lambda: ranks.rank(words[1:]))
    if words[:1] and (work := jobs.JOBS.get(words[0])):  # started by jobs of SLURM
        return told(lambda: work(words[1:]))
    parsed = _parse(words)
    try:
        return told(lambda: parsed.verb(parsed))
    except KeyboardInterrupt:
        return say(
            "interrupted; what was recorded is kept. Give the same command again to go on.", INTERRUPTED
        )


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line; overrides may stand before, between and after the options."""
    parser = _parser()
    parsed, left = parser.parse_known_args(words)
    if left and (not hasattr(parsed, "overrides") or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        parsed.overrides = [*parsed.overrides, *left]
    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tiebreak",
        description="Does the derivative that max-pooling takes at a tie matter, and when?",
        epilog="tiebreak VERB --help explains a verb.",
    )
    parser.set_defaults(verb=lambda parsed: parser.print_help() or 0)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(verb=run)
        return added

    run = verb("run", running.run, "run one trial and record it; -m for Hydra's multirun")
    run.add_argument("--cfg", action="store_true", help="print the configuration and run nothing")
    run.add_argument("-m", "--multirun", action="store_true", help="Hydra's multirun, with any launcher")
    run.add_argument("overrides", nargs="*", help=_OVERRIDES)

    study = verb(
        "study", studying.study, "run every trial of a study that has no record, then write its report"
    )
    studying.add_arguments(study, overrides=_OVERRIDES)

    watching.add_arguments(
        verb("status", watching.status, "say how studies stand: done, running, left, failed, by axis"),
        verb("dashboard", watching.dashboard, "serve a live page of the results on this machine"),
    )

    for name, function, text in (
        ("tabulate", reading.tabulate, "make the tables of a study from its records"),
        ("draw", reading.draw, "draw the figures of a study from its tables"),
        ("report", reading.report, "tables, figures and the one-page report of a study, from its records"),
    ):
        reader = verb(name, function, text)
        reader.add_argument("name", help="a study that was run, or paper: all studies of the paper at once")
        reader.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")
        reader.add_argument(
            "--pool-devices", action="store_true", help="let records of different devices mix"
        )
        reader.add_argument(
            "--pool-versions", action="store_true", help="let records of different versions of torch mix"
        )

    export = verb(
        "wandb-export",
        tracking.wandb_export,
        "make a study's mirror in Weights & Biases from its records",
    )
    export.add_argument("name", help="a study that was run")
    export.add_argument(
        "overrides", nargs="*", help="mode=offline, project=NAME, entity=NAME, wandb_folder=DIR, results=DIR"
    )

    fetch = verb("fetch", machine.fetch, "download a data set into the data root")
    fetch.add_argument("data", help="mnist, fashion_mnist, cifar10, cifar100 or svhn")
    fetch.add_argument("overrides", nargs="*", metavar="data_root=DIR", help="the data root (default: data)")

    imported = verb(
        "import-reference", reading.import_reference, "read a clone of the published repository's results"
    )
    imported.add_argument("clone", type=Path, help="its root folder")
    imported.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")

    migrate = verb("migrate", reading.migrate, "give records of an older version their present names")
    migrate.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")

    certifying.add_arguments(
        verb("certify", certifying.certify, "say over the reals whether rules at ties differ, with evidence"),
        verb("check", certifying.check, "compute a certificate again from its own numbers"),
    )

    auditing.add_arguments(
        verb("audit", auditing.audit, "ask whether the rule at ties matters to a network of yours, and where")
    )

    theory.add_arguments(
        verb("theory", theory.scoreboard, "ask whether AD is right when parameters are machine numbers")
    )

    descending.add_arguments(
        verb("descent", descending.descent, "say what holds of ten claims about training with kinks")
    )

    conventions = verb("conventions", machine.conventions, "measure what this torch does at ties and kinks")
    conventions.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where")
    conventions.add_argument("--no-compile", action="store_true", help="eager only: seconds, not minutes")
    conventions.add_argument("--json", action="store_true", help="every answer as JSON, not the table")
    conventions.add_argument("--output", type=Path, metavar="FILE", help="a file instead of the terminal")

    verb("kernel", machine.kernel, "say whether the compiled CPU kernel is there, building it if it can be")
    return parser
