"""One forward pass, a rule for each of its pools: the bits of networks whose pools hold those rules."""

import pytest
import torch

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, PoolJacobian, Selection
from tiebreak.numerics.pool_autograd import own_switch
from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d, max_pool2d
from tiebreak.numerics.switch import observed

LAST = PoolJacobian(selection=Selection.LAST)


def gradient_with(first, second, images):
    """Two overlapping pools on values of a grid, where ties abound."""
    x = images.clone().requires_grad_()
    y = max_pool2d(x, kernel=3, stride=2, jacobian=first)
    return torch.autograd.grad((max_pool2d(y, kernel=2, jacobian=second) * 3).sum(), x)[0]


def test_each_pass_of_one_shared_switch_gets_a_rule_of_its_own():
    images = torch.randint(0, 3, (2, 3, 16, 16), generator=torch.Generator().manual_seed(5)).double()
    switches, x = [], images.clone().requires_grad_()
    shared = JacobianSwitch()
    with observed(lambda event: switches.append(own_switch(event.output))):
        y = max_pool2d(x, kernel=3, stride=2, jacobian=shared)
        loss = (max_pool2d(y, kernel=2, jacobian=shared) * 3).sum()
    results = set()
    for rules in ((NATIVE, NATIVE), (MINIMAL, NATIVE), (NATIVE, LAST), (LAST, MINIMAL)):
        for switch, rule in zip(switches, rules, strict=True):
            switch.jacobian = rule
        (found,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.equal(found, gradient_with(*rules, images))
        results.add(tuple(found.flatten().tolist()))
    assert len(results) == 4


def test_a_pool_called_twice_has_two():
    pool, switches = MaxPool2d(2, 1, jacobian=JacobianSwitch()), []
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    with observed(lambda event: switches.append(own_switch(event.output))):
        loss = pool(pool(x)).sum()
    switches[1].jacobian = MINIMAL
    expected = [[0.25, 0.25, 0.0], [0.25, 0.25, 0.0], [0.0, 0.0, 0.0]]
    assert torch.autograd.grad(loss, x)[0][0, 0].tolist() == expected


def test_without_differentiation_it_is_without_effect():
    assert own_switch(max_pool2d(torch.ones(1, 1, 2, 2), kernel=2)).jacobian == NATIVE


def test_another_operation_is_refused():
    with pytest.raises(DesignError, match="was fixed when it ran"):
        own_switch(torch.ones(1, requires_grad=True) * 2)
