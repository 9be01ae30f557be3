import pytest

from tiebreak.design.axes import MINIMAL, NATIVE, Arch, DataName, Precision
from tiebreak.design.cell import Cell, Data, Network, Optimizer, Train, Trial, Zones
from tiebreak.records.record import Record
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import RecordStore

COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)


@pytest.fixture(scope="session")
def train_cell():
    return Cell(
        network=Network(arch=Arch.LENET5),
        data=Data(name=DataName.MNIST5K),
        precision=Precision.FP32,
        jacobians=(NATIVE,),
        measure=Train(optimizer=Optimizer(lr=0.1), num_epochs=2),
    )


@pytest.fixture(scope="session")
def zones_cell():
    return Cell(
        network=Network(arch=Arch.LENET5),
        data=Data(name=DataName.MNIST5K),
        precision=Precision.FP16,
        jacobians=(NATIVE, MINIMAL),
        measure=Zones(num_batches=2),
    )


@pytest.fixture(scope="session")
def trial(zones_cell):
    return Trial(cell=zones_cell, replicate=3)


@pytest.fixture
def notices():
    return []


@pytest.fixture
def store(tmp_path, notices):
    return RecordStore(tmp_path / "results", notice=notices.append)


@pytest.fixture(scope="session")
def make_record():
    def make(trial, *, rows=({"row": "gap", "draw": 0, "gap_l1": 0.5},), outcome=COMPLETED, **provenance):
        stated = {"device": "cpu", "device_name": "Toy 9000", "commit": "c0ffee", **provenance}
        return Record(trial=trial, provenance=stated, rows=tuple(rows), outcome=outcome, elapsed_seconds=1.25)

    return make
