"""Counterexamples that fit on a screen: the network, a point, what AD says, what is true, and a program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from tiebreak.design.axes import UserError
from tiebreak.theory import families
from tiebreak.theory.activations import HARDSIGMOID, IDENTITY, RELU, Rules, Ties, torch_rules
from tiebreak.theory.linear_programs import Vector
from tiebreak.theory.network import Network
from tiebreak.theory.oracle import Kind, judge


@dataclass(frozen=True, kw_only=True)
class Counterexample:
    """A network and a point where AD is wrong.

    Args:
        name: its spelling on the command line.
        teaches: what it shows, in a sentence.
        network: the network.
        point: the parameters.
        program: a program for torch that prints the gradient by which torch is wrong.
        ties: the tie rule of the program where it is not that of torch's `max_pool1d`.
    """

    name: str
    teaches: str
    network: Network
    point: Vector
    program: str
    ties: Ties | None = None


def _point(*numbers: int) -> Vector:
    return tuple(Fraction(number) for number in numbers)


GALLERY = (
    Counterexample(
        name="tied-weights",
        teaches="One weight in two neurons: relu(w) - relu(-w) is w, and AD says that it is constant at 0.",
        network=families.plus_minus(),
        point=_point(0),
        program="""\
import torch
w = torch.tensor(0.0, requires_grad=True)
f = torch.relu(w) - torch.relu(-w)  # is w
f.backward()
print(w.grad.tolist())
""",
    ),
    Counterexample(
        name="fully-connected",
        teaches="Ordinary layers without biases, nothing tied: with w1 = 0 both neurons are on kinks.",
        network=families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1]),
        point=_point(0, -2, 1, -1, 2),
        program="""\
import torch
w = torch.tensor([0.0, -2.0, 1.0, -1.0, 2.0], requires_grad=True)
f = (w[3:] * torch.relu(w[0] * w[1:3])).sum()
f.backward()
print(w.grad.tolist())
""",
    ),
    Counterexample(
        name="products",
        teaches="relu(y) - relu(-y) is y; here y is a product, so AD is wrong on two whole axes.",
        network=families.product_plus_minus(),
        point=_point(0, 3),
        program="""\
import torch
w = torch.tensor([0.0, 3.0], requires_grad=True)
f = torch.relu(w[1] * w[0]) - torch.relu(-w[1] * w[0])  # is w1 w2
f.backward()
print(w.grad.tolist())
""",
    ),
    Counterexample(
        name="max-pool",
        teaches="Two windows that share a bias: their difference is u, and at ties AD says 2, not 1.",
        network=families.two_windows(),
        point=_point(0, 1),
        program="""\
import torch
u, b = (torch.tensor(v, requires_grad=True) for v in (0.0, 1.0))
x = torch.stack([u + b, b, -u + b, b]).view(1, 1, 4)
f = torch.nn.functional.max_pool1d(x, 2).view(2) @ torch.tensor([1.0, -1.0])  # is u
f.backward()
print([u.grad.item(), b.grad.item()])
""",
    ),
    Counterexample(
        name="convolution",
        teaches="A convolution and an overlapping pool on (0, 1, 0, 1): always 0, its gradient is not.",
        network=families.convolution_and_pool((0, 1, 0, 1)),
        point=_point(1, 1, 0),
        program="""\
import torch
w = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
x = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]])
y = torch.nn.functional.conv1d(x, w[:2].view(1, 1, 2), w[2:])
z = torch.nn.functional.max_pool1d(y, 2, stride=1).view(2)
(z[0] - z[1]).backward()  # the gradient of 0
print(w.grad.tolist())
""",
    ),
    Counterexample(
        name="even-split",
        teaches="Entries that repeat: the difference is 0, and halves and thirds do not cancel.",
        network=families.repeated_entries(),
        point=_point(1, 1),
        ties=Ties.SPLIT,
        program="""\
import torch
w = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
f = w[[0, 1, 1]].amax() - w[[0, 0, 1]].amax()  # is 0
f.backward()
print(w.grad.tolist())
""",
    ),
    Counterexample(
        name="minibatch",
        teaches="A batch of two on the two kinks of hardsigmoid: each side gives 1/6, and AD gives 0 twice.",
        network=families.minibatch(HARDSIGMOID, (3, -3)),
        point=_point(0),
        program="""\
import torch
w = torch.tensor(0.0, requires_grad=True)
f = torch.nn.functional.hardsigmoid(w + torch.tensor([3.0, -3.0])).sum()
f.backward()
print(w.grad.tolist())
""",
    ),
)
"""Every counterexample; each says what this project measured with the torch of docs/theory.md."""


def counterexample(name: str) -> Counterexample:
    """The counterexample of this name.

    Args:
        name: as in `GALLERY`.

    Raises:
        UserError: another name.
    """
    for found in GALLERY:
        if found.name == name:
            return found
    raise UserError(f"counterexample must be one of {', '.join(c.name for c in GALLERY)}, got {name!r}.")


def told(example: Counterexample, *, rules: Rules | None = None) -> str:
    """The counterexample in words, judged anew.

    Args:
        example: which.
        rules: of AD; None for those of the torch at hand, measured.

    Returns:
        Some lines; the last ones are the program.
    """
    network, point = example.network, example.point
    by_torch = rules or torch_rules()
    found = judge(network, point, rules=replace(by_torch, ties=example.ties or by_torch.ties))
    at = ", ".join(f"{name} = {value}" for name, value in zip(network.parameters, point, strict=True))
    touched = len(found.by_ad.touched)
    ending = {
        Kind.CORRECT: "With these rules AD is right here.",
        Kind.INCORRECT: "AD is wrong here.",
        Kind.NOT_DIFFERENTIABLE: "There is no derivative here.",
    }[found.kind]
    lines = [
        example.teaches,
        "",
        f"network   f = {network.name}",
        f"at        {at}   ({touched} at a kink or a tie)",
        f"AD says   {_row(found.by_ad.gradient)}",
        f"true is   {' or '.join(map(_row, found.cells))}",
        ending,
        "",
        example.program,
    ]
    return "\n".join(lines)


def _row(vector: Vector) -> str:
    return "(" + ", ".join(map(str, vector)) + ")"
