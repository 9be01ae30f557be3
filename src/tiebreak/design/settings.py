"""The parts of a cell: network, data, execution, optimizer, and the settings of each protocol."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from tiebreak.design.axes import (
    Arch,
    DataName,
    DesignError,
    Device,
    Init,
    LossScale,
    MemoryFormat,
    OptimizerName,
    Schedule,
    StemPool,
    finite_number,
    member,
    whole_number,
)

SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 0.0}
"""Smallest positive number of each format; half of it, and less, rounds to 0. An fp64 is itself."""

LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2.0 - 2.0**-7) * 2.0**127,
    "float32": (2.0 - 2.0**-23) * 2.0**127,
    "float64": sys.float_info.max,
}
"""Largest number of each format; a factor above it is infinite there, and torch refuses it."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Fields are checked and brought to their declared type when the object is made: 1 becomes 1.0 where a
    float is declared, "fp16" the member of the enumeration.

    Raises:
        DesignError: a value that cannot be.
    """

    _prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, key, hint in _declared(type(self)):
            object.__setattr__(self, name, _coerce(getattr(self, name), hint, key))


@cache
def _declared(kind: type[Checked]) -> tuple[tuple[str, str, Any], ...]:
    """Name, key for messages and type of each field; a study of thousands of cells asks for them often."""
    hints = get_type_hints(kind)
    named = ((item.name, item.metadata.get("key", f"{kind._prefix}{item.name}")) for item in fields(kind))
    return tuple((name, key, _bare(hints[name])) for name, key in named)


def _bare(hint: Any) -> Any:
    """The declared type, of several alternatives the first."""
    return get_args(hint)[0] if get_origin(hint) in (Union, types.UnionType) else hint


@dataclass(frozen=True, kw_only=True)
class Network(Checked):
    """A network: architecture, batch norm, stem pool and distribution of the initial weights."""

    arch: Arch
    batch_norm: bool = False
    stem_pool: StemPool = field(default=StemPool.P2X2, metadata={"key": "arch.stem_pool"})
    init: Init = Init.PYTORCH

    def __post_init__(self) -> None:
        super().__post_init__()
        stemmed = self.arch.startswith(("resnet", "densenet"))
        if self.stem_pool is not StemPool.P2X2 and not stemmed:
            raise DesignError(
                f"arch.stem_pool is an axis of ResNet and DenseNet, got {self.stem_pool} with {self.arch}. "
                "Leave it at 2x2."
            )


MOST_PIXELS = 4096
"""A longer side is a typing error, and one that fills the memory before anything can be said."""


@dataclass(frozen=True, kw_only=True)
class Data(Checked):
    """A data set as it is fed: batches, augmentation, noise, subset.

    Args:
        name: the data set.
        batch_size: images a training batch or draw.
        augment: random crop and horizontal flip, as the data set defines them (CIFAR: 4 pixels of padding).
        dither: standard deviation of Gaussian noise on normalised training inputs; 0 for none.
        train_split: `train`, or `extra` (SVHN: the 531,131 extra images the published runs train on).
        train_size: images of the training split to use, the first ones after a fixed shuffle; 0 for all.
        test_size: images of the test split to use; 0 for all.
        held_out: images taken from the end of the shuffled training split to validate on *instead of* the
            test split; 0 to test on the test split.
        image_size: side of the square crop for image folders and ImageNet; 0 for the data set's own.
        folder: name of the folder under the data root; of `image_folder` only.
        content: which images those of `image_folder` or `imagenet` are (`content.digest`), so that others in
            the same folder are another cell; empty where that is not known, and with the other data sets.
    """

    _prefix: ClassVar[str] = "data."

    name: DataName
    batch_size: int = 128
    augment: bool = False
    dither: float = 0.0
    train_split: str = "train"
    train_size: int = 0
    test_size: int = 0
    held_out: int = 0
    image_size: int = 0
    folder: str = ""
    content: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.batch_size, 1, "data.batch_size")
        for name in ("train_size", "test_size", "held_out", "image_size"):
            _at_least(getattr(self, name), 0, f"data.{name}")
        if self.dither < 0:
            raise DesignError(f"data.dither must be 0 or more, got {self.dither}.")
        allowed = ("train", "extra") if self.name is DataName.SVHN else ("train",)
        if self.train_split not in allowed:
            raise DesignError(
                f"data.train_split of {self.name} must be one of {', '.join(allowed)}, "
                f"got {self.train_split!r}."
            )
        if self.image_size > MOST_PIXELS:
            raise DesignError(f"data.image_size must be {MOST_PIXELS} or less, got {self.image_size}.")
        if not self.name.is_folder and self.image_size:
            raise DesignError(
                f"data.image_size is for imagenet and image_folder, got {self.image_size} with {self.name}. "
                "Set it to 0."
            )
        if (self.name is DataName.IMAGE_FOLDER) != bool(self.folder):
            raise DesignError(
                f"data.folder names the folder of data=image_folder, got {self.folder!r} with {self.name}."
            )
        if self.content and not (self.name.is_folder and _DIGEST.fullmatch(self.content)):
            raise DesignError(
                "data.content is the digest of the images of imagenet or image_folder, 12 hexadecimal "
                f"digits, got {self.content!r} with {self.name}. Leave it out."
            )


_DIGEST = re.compile("[0-9a-f]{12}")

MOST_THREADS = 1024
"""Far more threads than cores are a typing error, and one that can end the process."""

MOST_RANKS = 1024
"""More ranks than this are a typing error, and one that would fill the machine with processes."""


@dataclass(frozen=True, kw_only=True)
class Execution(Checked):
    """Where and how the arithmetic runs: these change last bits, so they belong to the cell.

    Args:
        device: the kind of device.
        num_threads: threads of an operation on the CPU, in each rank.
        memory_format: how images and weights lie in memory.
        deterministic: only algorithms that give the same bits each time.
        num_ranks: processes, each with a device of its own, that share every batch of one training. Sums are
            taken in another order than in one process, and batch norm normalises each share by itself.
    """

    device: Device = Device.CPU
    num_threads: int = 1
    memory_format: MemoryFormat = MemoryFormat.CONTIGUOUS
    deterministic: bool = True
    num_ranks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("num_threads", MOST_THREADS), ("num_ranks", MOST_RANKS)):
            _at_least(getattr(self, name), 1, name)
            if getattr(self, name) > most:
                raise DesignError(f"{name} must be {most} or less, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class Optimizer(Checked):
    """An optimizer with its schedule.

    Args:
        name: sgd or adam.
        lr: initial learning rate, positive.
        momentum: of SGD, in [0, 1).
        weight_decay: L2 coefficient, 0 or more.
        eps: of Adam; must not vanish in the precision of its state (1e-8 is 0 in fp16).
        schedule: constant, cosine (reaching 0 after the last epoch) or step.
        step_epochs: epochs between two drops of the step schedule; 0 with the others.
        step_factor: what a drop multiplies the rate by, in (0, 1].
        loss_scale: none or dynamic.
    """

    _prefix: ClassVar[str] = "optimizer."

    name: OptimizerName = OptimizerName.SGD
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    eps: float = 1e-8
    schedule: Schedule = Schedule.CONSTANT
    step_epochs: int = 0
    step_factor: float = 0.1
    loss_scale: LossScale = LossScale.NONE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr > 0:
            raise DesignError(f"optimizer.lr must be above 0, got {self.lr}.")
        if not 0 <= self.momentum < 1:
            raise DesignError(f"optimizer.momentum must be in [0, 1), got {self.momentum}.")
        if self.weight_decay < 0:
            raise DesignError(f"optimizer.weight_decay must be 0 or more, got {self.weight_decay}.")
        if not self.eps > 0:
            raise DesignError(f"optimizer.eps must be above 0, got {self.eps}.")
        if not 0 < self.step_factor <= 1:
            raise DesignError(f"optimizer.step_factor must be above 0 and at most 1, got {self.step_factor}.")
        _at_least(self.step_epochs, 0, "optimizer.step_epochs")
        if self.name is OptimizerName.ADAM and self.momentum:
            raise DesignError(f"optimizer.momentum is SGD's, got {self.momentum} with adam. Set it to 0.")
        if (self.schedule is Schedule.STEP) != (self.step_epochs > 0):
            raise DesignError(
                "optimizer.step_epochs must be 1 or more with schedule=step and 0 otherwise, "
                f"got {self.step_epochs} with schedule={self.schedule}."
            )


@dataclass(frozen=True, kw_only=True)
class AnyMeasure(Checked):
    """The settings of a protocol, whichever study it is of: a class of its own for each protocol."""

    protocol: ClassVar[str]
    _prefix: ClassVar[str] = "protocol."

    @property
    def words(self) -> tuple[str, ...]:
        """What tells one measure of the protocol from another in the name of a cell without other axes."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Noise(AnyMeasure):
    """Protocol `noise`: the same backward pass `num_repeats` times on each of `num_batches` batches."""

    protocol: ClassVar[str] = "noise"

    num_batches: int = 4
    num_repeats: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_batches, 1, "protocol.num_batches")
        _at_least(self.num_repeats, 2, "protocol.num_repeats")


@dataclass(frozen=True, kw_only=True)
class Zones(AnyMeasure):
    """Protocol `zones`: gaps between Jacobians on `num_batches` batches of one initialisation.

    Args:
        num_batches: draws an init, in the order of the replicate's `order` stream; 0 for one epoch.
        margins: measure each pool's margin to the runner-up on the first draw.
        certify: every draw also carries certified labels over the reals.
    """

    protocol: ClassVar[str] = "zones"

    num_batches: int = 8
    margins: bool = True
    certify: bool = field(default=False, metadata={"key": "certify"})

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_batches, 0, "protocol.num_batches")


@dataclass(frozen=True, kw_only=True)
class AlongTraining(AnyMeasure):
    """What a protocol that looks at points along one run of SGD has to know.

    The network is trained in fp32 with PyTorch's rule at ties; at each stop its parameters are rounded to the
    cell's precision and looked at there, so that every precision sees the same run.

    Args:
        num_epochs: of training; there is a stop before the first and after the last.
        every: epochs from a stop to the next.
        num_batches: draws at each stop, the first batches of the epoch that follows.
        lr: learning rate of SGD.
        momentum: of SGD.
    """

    num_epochs: int = 5
    every: int = 1
    num_batches: int = 2
    lr: float = 0.05
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_epochs", "every", "num_batches"):
            _at_least(getattr(self, name), 1, f"protocol.{name}")
        if not 0 < self.lr < LARGEST["float32"]:
            raise DesignError(f"protocol.lr must be above 0 and a number of fp32, got {self.lr}.")
        if not 0 <= self.momentum < 1:
            raise DesignError(f"protocol.momentum must be at least 0 and below 1, got {self.momentum}.")


@dataclass(frozen=True, kw_only=True)
class Trajectory(AlongTraining):
    """Protocol `trajectory`: gaps and certified labels along one run of SGD."""

    protocol: ClassVar[str] = "trajectory"


@dataclass(frozen=True, kw_only=True)
class Derivative(AlongTraining):
    """Protocol `derivative`: whether AD's gradient is certain to be the derivative, along one run of SGD."""

    protocol: ClassVar[str] = "derivative"


@dataclass(frozen=True, kw_only=True)
class Train(AnyMeasure):
    """Protocol `train`: `num_epochs` epochs of training with one Jacobian, evaluated after each."""

    protocol: ClassVar[str] = "train"

    optimizer: Optimizer = field(default_factory=Optimizer)
    num_epochs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_epochs, 1, "protocol.num_epochs")


@dataclass(frozen=True, kw_only=True)
class Drift(AnyMeasure):
    """Protocol `drift`: weight distance of runs that differ in the Jacobian only, to the first of them."""

    protocol: ClassVar[str] = "drift"

    optimizer: Optimizer = field(default_factory=Optimizer)
    num_epochs: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_epochs, 1, "protocol.num_epochs")


@dataclass(frozen=True, kw_only=True)
class LrSearch(AnyMeasure):
    """Protocol `lr_search`: log-uniform search of the learning rate on held-out training images.

    The objective is the accuracy on the cell's `data.held_out` images, never the test set.
    """

    protocol: ClassVar[str] = "lr_search"

    optimizer: Optimizer = field(default_factory=Optimizer)
    num_epochs: int = 3
    num_candidates: int = 10
    lr_low: float = 1e-5
    lr_high: float = 1e-1

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_epochs, 1, "protocol.num_epochs")
        _at_least(self.num_candidates, 1, "protocol.num_candidates")
        if not 0 < self.lr_low < self.lr_high:
            raise DesignError(
                "protocol.lr_low and lr_high must satisfy 0 < low < high, "
                f"got {self.lr_low} and {self.lr_high}."
            )


@dataclass(frozen=True, kw_only=True)
class ZeroProgram(AnyMeasure):
    """Protocol `zero_program`: programs that compute 0, and what their derivative comes out as.

    It reads the precision, the Jacobians and the execution of a cell, and neither network nor data.
    """

    protocol: ClassVar[str] = "zero_program"


@dataclass(frozen=True, kw_only=True)
class TieMap(AnyMeasure):
    """Protocol `tie_map`: the tied windows of the first `num_images` training images, and of each pool of the
    network that they are fed to."""

    protocol: ClassVar[str] = "tie_map"

    num_images: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_images, 1, "protocol.num_images")


@dataclass(frozen=True, kw_only=True)
class NormPool(AnyMeasure):
    """Protocol `norm_pool`: gaps between two derivatives of norm pooling at windows of zeros.

    Args:
        num_batches: draws an init, in the order of the replicate's `order` stream; 0 for one epoch.
        gradient_at_zero: what is compared with 0, PyTorch's.
        plain_squares: round squares to the cell's format, as published, and those of small entries to 0.
    """

    protocol: ClassVar[str] = "norm_pool"

    num_batches: int = 8
    gradient_at_zero: float = 1.0
    plain_squares: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self.num_batches, 0, "protocol.num_batches")


Measure = Noise | Zones | Trajectory | Derivative | Train | Drift | LrSearch | ZeroProgram | TieMap | NormPool

MEASURES: dict[str, type[Measure]] = {
    kind.protocol: kind
    for kind in (Noise, Zones, Trajectory, Train, Drift, LrSearch, ZeroProgram, TieMap, NormPool, Derivative)
}

PAIRED = (Zones, Trajectory, Drift, ZeroProgram)


def _at_least(value: int, least: int, key: str) -> None:
    whole_number(value, key=key, least=least)


def _coerce(value: Any, hint: Any, key: str) -> Any:
    """`value` as the declared type: 1 becomes 1.0 where a float is declared, "fp16" the enumeration's member.

    Without it `lr=1` and `lr=1.0` would be two cells.
    """
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return member(hint, value, key=key)
    if isinstance(hint, type) and issubclass(hint, Checked) and isinstance(value, dict):
        return hint(**value)
    if hint is float:
        return finite_number(value, key=key)
    if hint is int:
        return whole_number(value, key=key)
    if hint is bool and not isinstance(value, bool):
        raise DesignError(f"{key} must be true or false, got {value!r}.")
    if hint is str and not isinstance(value, str):
        raise DesignError(f"{key} must be text, got {value!r}.")
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not value:
            raise DesignError(f"{key} must be a list of one value or more, got {value!r}.")
        return tuple(_coerce(item, get_args(hint)[0], key) for item in value)
    return value
