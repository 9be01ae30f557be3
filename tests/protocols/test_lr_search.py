"""Learning-rate search: on held-out images only, and the same when resumed."""

from __future__ import annotations

from memory_session import run_interrupted

from tiebreak.data import load
from tiebreak.design.axes import Forward, PoolJacobian, Precision
from tiebreak.design.cell import LrSearch, Optimizer, Trial
from tiebreak.protocols import measure
from tiebreak.records.session import OutcomeKind

SEARCH = LrSearch(num_epochs=2, num_candidates=7, optimizer=Optimizer(momentum=0.9))


def test_best_is_the_best_candidate_and_within_range(make_cell, session) -> None:
    cell = make_cell(SEARCH, data={"held_out": 64, "train_size": 256})
    assert measure(Trial(cell=cell, replicate=0), session).kind is OutcomeKind.COMPLETED
    *candidates, best = session.rows
    assert [row["candidate"] for row in candidates] == list(range(7))
    assert all(1e-5 <= row["lr"] <= 1e-1 for row in candidates)
    finished = [row for row in candidates if not row["pruned"] and not row["nonfinite"]]
    assert best["validation_accuracy"] == max(row["validation_accuracy"] for row in finished)


def test_validation_images_come_from_the_training_split(make_cell, session) -> None:
    searched = load(make_cell(SEARCH, data={"held_out": 64}).data, root=session.data_root)
    plain = load(make_cell(data={"train_size": 0, "test_size": 0}).data, root=session.data_root)
    pixels = lambda images: {bytes(image.flatten().tolist()) for image in images.pixels}  # noqa: E731
    validation = pixels(searched.test)
    assert validation <= pixels(plain.train)
    assert not validation & pixels(searched.train)


def test_resumed_search_proposes_the_same_rates(make_cell, session, tmp_path) -> None:
    cell = make_cell(SEARCH, data={"held_out": 64, "train_size": 128})
    trial = Trial(cell=cell, replicate=3)
    measure(trial, session)
    interrupted, attempts = run_interrupted(measure, trial, tmp_path)
    assert attempts > 7 * 3, "it must have been stopped inside candidates too"
    assert interrupted.rows == session.rows


def test_a_search_in_which_everything_overflows_says_so(make_cell, session) -> None:
    search = LrSearch(num_epochs=1, num_candidates=2)
    blended = PoolJacobian(beta=60000, forward=Forward.BLENDED)
    cell = make_cell(search, data={"held_out": 64}, precision=Precision.FP16_ROUNDED, jacobians=(blended,))
    outcome = measure(Trial(cell=cell, replicate=0), session)
    assert outcome.kind is OutcomeKind.DIVERGED
    assert "every learning rate" in outcome.reason
