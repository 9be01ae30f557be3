"""Files that appear whole or not at all, also across a power cut or a full disk."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tiebreak.design.axes import UserError

TEMPORARY = ".tmp-"
"""How the name of an unfinished file starts; a process that is killed may leave one behind."""


class RecordError(UserError):
    """Something about stored results that the user has to know; the message is a sentence."""


class StoreError(RecordError):
    """A file or folder that cannot be read or written: disk full, no permission, read-only."""


MACHINE = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
"""Errors that are a state of the machine, which its user can change, and no fault of the program's."""


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StoreError` that names `path` and says what to do.

    `FileExistsError` and `FileNotFoundError` pass: they are answers, not accidents.
    """
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise StoreError(sentence(error, path)) from error


def sentence(error: OSError, path: Path | str) -> str:
    """What the system refused, where, and what can be done about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"There is no space left to write {path}. "
            "Free some and give the same command again: what is finished is kept."
        )
    if error.errno in (errno.EROFS, errno.EACCES):
        return (
            f"{path} cannot be written or read ({error.strerror}). "
            "Change the permissions or choose another folder."
        )
    if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EMLINK):
        return (
            f"The file system of {path} refuses what a safe write needs, a hard link ({error.strerror}). "
            "Choose a folder on another file system."
        )
    if error.errno == errno.ENOTDIR:
        return f"A folder on the way to {path} is a file. Move it away or choose another folder."
    return f"{path} could not be written or read: {error.strerror or error}."


def create(path: Path, content: bytes) -> None:
    """Write a new file; of several writers exactly one succeeds.

    The content goes to a temporary file beside `path`, is synced, and is then linked to `path`.

    Raises:
        FileExistsError: `path` exists already; it is untouched.
        StoreError: it cannot be written; nothing is left behind.
    """
    with _beside(path, content) as temporary, explained(path):
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A network file system may answer a repeated request with "exists" although ours succeeded.
            if os.stat(temporary).st_nlink != 2:
                raise
        _sync_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file, in one step in place of the one that may be there.

    Raises:
        StoreError: it cannot be written; the old file stands and nothing else is left behind.
    """
    with _beside(path, content) as temporary, explained(path):
        os.replace(temporary, path)
        _sync_folder(path.parent)


def write(path: Path, text: str) -> None:
    """Write a text for people: in one step where `path` is or becomes a file, else (a pipe) as it comes.

    Raises:
        StoreError: it cannot be written; a file that was there stands.
    """
    if path.exists() and not path.is_file():
        with explained(path):
            path.write_text(text, encoding="utf-8")
    else:
        replace(path, text.encode())


@contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """A synced temporary file in the folder of `path`; gone at the end."""
    temporary = path.parent / f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
    with explained(path):
        make_folder(path.parent)
        try:
            descriptor = _opened(temporary)
            try:
                unwritten = memoryview(content)
                while unwritten:
                    unwritten = unwritten[os.write(descriptor, unwritten) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _opened(temporary: Path) -> int:
    try:
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileNotFoundError:  # a file system that takes no files, such as /proc
        raise StoreError(f"No file can be made in {temporary.parent}. Choose another folder.") from None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each synced into its parent.

    Raises:
        StoreError: it cannot be made.
    """
    with explained(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            try:
                folder.mkdir(exist_ok=True)
            except FileExistsError:
                raise StoreError(
                    f"{folder} should be a folder and is a file. Move it away or choose another folder."
                ) from None
            except FileNotFoundError:  # a file system that takes no folders, such as /proc
                raise StoreError(
                    f"The folder {folder} cannot be made there. Choose another folder."
                ) from None
            _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder and say so
            raise
    finally:
        os.close(descriptor)
