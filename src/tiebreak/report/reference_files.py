"""The files of a clone of the published repository: those with results, and words on all the others."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tiebreak.report.wording import count, listed

_GIT = ".git"
_EXPECTED = {
    ".py", ".pyc", ".ipynb", ".md", ".txt", ".pdf", ".pkl", "LICENSE", ".gitignore", ".gitattributes",
    ".DS_Store",
}  # fmt: skip
"""Endings, and names without one, that files of the published repository have besides its results."""

_SHOWN = 3
_MOST_ENDINGS = 8


@dataclass(frozen=True, kw_only=True)
class FilesOfClone:
    """What lies in a clone, its folder `.git` left out.

    Args:
        results: CSV files below `results`, by path.
        odd: sentences on folders that were not entered, or that are named as files are.
        others: sentences on the files that hold no results, by ending.
    """

    results: tuple[Path, ...]
    odd: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, clone: Path) -> FilesOfClone:
        """Every file below a folder; links to folders are named and not followed."""
        results, others, odd = [], [], []

        def refused(error: OSError) -> None:
            odd.append(f"{_name(Path(error.filename), clone)} cannot be entered ({error.strerror})")

        for place, folders, names in os.walk(clone, onerror=refused):
            here = Path(place)
            folders[:] = sorted(name for name in folders if name != _GIT)
            for name in folders:
                if (here / name).is_symlink():
                    odd.append(f"{_name(here / name, clone)} is a link to a folder; it was not followed")
                elif name.endswith(".csv"):
                    odd.append(f"{_name(here / name, clone)} is a folder, not a file")
            below_results = here.relative_to(clone).parts[:1] == ("results",)
            for name in names:
                if name.endswith(".csv") and below_results:
                    results.append(here / name)
                elif name != _GIT:
                    others.append(here / name)
        return cls(results=tuple(sorted(results)), odd=tuple(odd), others=tuple(_by_ending(others, clone)))


def _by_ending(paths: Iterable[Path], clone: Path) -> Iterator[str]:
    """Unexpected files by ending, counted, the first named; in one sentence those that the repository has."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        groups[path.suffix or path.name].append(path)
    known = sorted(groups.keys() & _EXPECTED)
    strange = sorted(groups.keys() - _EXPECTED, key=lambda ending: (-len(groups[ending]), ending))
    for ending in strange[:_MOST_ENDINGS]:
        yield _passed_over(f"ending {printable(ending)}", groups[ending], clone)
    if rest := [path for ending in strange[_MOST_ENDINGS:] for path in groups[ending]]:
        yield _passed_over("of other endings", rest, clone)
    if known:
        numbers = listed([f"{len(groups[ending])} {ending}" for ending in known])
        yield f"files that a clone has besides its results were not read: {numbers}"


def _passed_over(kind: str, paths: list[Path], clone: Path) -> str:
    shown = [_name(path, clone) for path in paths[:_SHOWN]]
    more = [f"{len(paths) - _SHOWN} more"] if len(paths) > _SHOWN else []
    number = count(len(paths), "file")
    return f"{number} {kind} not expected in a clone and passed over: {listed([*shown, *more])}"


def _name(path: Path, clone: Path) -> str:
    return printable(path.relative_to(clone).as_posix())


def printable(text: str) -> str:
    """A name from someone else's disk on one line of any terminal.

    Example:
        >>> printable("a\\nb.csv")
        'a\\\\nb.csv'
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
