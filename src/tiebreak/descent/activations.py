"""Activations whose smoothness is the treatment: the ReLU, its C1 twins, and the usual smooth ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.design.axes import UserError, finite_number
from tiebreak.design.descent_axes import Shape
from tiebreak.numerics.relu import relu

_SLOPE_OF_LEAKY = 0.01


@dataclass(frozen=True, kw_only=True)
class Activation:
    """One activation, as a function of tensors.

    Args:
        shape: its graph.
        delta: width of the rounded corner of `c1relu`; positive there and 0 elsewhere.
        derivative_at_zero: what `relu` takes for its derivative at 0; 0 is PyTorch's choice.

    Raises:
        UserError: a width or a derivative that this shape does not have.

    Example:
        >>> Activation(shape=Shape.C1RELU, delta=0.5)(torch.tensor([-1.0, 0.25, 2.0])).tolist()
        [0.0, 0.0625, 1.75]
    """

    shape: Shape
    delta: float = 0.0
    derivative_at_zero: float = 0.0

    def __post_init__(self) -> None:
        finite_number(self.delta, key="delta of an activation")
        finite_number(self.derivative_at_zero, key="derivative_at_zero of an activation")
        if (self.shape is Shape.C1RELU) != (self.delta > 0) or self.delta < 0:
            raise UserError(
                f"delta is the width of the corner of c1relu, positive there and 0 elsewhere; got delta="
                f"{self.delta} with shape={self.shape}. Give c1relu a width, and leave delta out elsewhere."
            )
        if self.derivative_at_zero and self.shape is not Shape.RELU:
            raise UserError(
                f"derivative_at_zero belongs to relu, got {self.derivative_at_zero} with shape={self.shape}. "
                "Leave it out."
            )

    @property
    def label(self) -> str:
        """Its name in tables: `relu`, `c1relu_0.1`."""
        return f"{self.shape}_{self.delta:g}" if self.delta else str(self.shape)

    def __call__(self, z: Tensor) -> Tensor:
        """s(z), elementwise, in the dtype of z and differentiable by autograd."""
        match self.shape:
            case Shape.RELU:
                return relu(z, derivative_at_zero=self.derivative_at_zero)
            case Shape.LEAKY:
                return functional.leaky_relu(z, _SLOPE_OF_LEAKY)
            case Shape.C1RELU:
                # for z >= delta: (z + z - delta) / 2; for 0 <= z <= delta: (z/delta) * z / 2
                inside = z.clamp(0.0, self.delta)
                return inside * inside / (2 * self.delta) + (z - self.delta).clamp_min(0.0)
            case Shape.SOFTPLUS:
                return functional.softplus(z)
            case Shape.SILU:
                return functional.silu(z)
            case Shape.GELU:
                return functional.gelu(z)
            case Shape.ELU:
                return functional.elu(z)
            case Shape.TANH:
                return torch.tanh(z)
            case Shape.LINEAR:
                return z

    def slope(self, z: Tensor) -> Tensor:
        """s'(z), elementwise: what autograd gives, without a graph."""
        match self.shape:
            case Shape.RELU:
                at_zero = z.new_tensor(self.derivative_at_zero)
                return torch.heaviside(z, at_zero)
            case Shape.LEAKY:
                return torch.where(z > 0, torch.ones_like(z), _SLOPE_OF_LEAKY)
            case Shape.C1RELU:
                return (z / self.delta).clamp(0.0, 1.0)
            case Shape.SOFTPLUS:
                return torch.sigmoid(z)
            case Shape.SILU:
                gate = torch.sigmoid(z)
                return gate * (1 + z * (1 - gate))
            case Shape.GELU:
                density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
                return (1 + torch.erf(z / math.sqrt(2))) / 2 + z * density
            case Shape.ELU:
                return torch.exp(z.clamp_max(0.0))
            case Shape.TANH:
                return 1 - torch.tanh(z) ** 2
            case Shape.LINEAR:
                return torch.ones_like(z)

    def mean_square(self) -> float:
        """E[s(g)^2] for g ~ N(0, 1), by Gauss-Hermite quadrature in fp64; 1/2 for the ReLU.

        What a layer does to the size of its signal: `mlp.Gain.MATCHED` divides by it, so that activations are
        compared at equal gain.
        """
        nodes, weights = _gauss_hermite()
        return float((self(nodes) ** 2 * weights).sum())


RELU = Activation(shape=Shape.RELU)


def c1relu(delta: float) -> Activation:
    """The ReLU with its corner rounded over a width delta.

    Raises:
        UserError: a width that is not positive and finite.
    """
    return Activation(shape=Shape.C1RELU, delta=delta)


def _gauss_hermite() -> tuple[Tensor, Tensor]:
    # an even number of nodes: they lie in pairs around the corner at 0, and the ReLU comes out exact
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
