"""The design of the sibling study `descent`: what is run there, as settings that say everything.

A cell of it is a *batch* of runs: learning rates, penalties and problems are settings of it, because a batch
costs little more than one run of it. What changes the program (activation, method, loss, data,
precision) is an axis between cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from tiebreak.design.any_cell import AnyCell
from tiebreak.design.axes import DesignError, Precision, whole_number
from tiebreak.design.descent_axes import (
    Columns,
    Decay,
    Gain,
    Kink,
    Loss,
    Method,
    PenaltyUnit,
    Shape,
    Source,
    StepUnit,
)
from tiebreak.design.settings import AnyMeasure

STORED = (Precision.FP64, Precision.FP32, Precision.FP16, Precision.BF16)
"""Precisions whose arithmetic is that of one format, computed and stored."""


@dataclass(frozen=True, kw_only=True)
class _Descent(AnyMeasure):
    """What every protocol of this study has: the arithmetic, and learning rates.

    Args:
        precision: what is computed and stored in, one of `PRECISIONS`.
        lrs: learning rates, or multiples of something else where the protocol says so.
    """

    PRECISIONS: ClassVar[tuple[Precision, ...]] = STORED

    precision: Precision = Precision.FP64
    lrs: tuple[float, ...] = (0.1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self.lrs, "protocol.lrs")
        if self.precision not in self.PRECISIONS:
            raise DesignError(
                f"protocol.precision of {self.protocol} must be one of {', '.join(self.PRECISIONS)}, got "
                f"{self.precision}."
            )


@dataclass(frozen=True, kw_only=True)
class Floors(_Descent):
    """Protocol `descent_floors`: one-layer regression whose minimiser is the kink of all units.

    Args:
        lrs: R learning rates, in units of `lr_unit`.
        lr_unit: what they are multiples of.
        activation: at the output.
        delta: width of the corner of c1relu, 0 with the others.
        num_problems: drawn problems; a replicate has its own.
        num_points: N of each.
        num_features: P of each.
        steps: of each run.
        window: how many of the last are looked at.
    """

    protocol: ClassVar[str] = "descent_floors"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = (Precision.FP64,)

    lr_unit: StepUnit = StepUnit.ONE
    activation: Shape = Shape.RELU
    delta: float = 0.0
    num_problems: int = 5
    num_points: int = 200
    num_features: int = 10
    steps: int = 20_000
    window: int = 2000

    @property
    def words(self) -> tuple[str, ...]:
        """What the name of a cell says of it."""
        return (_labelled(self.activation, self.delta),)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_problems", "num_points", "num_features"):
            _at_least(getattr(self, name), 1, f"protocol.{name}")
        _check_corner(self.activation, self.delta)
        _check_window(self.window, self.steps, least=2)
        if self.lr_unit is StepUnit.EDGE and self.activation is not Shape.C1RELU:
            raise DesignError(
                "protocol.lr_unit=edge needs a bound on the Hessian, which is known of c1relu, got "
                f"activation={self.activation}. Use lr_unit=one."
            )


@dataclass(frozen=True, kw_only=True)
class Lasso(_Descent):
    """Protocol `descent_lasso`: least squares with an L1 penalty, by a gradient method and exactly.

    Args:
        lrs: learning rates, each with every penalty.
        penalties: lambda in units of `penalty_unit`.
        penalty_unit: what they are multiples of.
        method: how a gradient becomes a step.
        decay: what becomes of the learning rate.
        columns: how the features are drawn.
        num_problems: drawn problems; a replicate has its own.
        num_points: N of each.
        num_features: P of each.
        noise: standard deviation of the responses.
        derivative_at_zero: of |.|; 0 is PyTorch's.
        steps: of each run, from 0.
        window: how many of the last are looked at.
        small: what counts as small.
        num_traced: how many of the last iterates of two coordinates of the first problem are kept.
    """

    protocol: ClassVar[str] = "descent_lasso"

    penalties: tuple[float, ...] = (0.1, 1.0, 10.0)
    penalty_unit: PenaltyUnit = PenaltyUnit.LARGEST
    method: Method = Method.GD
    decay: Decay = Decay.NONE
    columns: Columns = Columns.IID
    num_problems: int = 3
    num_points: int = 100
    num_features: int = 20
    noise: float = 0.5
    derivative_at_zero: float = 0.0
    steps: int = 10_000
    window: int = 2000
    small: float = 0.01
    num_traced: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """What the name of a cell says of it."""
        return (str(self.columns), str(self.method))

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self.penalties, "protocol.penalties", or_zero=True)
        _at_least(self.num_problems, 1, "protocol.num_problems")
        _at_least(self.num_features, _TRUE_FEATURES, "protocol.num_features")
        _at_least(self.num_points, self.num_features, "protocol.num_points")
        _at_least(self.num_traced, 0, "protocol.num_traced")
        _not_negative(self.noise, "protocol.noise")
        _not_negative(self.small, "protocol.small")
        _check_window(self.window, self.steps, least=max(1, self.num_traced))
        _check_proximal(self.method, self.derivative_at_zero)


_TRUE_FEATURES = 5  # coefficients of the drawn problems that are not 0


@dataclass(frozen=True, kw_only=True)
class Scalar(_Descent):
    """Protocol `descent_scalar`: constant steps on a loss of one number, from many starts.

    Args:
        lrs: learning rates, each from every start.
        loss: what is descended on.
        derivative_at_zero: of abs; 0 is PyTorch's.
        num_starts: uniform in [-reach, reach]; a replicate has its own.
        reach: of the starts.
        steps: of each run.
        window: how many of the last are looked at.
        num_kept: starts whose last point is kept, for the diagram of bifurcations.
    """

    protocol: ClassVar[str] = "descent_scalar"

    loss: Loss = Loss.ABS
    derivative_at_zero: float = 0.0
    num_starts: int = 500
    reach: float = 5.0
    steps: int = 5000
    window: int = 100
    num_kept: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """What the name of a cell says of it."""
        return (str(self.loss),)

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_starts, 1, "protocol.num_starts")
        _positive((self.reach,), "protocol.reach")
        _check_window(self.window, self.steps, least=1)
        if not 0 <= self.num_kept <= self.num_starts:
            raise DesignError(
                f"protocol.num_kept must be 0 to num_starts={self.num_starts}, got {self.num_kept}."
            )
        if self.derivative_at_zero and self.loss is not Loss.ABS:
            raise DesignError(
                f"protocol.derivative_at_zero belongs to loss=abs, got {self.derivative_at_zero} with "
                f"{self.loss}. Set it to 0."
            )


@dataclass(frozen=True, kw_only=True)
class Regression(_Descent):
    """Protocol `descent_regression`: mean of a loss over the residuals of a linear model.

    Args:
        lrs: multiples of 2/L, L being the largest eigenvalue of X'X/N: 1 is the quadratic's edge.
        loss: of a residual.
        num_problems: drawn problems; a replicate has its own.
        num_points: N of each.
        num_features: P of each.
        steps: of each run, from 0.
        window: how many of the last are looked at.
    """

    protocol: ClassVar[str] = "descent_regression"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = (Precision.FP64,)

    lrs: tuple[float, ...] = (0.5, 1.5)
    loss: Loss = Loss.HUBER
    num_problems: int = 5
    num_points: int = 50
    num_features: int = 5
    steps: int = 4000
    window: int = 50

    @property
    def words(self) -> tuple[str, ...]:
        """What the name of a cell says of it."""
        return (str(self.loss),)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_problems", "num_points", "num_features"):
            _at_least(getattr(self, name), 1, f"protocol.{name}")
        _check_window(self.window, self.steps, least=1)


@dataclass(frozen=True, kw_only=True)
class OnNetworks(_Descent):
    """Fully connected networks on images, full batch; each learning rate with every seed.

    Args:
        lrs: learning rates.
        data: what is trained on.
        num_examples: the first ones of the training split.
        num_test: the first ones of the test split.
        side: images are averaged over blocks to this side; it divides theirs.
        depth: linear layers.
        width: units of each layer but the last.
        activation: between the layers.
        delta: width of the corner of c1relu, 0 with the others.
        gain: of the initial weights.
        num_seeds: initial weights; a replicate has its own.
        steps: of each run, one an epoch.
    """

    precision: Precision = Precision.FP32
    data: Source = Source.MNIST5K
    num_examples: int = 500
    num_test: int = 1000
    side: int = 7
    depth: int = 2
    width: int = 32
    activation: Shape = Shape.RELU
    delta: float = 0.0
    gain: Gain = Gain.HE
    num_seeds: int = 3
    steps: int = 150

    @property
    def words(self) -> tuple[str, ...]:
        """What the name of a cell says of it."""
        return (str(self.data), _labelled(self.activation, self.delta), f"depth{self.depth}")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_examples", "num_test", "side", "depth", "width", "num_seeds", "steps"):
            _at_least(getattr(self, name), 1, f"protocol.{name}")
        _check_corner(self.activation, self.delta)


@dataclass(frozen=True, kw_only=True)
class Training(OnNetworks):
    """Protocol `descent_training`: how fast networks learn, by activation, depth, gain and learning rate.

    Args:
        method: how a gradient becomes a step.
        levels: losses whose first epoch is kept.
    """

    protocol: ClassVar[str] = "descent_training"

    method: Method = Method.GD
    levels: tuple[float, ...] = (0.5, 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self.levels, "protocol.levels")
        _check_proximal(self.method, 0.0, allowed=False)


@dataclass(frozen=True, kw_only=True)
class Pruning(OnNetworks):
    """Protocol `descent_pruning`: a network trained with an L1 penalty on its weights, and then pruned.

    Args:
        penalties: lambda, each with every learning rate.
        method: how a gradient becomes a step.
        decay: what becomes of the learning rate.
        window: how many of the last steps are looked at.
        thresholds: weights below each, in size, are set to 0; 0 itself counts those that are exactly 0.
        shares: this share of the weights, the smallest, is set to 0.
    """

    protocol: ClassVar[str] = "descent_pruning"

    steps: int = 600
    penalties: tuple[float, ...] = (0.0, 0.001, 0.01, 0.03, 0.1, 1.0, 10.0)
    method: Method = Method.GD
    decay: Decay = Decay.NONE
    window: int = 50
    thresholds: tuple[float, ...] = (0.0, 1e-4, 1e-3, 1e-2)
    shares: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("penalties", "thresholds", "shares"):
            _positive(getattr(self, name), f"protocol.{name}", or_zero=True)
        if max(self.shares) > 1:
            raise DesignError(f"protocol.shares lie in [0, 1], got {self.shares}.")
        _check_window(self.window, self.steps, least=1)


@dataclass(frozen=True, kw_only=True)
class Sharpness(OnNetworks):
    """Protocol `descent_sharpness`: the Hessian's largest eigenvalue along descent on a squared loss.

    Args:
        every: steps from a look at it to the next; there is one before the first step.
        num_products: of the Hessian with a vector, at each look.
    """

    protocol: ClassVar[str] = "descent_sharpness"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = (Precision.FP64, Precision.FP32)

    num_examples: int = 200
    depth: int = 3
    steps: int = 3000
    every: int = 100
    num_products: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.every, 1, "protocol.every")
        _at_least(self.num_products, 1, "protocol.num_products")


@dataclass(frozen=True, kw_only=True)
class Kinks(OnNetworks):
    """Protocol `descent_kinks`: how often a network in training meets a kink exactly, and whether the
    derivative chosen there matters.

    Args:
        kink: which one has another derivative.
        derivatives: chosen there; the first is the reference. Runs of a seed differ in nothing else.
        weight_penalty: lambda of the L1 penalty on the weights.
        fused_bias: whether a layer rounds once, or its product first and then its sum with the bias.
        every: steps from a look at the distance to the reference to the next.
    """

    protocol: ClassVar[str] = "descent_kinks"

    precision: Precision = Precision.BF16
    num_examples: int = 200
    depth: int = 3
    steps: int = 200
    kink: Kink = Kink.RELU
    derivatives: tuple[float, ...] = (0.0, 0.5, 1.0)
    weight_penalty: float = 0.0
    fused_bias: bool = True
    every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.every, 1, "protocol.every")
        _not_negative(self.weight_penalty, "protocol.weight_penalty")
        if len(set(self.derivatives)) < 2 or len(set(self.derivatives)) < len(self.derivatives):
            raise DesignError(
                "protocol.derivatives are compared with the first of them, so there are two or more and no "
                f"two alike, got {self.derivatives}."
            )
        if self.activation is not Shape.RELU and self.kink is Kink.RELU:
            raise DesignError(
                f"protocol.kink=relu needs activation=relu, got {self.activation}. Use kink=penalty."
            )
        if (self.kink is Kink.PENALTY) != (self.weight_penalty > 0):
            raise DesignError(
                "protocol.weight_penalty is above 0 with kink=penalty and 0 with kink=relu, got "
                f"{self.weight_penalty} with {self.kink}."
            )


DescentMeasure = Floors | Lasso | Scalar | Regression | Training | Pruning | Sharpness | Kinks


@dataclass(frozen=True, kw_only=True)
class DescentCell(AnyCell):
    """One point of the design of the study of training with kinks; its axes are settings of the protocol.

    Example:
        >>> DescentCell(measure=Scalar(loss=Loss.HUBER)).words
        ('descent_scalar', 'huber')
    """

    PROTOCOLS: ClassVar[Mapping[str, type[AnyMeasure]]] = MappingProxyType(
        {
            kind.protocol: kind
            for kind in (Floors, Lasso, Scalar, Regression, Training, Pruning, Sharpness, Kinks)
        }
    )
    SINCE: ClassVar[int] = 3

    measure: DescentMeasure

    def axes(self) -> dict[str, Any]:
        """The cell as one flat row, for tables; several numbers are joined by blanks."""
        return {
            name: " ".join(f"{item:g}" for item in value) if isinstance(value, list) else value
            for name, value in super().axes().items()
        }


def _labelled(shape: Shape, delta: float) -> str:
    return f"{shape}_{delta:g}" if delta else str(shape)


def _at_least(value: int, least: int, key: str) -> None:
    whole_number(value, key=key, least=least)


def _positive(values: tuple[float, ...], key: str, *, or_zero: bool = False) -> None:
    """Each above 0, or 0 or more."""
    for value in values:
        if value < 0 or (value == 0 and not or_zero):
            raise DesignError(f"{key} must be {'0 or more' if or_zero else 'above 0'}, got {value}.")


def _not_negative(value: float, key: str) -> None:
    _positive((value,), key, or_zero=True)


def _check_corner(shape: Shape, delta: float) -> None:
    if (shape is Shape.C1RELU) != (delta > 0) or delta < 0:
        raise DesignError(
            "protocol.delta is the width of the corner of c1relu, above 0 there and 0 elsewhere, got "
            f"{delta} with activation={shape}."
        )


def _check_window(window: int, steps: int, *, least: int) -> None:
    if not least <= window <= steps:
        raise DesignError(
            f"protocol.window must be {least} to protocol.steps={steps}, got {window}. Its last steps are "
            "what is looked at."
        )


def _check_proximal(method: Method, derivative_at_zero: float, *, allowed: bool = True) -> None:
    if method is Method.PROXIMAL and (derivative_at_zero or not allowed):
        raise DesignError(
            "protocol.method=proximal takes no derivative of |.| and needs a penalty. Use method=gd, or "
            "descent_lasso or descent_pruning with derivative_at_zero=0."
        )
