"""Which rank of a training this process is, and who started it; nothing here needs torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tiebreak.design.axes import DesignError
from tiebreak.design.cell import AnyTrial

TIMEOUT_VARIABLE = "TIEBREAK_RANK_TIMEOUT_SECONDS"
"""The environment variable that says how long a rank waits for the others."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """The place of one process among the ranks of a training.

    Args:
        rank: its number, from 0; rank 0 claims, keeps checkpoints and records.
        size: how many ranks there are.
        local: its number among those on this machine, which picks the device.
        num_local: how many ranks are on this machine.
        meeting: file over which the ranks of one machine find each other; None where torchrun sees to that.
    """

    rank: int
    size: int
    local: int
    num_local: int
    meeting: Path | None = None


def seat_from_torchrun(environment: Mapping[str, str] = os.environ) -> Seat | None:
    """The seat that torchrun gave this process; None if torchrun did not start it.

    Raises:
        DesignError: RANK and WORLD_SIZE are set to what torchrun cannot have set.

    Example:
        >>> given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
        >>> seat_from_torchrun(given).rank
        1
    """
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    got = [environment.get(name, "") for name in names]
    if not all(text.isdecimal() for text in got) or int(got[0]) >= int(got[1]) or int(got[2]) >= int(got[3]):
        said = " ".join(f"{name}={text}" for name, text in zip(names, got, strict=True))
        raise DesignError(
            f"RANK and WORLD_SIZE are set as if torchrun had started this process, and cannot be: {said}. "
            "Unset them, or use torchrun."
        )
    rank, size, local, num_local = map(int, got)
    return Seat(rank=rank, size=size, local=local, num_local=num_local)


def seat_for(trial: AnyTrial, environment: Mapping[str, str] = os.environ) -> Seat | None:
    """The seat that torchrun gave this process in the training of `trial`; None without torchrun.

    Raises:
        DesignError: torchrun started another number of processes than the trial has ranks.
    """
    seat, num_ranks = seat_from_torchrun(environment), trial.cell.execution.num_ranks
    if seat is not None and seat.size != num_ranks:
        raise DesignError(
            f"torchrun started {seat.size} processes (WORLD_SIZE={seat.size}) and the cell has "
            f"num_ranks={num_ranks}. Set num_ranks={seat.size}, start {num_ranks} processes, or leave "
            "torchrun out: tiebreak starts the ranks of one machine itself."
        )
    return seat


def rank_timeout(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds that a rank waits for the others before it takes them for lost.

    From TIEBREAK_RANK_TIMEOUT_SECONDS, or ten minutes: the slowest rank may be listing a million files. On
    the CPU a rank whose process has ended is noticed at once.

    Raises:
        DesignError: it is no positive number.
    """
    text = environment.get(TIMEOUT_VARIABLE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise DesignError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {text!r}.")
    return seconds
