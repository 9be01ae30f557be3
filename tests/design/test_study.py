import pytest

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, PoolJacobian
from tiebreak.design.cell import Cell, Data, Network, Train, Zones
from tiebreak.design.study import Part, Study


def cell(beta):
    return Cell(
        network=Network(arch="lenet5"),
        data=Data(name="mnist5k"),
        precision="fp32",
        jacobians=(PoolJacobian(beta=beta),),
        measure=Train(),
    )


ZONES = Cell(
    network=Network(arch="lenet5"),
    data=Data(name="mnist5k"),
    precision="fp32",
    jacobians=(NATIVE, MINIMAL),
    measure=Zones(),
)


def test_a_part_goes_replicate_by_replicate():
    cells = (cell(0), cell(1), cell(10))
    part = Part(name="accuracy", cells=cells, num_replicates=2)
    seen = [(trial.replicate, trial.cell) for trial in part.trials]
    assert seen == [(replicate, item) for replicate in (0, 1) for item in cells]


def test_a_study_has_each_trial_once_in_the_order_of_its_parts():
    first = Part(name="first", cells=(cell(0), cell(1)), num_replicates=2)
    second = Part(name="second", cells=(ZONES, cell(1), cell(2)), num_replicates=3)
    study = Study(name="demo", question="Does it matter?", parts=(first, second))
    ids = [trial.id for trial in study.trials]
    expected = list(dict.fromkeys(trial.id for part in (first, second) for trial in part.trials))
    assert ids == expected
    assert len(ids) == len(set(ids)) == 2 * 2 + 3 * 3 - 2
    assert ids[:4] == [trial.id for trial in first.trials]


def test_the_same_cell_in_two_studies_is_the_same_trial():
    one, other = (
        Study(name=name, question="?", parts=(Part(name=name, cells=(cell(7),), num_replicates=1),))
        for name in ("one", "other")
    )
    assert one.trials == other.trials


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "3", None])
def test_replicates_are_a_whole_number(count):
    with pytest.raises(DesignError, match=r"part zones: replicates must be a whole number, 1 or more, got"):
        Part(name="zones", cells=(cell(0),), num_replicates=count)


def test_a_part_has_cells():
    with pytest.raises(DesignError, match=r"part zones has no cells"):
        Part(name="zones", cells=(), num_replicates=1)


def test_two_parts_of_one_name_are_refused():
    """They are told apart by name wherever they are stored or shown."""
    part = Part(name="zones", cells=(cell(0),), num_replicates=1)
    with pytest.raises(DesignError, match=r"demo has two parts named zones. Give each its own name\."):
        Study(name="demo", question="?", parts=(part, part))


@pytest.mark.parametrize("name", [3, "", None, True])
def test_the_name_of_a_part_is_text(name):
    with pytest.raises(DesignError, match=r"name of a part must be text.*got"):
        Part(name=name, cells=(cell(0),), num_replicates=1)
