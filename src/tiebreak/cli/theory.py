"""Verbs about AD over machine numbers: counterexamples, and the scoreboard of theorems."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from tiebreak.cli.ending import FAULT
from tiebreak.design.axes import UserError


def add_arguments(theory: argparse.ArgumentParser) -> None:
    """The verbs under `theory`."""
    theory.set_defaults(verb=lambda parsed: theory.print_help() or 0)
    verbs = theory.add_subparsers(title="verbs", metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(verb=run)
        return added

    example = verb("counterexample", counterexample, "show a network and a point where AD is wrong")
    example.add_argument("name", nargs="?", help="which; without it, what there is")
    board = verb("scoreboard", scoreboard, "say what `tiebreak study theory/scoreboard` found")
    board.add_argument("overrides", nargs="*", metavar="results=DIR", help="the results folder")
    board.add_argument("--json", action="store_true", help="one object a line, not the table")
    proof = verb("certify", certify, "say at which images AD's gradient of a network is the derivative")
    proof.add_argument(
        "--model", metavar="PACKAGE.MODULE:FACTORY", required=True, help="a function that returns a module"
    )
    proof.add_argument("--batch", type=Path, metavar="FILE", required=True, help="images (safetensors)")
    proof.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        metavar="FILE",
        help="a state dict (safetensors); may be given several times, as along training",
    )
    proof.add_argument(
        "--train", action="store_true", help="the network in training mode (default: evaluation)"
    )
    proof.add_argument("--seed", type=int, default=0, metavar="N", help="of the hashes and the factory (0)")


def certify(parsed: argparse.Namespace) -> int:
    """Look for sufficient conditions in a network of the user's, at each of its checkpoints."""
    if not 0 <= parsed.seed < 2**63:
        raise UserError(f"--seed must be 0 or more and below 2**63, got {parsed.seed}.")
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak.auditing.given import read_batch
        from tiebreak.exact.record import record, require_trained
        from tiebreak.exact.sufficient import sufficient
        from tiebreak.models.factory import load_model, load_weights
        from tiebreak.protocols.points import explained_pass

    images = read_batch(parsed.batch).images
    model = load_model(parsed.model, seed=parsed.seed).train(parsed.train)
    require_trained(model)
    for path in parsed.checkpoint or [None]:
        if path is not None:
            load_weights(model, path)
        graph, _ = record(model, images, forward=explained_pass(model, images))
        found = sufficient(graph, seed=parsed.seed)
        print(f"{parsed.model}{f', weights of {path.name}' if path else ''}, on {parsed.batch.name}")
        left = found.images - found.derivative - found.limit
        print(
            f"  {found.derivative} of {found.images} images: AD gives the derivative, over the reals; "
            f"{found.limit} more: a limit of derivatives ({found.independent} with any choice at the ReLUs); "
            f"{left}: nothing is proved"
        )
        whole = "gives the derivative" if found.whole_derivative else "gives a limit of derivatives"
        is_whole = found.whole_derivative or found.whole_limit
        print(f"  the batch as one: {f'AD {whole}' if is_whole else 'nothing is proved'}")
        print(
            f"  {found.touched} of {found.neurons} ReLUs at exactly 0; {found.tied} of {found.windows} "
            f"windows tied: {found.equal} of equal patches, {found.dead} of ReLUs that are off, "
            f"{found.tied - found.equal - found.dead} others"
        )
        if found.log2_error > -math.inf:
            power = math.ceil(found.log2_error)
            print(f"  wrong with a probability of at most 2**{power}: equality is tested at random")
    return 0


def counterexample(parsed: argparse.Namespace) -> int:
    """Show a counterexample, or the list."""
    from tiebreak.theory.gallery import GALLERY, told
    from tiebreak.theory.gallery import counterexample as chosen

    if parsed.name is None:
        width = max(len(example.name) for example in GALLERY)
        for example in GALLERY:
            print(f"{example.name:{width}}  {example.teaches}")
        return 0
    print(told(chosen(parsed.name)), end="")
    return 0


def scoreboard(parsed: argparse.Namespace) -> int:
    """Show what the study of the theorems found; exit code 1 if one is not as it must be."""
    from tiebreak.cli.closing import close
    from tiebreak.cli.reading import store_of
    from tiebreak.report.tables import build_tables, read_frames

    store = store_of(parsed)
    if not store.study_path(_SCOREBOARD).exists():
        raise UserError(f"no theorem has been tried in {store.root}. Run `tiebreak study {_SCOREBOARD}`.")
    study = store.read_study(_SCOREBOARD)
    if not parsed.json:
        return close(store, study)
    frames = read_frames(store, study, pool_devices=True, pool_versions=True)
    table = build_tables(frames).get("statements")
    if table is None:
        return 0
    print(table.to_json(orient="records", lines=True, force_ascii=False), end="")
    return 0 if bool(table["as_it_must_be"].all()) else FAULT


_SCOREBOARD = "theory/scoreboard"
