"""Cells of every study: one identity each, read back by their protocol, never taken for another's."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations

import pytest

from tiebreak.design.any_cell import SCHEMA
from tiebreak.design.axes import DesignError, PoolJacobian
from tiebreak.design.cell import Cell, Data, Execution, Network, Train, Trial
from tiebreak.design.correctness import Correctness, CorrectnessCell, Statement
from tiebreak.design.stored import FAMILIES, family_of, read_cell, trial_of
from tiebreak.records.migrate import former_ids, identity

POOLING = Cell(
    network=Network(arch="lenet5"),
    data=Data(name="mnist"),
    precision="fp32",
    jacobians=(PoolJacobian(),),
    measure=Train(),
)
THEOREM = CorrectnessCell(measure=Correctness(statement="t5_outside"))


def test_a_protocol_belongs_to_one_study():
    for one, other in combinations(FAMILIES, 2):
        assert not set(one.PROTOCOLS) & set(other.PROTOCOLS)
    for family in FAMILIES:
        for protocol, kind in family.PROTOCOLS.items():
            assert kind.protocol == protocol
            assert family_of(protocol) is family


@pytest.mark.parametrize("cell", [POOLING, THEOREM], ids=lambda cell: cell.name)
def test_a_cell_of_any_study_is_read_back_by_its_protocol(cell):
    again = read_cell(json.loads(json.dumps(cell.to_dict())))
    assert again == cell
    assert type(again) is type(cell)
    assert again.id == cell.id == identity(cell.to_dict(), schema=SCHEMA)
    assert cell.axes()["protocol"] == cell.protocol


def test_the_identity_of_a_theorem_is_pinned():
    assert THEOREM.canonical == (
        '{"execution":{"deterministic":true,"device":"cpu","memory_format":"contiguous","num_ranks":1,'
        '"num_threads":1},"measure":{"protocol":"correctness","statement":"t5_outside"},"schema":3}'
    )
    assert THEOREM.id == hashlib.sha256(THEOREM.canonical.encode()).hexdigest()[:12]
    assert THEOREM.name == f"correctness.t5_outside-{THEOREM.id}"


def test_cells_of_a_study_have_no_ids_of_schemas_before_it():
    assert len(list(former_ids(POOLING))) == SCHEMA - 1
    assert list(former_ids(THEOREM)) == []


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({}, "names no protocol"),
        ({"measure": None}, "names no protocol"),
        ({"measure": {"protocol": "alchemy"}}, "must be one of noise"),
        ({"measure": {"protocol": ["zones"]}}, "must be one of noise"),
        ({**THEOREM.to_dict(), "network": {"arch": "vgg11"}}, "network.arch is missing or unknown"),
        ({"measure": {"protocol": "correctness", "statement": "t1"}}, "schema 3: 'execution'"),
        ({**THEOREM.to_dict(), "measure": {"protocol": "correctness"}}, "statement"),
        (
            {**THEOREM.to_dict(), "measure": {"protocol": "correctness", "statement": "t0"}},
            "must be one of t1",
        ),
    ],
)
def test_what_is_no_cell_is_refused_in_words(tree, words):
    with pytest.raises(DesignError, match=words):
        read_cell(tree)


def test_a_verb_of_one_study_refuses_the_trials_of_another():
    assert trial_of(Cell, Trial(cell=POOLING, replicate=2), asker="certify").replicate == 2
    with pytest.raises(DesignError, match=r"certify is for protocol=noise.*got protocol=correctness"):
        trial_of(Cell, Trial(cell=THEOREM, replicate=0), asker="certify")


def test_rationals_are_no_matter_for_a_gpu():
    with pytest.raises(DesignError, match="Use device=cpu"):
        CorrectnessCell(measure=Correctness(statement=Statement.T1), execution=Execution(device="cuda"))
