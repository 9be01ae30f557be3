"""How the ranks of one training come together: started here on this machine, or by torchrun on several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tiebreak.design.axes import DesignError, Device, UserError
from tiebreak.design.cell import Cell, Trial
from tiebreak.protocols.ranks import ALONE, Ranks, in_short
from tiebreak.protocols.seat import Seat, rank_timeout, seat_for
from tiebreak.protocols.shared_session import FollowerSession, SharedSession
from tiebreak.records.session import RankLost, Session

COMMAND = (sys.executable, "-m", "tiebreak", "rank")
"""How a rank above 0 is started; see `tiebreak.cli.running.rank` for its options."""

REFUSED = 2
"""Exit code of a rank that met a mistake of the user's; its last line on standard error says which."""

LOST = 75
"""Exit code of a rank that was asked to stop, or that others have left."""

_ARRIVED = "arrived"
_POLL_SECONDS = 0.02
_WORDS_SECONDS = 5.0
_GRACE_SECONDS = 20.0


@contextmanager
def joined(trial: Trial, session: Session) -> Iterator[tuple[Ranks, Session]]:
    """Be one of the ranks that the trial's cell asks for, meanwhile.

    With one rank nothing happens. Under torchrun, which sets RANK and WORLD_SIZE, its processes are the
    ranks. Otherwise this process is rank 0 and starts the others on this machine; they end with it, whatever
    ends it. All share one `torch.distributed` group: gloo for what is on the CPU, NCCL for what is on CUDA.

    Args:
        trial: what is measured.
        session: of this process; a `FollowerSession` says that it is a rank above 0.

    Yields:
        The ranks, and the session that they share.

    Raises:
        DesignError: fewer CUDA devices than ranks on this machine, or torchrun started another number.
        UserError: what another rank of this machine refused with.
        RankLost: another rank is gone or silent.
    """
    execution = trial.cell.execution
    if execution.num_ranks == 1:
        yield ALONE, session
        return
    seat = session.seat if isinstance(session, FollowerSession) else seat_for(trial)
    if seat is not None:
        _require_devices(execution.device, num_local=seat.num_local)
        with _group(seat, execution.device) as ranks:
            yield ranks, SharedSession(session, ranks=ranks)
        return
    _require_devices(execution.device, num_local=execution.num_ranks)
    with tempfile.TemporaryDirectory(prefix="tiebreak-ranks-") as folder:
        seats = [
            Seat(
                rank=rank,
                size=execution.num_ranks,
                local=rank,
                num_local=execution.num_ranks,
                meeting=Path(folder) / "meeting",
            )
            for rank in range(execution.num_ranks)
        ]
        with (
            _followers(trial, seats[1:], data_root=session.data_root) as followers,
            _group(seats[0], execution.device, check_others=followers.check) as ranks,
        ):
            yield ranks, SharedSession(session, ranks=ranks)


def _require_devices(device: Device, *, num_local: int) -> None:
    if device is not Device.CUDA or (found := torch.cuda.device_count()) >= num_local:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    raise DesignError(
        f"{num_local} ranks on this machine need {num_local} CUDA devices, one each, and torch sees "
        f"{found}{seen}. Use num_ranks={max(found, 1)}, or torchrun on several machines."
    )


@contextmanager
def _group(seat: Seat, device: Device, *, check_others: Callable[[], None] = lambda: None) -> Iterator[Ranks]:
    """The group of all ranks while the context lasts."""
    timeout = timedelta(seconds=rank_timeout())
    backend = "gloo"
    if device is Device.CUDA:
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(seat.local)
    try:
        if seat.meeting is None:
            dist.init_process_group(backend, timeout=timeout)
        else:
            store = dist.FileStore(str(seat.meeting), seat.size)  # pyright: ignore[reportPrivateImportUsage]
            store.set_timeout(timeout)
            if seat.rank:
                store.add(_ARRIVED, 1)
            else:  # whoever cannot even start is noticed now, not after the timeout
                while store.add(_ARRIVED, 0) < seat.size - 1:
                    check_others()
                    time.sleep(_POLL_SECONDS)
            dist.init_process_group(
                backend, store=store, rank=seat.rank, world_size=seat.size, timeout=timeout
            )
    except RuntimeError as error:
        raise RankLost(f"the ranks did not come together: {in_short(error)}") from error
    try:
        yield Ranks(rank=seat.rank, size=seat.size, local=seat.local)
    finally:
        dist.destroy_process_group()


class _Followers:
    """The ranks above 0 as processes of this one."""

    def __init__(self, trial: Trial, seats: Sequence[Seat], *, data_root: Path) -> None:
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._last_words: dict[int, deque[str]] = {}
        self._readers: list[threading.Thread] = []
        for seat in seats:
            process = subprocess.Popen(
                [*COMMAND, *to_arguments(trial, seat, data_root=data_root)],
                stdin=subprocess.PIPE,  # never written to: its end tells the rank that we are gone
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # a Ctrl-C is for rank 0, which tells the others
            )
            words: deque[str] = deque(maxlen=30)
            reader = threading.Thread(target=words.extend, args=(process.stderr,), daemon=True)
            reader.start()
            self._processes[seat.rank], self._last_words[seat.rank] = process, words
            self._readers.append(reader)

    def check(self) -> None:
        """Make sure that nobody has ended.

        Raises:
            RankLost: somebody has.
        """
        for rank, process in self._processes.items():
            if process.poll() is not None:
                raise RankLost(f"rank {rank} ended before it began")

    def cause(self, lost: RankLost) -> Exception:
        """Why a rank was lost: what one that has ended says, or else what was seen from here."""
        deadline = time.monotonic() + _WORDS_SECONDS
        while time.monotonic() < deadline:
            ended = {
                rank: process.returncode
                for rank, process in self._processes.items()
                if process.poll() not in (None, 0, LOST)
            }
            for rank, code in sorted(ended.items(), key=lambda item: item[1] != REFUSED):
                self._readers[list(self._processes).index(rank)].join(_WORDS_SECONDS)
                words = "".join(self._last_words[rank]).strip()
                last_line = words.rpartition("\n")[2].removeprefix("tiebreak: ")
                if code == REFUSED:
                    return UserError(last_line)
                if code > 0:
                    error = RuntimeError(f"rank {rank}: {last_line or f'exit code {code}'}")
                    error.add_note(f"Its last words:\n{words}")
                    return error
                return RankLost(f"rank {rank} ended ({_signal_name(-code)})")
            time.sleep(_POLL_SECONDS)
        return lost

    def wait(self) -> None:
        """Let them end by themselves; `end` sees to who does not."""
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """End who is still there, at once: a rank above 0 has nothing to lose."""
        for process in self._processes.values():
            process.kill()
        for process, reader in zip(self._processes.values(), self._readers, strict=True):
            process.wait()
            reader.join()
            for pipe in (process.stdin, process.stderr):
                if pipe is not None:
                    pipe.close()


@contextmanager
def _followers(trial: Trial, seats: Sequence[Seat], *, data_root: Path) -> Iterator[_Followers]:
    followers = _Followers(trial, seats, data_root=data_root)
    try:
        yield followers
        followers.wait()
    except RankLost as lost:
        raise followers.cause(lost) from lost
    finally:
        followers.end()


def to_arguments(trial: Trial, seat: Seat, *, data_root: Path) -> list[str]:
    """The options that tell a rank above 0 what it is part of.

    Example:
        >>> from tiebreak.design.axes import NATIVE
        >>> from tiebreak.design.cell import Cell, Data, Execution, Network, Train
        >>> cell = Cell(
        ...     network=Network(arch="lenet5"), data=Data(name="mnist"), precision="fp32",
        ...     jacobians=(NATIVE,), measure=Train(), execution=Execution(num_ranks=2),
        ... )
        >>> seat = Seat(rank=1, size=2, local=1, num_local=2, meeting=Path("/tmp/meeting"))
        >>> words = to_arguments(Trial(cell=cell, replicate=0), seat, data_root=Path("/data"))
        >>> from_arguments(words) == (Trial(cell=cell, replicate=0), seat, Path("/data"))
        True
    """
    tree = {"cell": trial.cell.to_dict(), "replicate": trial.replicate}
    meeting = str(seat.meeting.absolute()) if seat.meeting else ""
    return [json.dumps(tree), str(seat.rank), str(seat.size), meeting, str(data_root.absolute())]


def from_arguments(words: Sequence[str]) -> tuple[Trial, Seat, Path]:
    """Trial, seat and data root; the inverse of `to_arguments`."""
    text, rank, size, meeting, data_root = words
    tree = json.loads(text)
    trial = Trial(cell=Cell.from_dict(tree["cell"]), replicate=tree["replicate"])
    number, total = int(rank), int(size)
    seat = Seat(rank=number, size=total, local=number, num_local=total, meeting=Path(meeting))
    return trial, seat, Path(data_root)


def end_with_rank_0() -> None:
    """From now on this process ends when the one that started it does, in whatever it is then doing."""

    def watch() -> None:
        # Read by its number: a lock on `sys.stdin` would be held when the interpreter ends.
        with suppress(OSError):
            os.read(0, 1)
        os._exit(LOST)

    threading.Thread(target=watch, name="rank-0", daemon=True).start()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
