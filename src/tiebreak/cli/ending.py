"""How a command ends: its exit code, and one sentence about what went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tiebreak.design.axes import UserError
from tiebreak.records.durable import MACHINE, sentence

STATE = Path(".tiebreak")
_ERROR_FILE = STATE / "error.txt"

MISTAKE = 2
"""Exit code of a mistake of the user's."""

FAULT = 1
"""Exit code of a fault of ours, and of a trial that failed."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def told(work: Callable[[], int]) -> int:
    """The exit code of `work`; an exception becomes one sentence on standard error and its code."""
    try:
        _require_here()
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()  # or a full disk is noticed after the exit code is settled
        return code
    except UserError as error:
        return say(str(error), MISTAKE)
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output()
        return FAULT
    except OSError as error:
        if error.errno not in MACHINE:
            return _fault(error)
        if error.filename is None:  # standard output: what it still holds would fail again at the end
            _drop_output()
        return say(sentence(error, error.filename or "the output"), MISTAKE)
    except Exception as error:
        return _fault(error)


def say(sentence: str, code: int) -> int:
    """Say a sentence on standard error and return the exit code."""
    print(f"tiebreak: {sentence}", file=sys.stderr)
    return code


def _fault(error: Exception) -> int:
    try:
        _ERROR_FILE.parent.mkdir(parents=True, exist_ok=True)
        _ERROR_FILE.write_text(traceback.format_exc(), encoding="utf-8")
        where = f"The traceback is in {_ERROR_FILE}"
    except OSError:
        where = "The traceback could not be written"
    return say(
        f"this is a fault of ours: {type(error).__name__}: {' '.join(str(error).split())}. {where}; please "
        "report it.",
        FAULT,
    )


def _drop_output() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _require_here() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was removed. Change into one that is there.") from None
