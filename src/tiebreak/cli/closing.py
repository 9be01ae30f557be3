"""What a study says at its end besides where its page is: verdicts that are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiebreak.cli.ending import FAULT
from tiebreak.design.correctness import Correctness
from tiebreak.design.descent import DescentCell

if TYPE_CHECKING:
    from tiebreak.design.study import Study
    from tiebreak.records.store import RecordStore


def close(store: RecordStore, study: Study) -> int:
    """Print the verdicts of a study that has some.

    Returns:
        0, or 1 where one is not as it must be; of what has no record yet nothing is said. That a claim
        fails is a finding, and no fault.
    """
    from tiebreak.report.tables import build_tables, read_frames

    measures = {cell.id: cell.measure for part in study.parts for cell in part.cells}
    planned = sum(isinstance(measure, Correctness) for measure in measures.values())
    has_claims = any(isinstance(cell, DescentCell) for part in study.parts for cell in part.cells)
    if not planned and not has_claims:
        return 0
    frames = read_frames(store, study, pool_devices=True, pool_versions=True)
    tables, code = build_tables(frames), 0
    if has_claims:
        from tiebreak.report.descent_claims import findings, to_text

        print(to_text(findings(tables)), end="")
    if (statements := tables.get("statements")) is not None:
        from tiebreak.report.scoreboard import scoreboard_lines

        print("\n".join(scoreboard_lines(statements, num_planned=planned)))
        code = 0 if bool(statements["as_it_must_be"].all()) else FAULT
    return code
