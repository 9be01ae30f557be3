"""What the pages are made of: a results folder as it was last looked at, by one thread for all."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from tiebreak.watching.curves import Records
from tiebreak.watching.finding import Index
from tiebreak.watching.gaps import GapCounts
from tiebreak.watching.survey import Survey


class FolderView:
    """A results folder: how its studies stand, their trials in a form to search, and records that were read.

    Args:
        results: the results folder; it need not exist yet.
    """

    def __init__(self, results: Path) -> None:
        self.results = Path(results)
        self.survey = Survey(self.results)
        self.gaps = GapCounts(self.results)
        self.records = Records(self.results)
        self.indices: Mapping[str, Index] = {}
        self._lock = threading.Lock()
        self.look()

    def look(self) -> None:
        """Bring the view up to date with the folder."""
        with self._lock:
            version = self.survey.version
            self.survey.refresh()
            if self.survey.version != version:
                former = self.indices
                self.indices = {
                    name: former[name]
                    if name in former and former[name].view is view
                    else Index(view, former=former.get(name))
                    for name, view in self.survey.studies.items()
                }

    @property
    def version(self) -> str:
        """Changes when a page would."""
        return f"{self.survey.version}.{self.gaps.version}"
