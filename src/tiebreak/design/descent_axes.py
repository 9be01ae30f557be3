"""Words of the sibling study `descent`: activations, losses, methods, and what numbers are multiples of."""

from __future__ import annotations

import math
from enum import StrEnum


class Shape(StrEnum):
    """The graph of an activation s.

    `c1relu` is 0, then z^2/(2 delta), then z - delta/2: the ReLU with its corner rounded over a width delta.
    It has the ReLU's flat half, gain and convexity, so against the ReLU it changes smoothness and nothing
    else; the others change gain, range or convexity too.
    """

    RELU = "relu"
    LEAKY = "leaky"
    C1RELU = "c1relu"
    SOFTPLUS = "softplus"
    SILU = "silu"
    GELU = "gelu"
    ELU = "elu"
    TANH = "tanh"
    LINEAR = "linear"


class Loss(StrEnum):
    """A convex, even loss of one number whose minimum is 0 at 0.

    | name | formula | smoothness |
    |---|---|---|
    | abs | abs(x) | a kink at its minimiser |
    | huber | x^2/2 up to 1, abs(x) - 1/2 beyond | C1, not C2 |
    | logcosh | log cosh x | analytic, Lipschitz |
    | sqrt1 | sqrt(1 + x^2) - 1 | analytic, Lipschitz |
    | quadratic | x^2/2 | analytic, not Lipschitz |
    | kinked_bowl | x^2/2 up to 1, 2 abs(x) - 3/2 beyond | kinks at -1 and 1, smooth at its minimiser |
    """

    ABS = "abs"
    HUBER = "huber"
    LOGCOSH = "logcosh"
    SQRT1 = "sqrt1"
    QUADRATIC = "quadratic"
    KINKED_BOWL = "kinked_bowl"

    @property
    def lipschitz(self) -> float:
        """G, the largest slope; inf for the quadratic."""
        return {Loss.QUADRATIC: math.inf, Loss.KINKED_BOWL: 2.0}.get(self, 1.0)

    @property
    def smoothness(self) -> float:
        """L, the Lipschitz constant of the slope; inf where there is a kink."""
        return math.inf if self in (Loss.ABS, Loss.KINKED_BOWL) else 1.0

    @property
    def sharpness_of_minimum(self) -> float:
        """The largest mu with f(x) >= mu |x| near 0: 1 for abs and 0 for all that are flat there."""
        return 1.0 if self is Loss.ABS else 0.0


class Columns(StrEnum):
    """How the columns of X are drawn: independent normals; the same with correlation 0.5^|i-j|; X'X/N = I."""

    IID = "iid"
    CORRELATED = "correlated"
    ORTHONORMAL = "orthonormal"


class Method(StrEnum):
    """How a gradient becomes a step; momentum, RMSprop and Adam are those of `torch.optim`, constants too.

    `gd` is x - a g; `momentum` heavy-ball with 0.9; `rmsprop` with alpha 0.99; `adam` with 0.9 and 0.999,
    both with eps 1e-8. `proximal` takes the gradient of the smooth part only and then soft-thresholds by
    a lambda: the solver that L1 penalties are made for.
    """

    GD = "gd"
    MOMENTUM = "momentum"
    RMSPROP = "rmsprop"
    ADAM = "adam"
    PROXIMAL = "proximal"


class Decay(StrEnum):
    """The learning rate at step k = 0, 1, ...: a; a/sqrt(1 + k/100); a/(1 + k/100)."""

    NONE = "none"
    SQRT = "sqrt"
    INVERSE = "inverse"

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at this step, counted from 0."""
        match self:
            case Decay.NONE:
                return 1.0
            case Decay.SQRT:
                return (1 + step / 100) ** -0.5
            case Decay.INVERSE:
                return 1 / (1 + step / 100)


class Gain(StrEnum):
    """How initial weights are scaled: by activation or not.

    `he` has variance 2/fan_in whatever the activation; `matched` 1/(fan_in E s(g)^2) with g ~ N(0, 1), which
    keeps the size of the signal for every activation, and is the same for the ReLU.
    Without `matched` an activation's gain is confounded with its smoothness.
    """

    HE = "he"
    MATCHED = "matched"


class Source(StrEnum):
    """What networks are trained on: images of one channel, or points drawn around a prototype a class."""

    MNIST5K = "mnist5k"
    MNIST = "mnist"
    FASHION_MNIST = "fashion_mnist"
    SYNTHETIC = "synthetic"


class StepUnit(StrEnum):
    """What the numbers in `lrs` are multiples of.

    `one`: they are learning rates. `edge`: multiples of 2/L, with L the bound on the Hessian of that problem,
    which c1relu has. `target`: gaps eps that are to be reached, with a = eps/G^2, G being the norm of the
    gradient at the start: the step for which the bound of a Lipschitz loss promises eps.
    """

    ONE = "one"
    EDGE = "edge"
    TARGET = "target"


class PenaltyUnit(StrEnum):
    """What the numbers in `penalties` are multiples of: lambda_max, or the crossing of T-L2."""

    LARGEST = "largest"
    CROSSING = "crossing"


class Kink(StrEnum):
    """Which kink of a network gets another derivative: that of its ReLUs, or |.| at weights of 0."""

    RELU = "relu"
    PENALTY = "penalty"
