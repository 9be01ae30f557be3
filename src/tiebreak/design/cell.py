"""One point of the design of the study of max pooling, its name, and the unit of work of every study.

Everything that may move a number is a field of `Cell`; nothing else is. The identity of a cell is a hash
of *every* field, defaults written out, so the same question has the same record wherever it is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeAlias

from typing_extensions import TypeVar

from tiebreak.design.any_cell import SCHEMA, AnyCell, made, plain
from tiebreak.design.axes import (
    NATIVE,
    DesignError,
    Device,
    Forward,
    LossScale,
    OptimizerName,
    PoolJacobian,
    Precision,
    Selection,
    member,
    whole_number,
)
from tiebreak.design.settings import (
    LARGEST,
    MEASURES,
    MOST_PIXELS,
    MOST_RANKS,
    MOST_THREADS,
    PAIRED,
    SMALLEST,
    Data,
    Derivative,
    Drift,
    Execution,
    LrSearch,
    Measure,
    Network,
    Noise,
    NormPool,
    Optimizer,
    TieMap,
    Train,
    Trajectory,
    ZeroProgram,
    Zones,
)

__all__ = [
    "AnyCell",
    "AnyTrial",
    "Cell",
    "Data",
    "Derivative",
    "Drift",
    "Execution",
    "LrSearch",
    "MEASURES",
    "MOST_PIXELS",
    "MOST_RANKS",
    "MOST_THREADS",
    "Measure",
    "Network",
    "Noise",
    "NormPool",
    "Optimizer",
    "PAIRED",
    "SCHEMA",
    "TieMap",
    "Train",
    "Trajectory",
    "Trial",
    "ZeroProgram",
    "Zones",
    "stream_seed",
]

_BLENDED = PoolJacobian(forward=Forward.BLENDED)


@dataclass(frozen=True, kw_only=True)
class Cell(AnyCell):
    """One point of the design of max pooling: everything that may move a number.

    Args:
        network: what is trained or differentiated.
        data: what it is fed.
        precision: the arithmetic.
        jacobians: the pool Jacobians. A paired protocol (zones, trajectory, drift,
            zero_program) takes at least two and
            the first is the reference; the others take one.
        measure: the protocol with its settings.
        execution: device kind, threads, memory format, determinism, ranks.

    Raises:
        DesignError: a combination that cannot be.
    """

    PROTOCOLS: ClassVar[Mapping[str, type[Measure]]] = MEASURES

    network: Network
    data: Data
    precision: Precision
    jacobians: tuple[PoolJacobian, ...]
    measure: Measure

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", member(Precision, self.precision, key="precision"))
        object.__setattr__(self, "jacobians", tuple(self.jacobians))
        paired = isinstance(self.measure, PAIRED)
        if paired and len(self.jacobians) < 2:
            raise DesignError(
                f"protocol={self.protocol} compares Jacobians and needs two or more, got "
                f"{len(self.jacobians)}. List them in pool.betas."
            )
        if not paired and len(self.jacobians) != 1:
            raise DesignError(
                f"protocol={self.protocol} takes one Jacobian, got {len(self.jacobians)}. Set pool.beta."
            )
        forwards = {jacobian.forward for jacobian in self.jacobians}
        if isinstance(self.measure, Zones | Trajectory) and len(forwards) > 1:
            raise DesignError(
                f"protocol={self.protocol} shares one forward pass, so all Jacobians need the same "
                "pool.forward, got both. Use two cells."
            )
        certified = isinstance(self.measure, Trajectory) or getattr(self.measure, "certify", False)
        if certified and self.reference != NATIVE and self.reference != _BLENDED:
            raise DesignError(
                "certified labels compare with PyTorch's rule at ties, so the first Jacobian must be it, got "
                f"{self.reference.label}. Put beta=0 first, as in pool.betas=[0,1]."
            )
        if certified and any(jacobian.selection is Selection.RANDOM for jacobian in self.jacobians):
            raise DesignError(
                "certified labels are about rules over the reals, and selection=random is one of the "
                "program. Use another selection, or certify=false."
            )
        if isinstance(self.measure, Derivative) and self.reference != NATIVE:
            raise DesignError(
                "protocol=derivative is about what PyTorch computes, so its Jacobian is PyTorch's, got "
                f"{self.reference.label}. Leave pool.beta at 0."
            )
        if self.precision is Precision.TF32 and self.execution.device is not Device.CUDA:
            raise DesignError(
                "precision=tf32 is arithmetic of CUDA devices, got device=cpu. "
                "Use precision=fp32, or device=cuda."
            )
        self._check_ranks()
        if isinstance(self.measure, LrSearch) and not self.data.held_out:
            raise DesignError(
                "protocol=lr_search validates on held-out training images, got data.held_out=0. "
                "Set it, for example data.held_out=5000."
            )
        optimizer = getattr(self.measure, "optimizer", None)
        if optimizer is None:
            return
        if self.precision.is_eight_bit:
            raise DesignError(
                f"protocol={self.protocol} changes parameters, and training in {self.precision} is not "
                "defined here: its parameters are rounded once, from fp32. Use protocol=zones or noise, or "
                "another precision."
            )
        factors = {
            "optimizer.lr": optimizer.lr,
            "optimizer.weight_decay": optimizer.weight_decay,
            "protocol.lr_high": getattr(self.measure, "lr_high", 0.0),
        }
        largest = LARGEST[self.precision.storage]
        for key, factor in factors.items():
            if factor > largest:
                raise DesignError(
                    f"{key} in {self.precision} must be {largest:.6g} or less, its largest number, "
                    f"got {factor}."
                )
        if optimizer.loss_scale is LossScale.DYNAMIC and self.precision.storage != "float32":
            raise DesignError(
                f"optimizer.loss_scale=dynamic needs fp32 parameters, got precision={self.precision}. "
                "Use amp16, or loss_scale=none as the published fp16 runs do."
            )
        if optimizer.name is OptimizerName.ADAM and optimizer.eps <= SMALLEST[self.precision.storage] / 2:
            raise DesignError(
                f"optimizer.eps={optimizer.eps} is 0 in {self.precision}, so Adam divides by zero. "
                "Use 1e-4 or more, or optimizer.eps=auto."
            )

    def _check_ranks(self) -> None:
        num_ranks = self.execution.num_ranks
        if num_ranks > 1 and not isinstance(self.measure, Train):
            raise DesignError(
                f"num_ranks={num_ranks} shares the batches of one training, and protocol={self.protocol} "
                "runs in one process. Use num_ranks=1, or protocol=train."
            )
        if num_ranks > self.data.batch_size:
            raise DesignError(
                f"num_ranks={num_ranks} is more than the {self.data.batch_size} images of a batch "
                "(data.batch_size is that of all ranks together). Use fewer ranks or a larger batch."
            )

    @property
    def reference(self) -> PoolJacobian:
        """The Jacobian that the others are compared with; the only one of an unpaired protocol."""
        return self.jacobians[0]

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values, defaults written out."""
        return {
            "network": plain(self.network),
            "data": plain(self.data),
            "precision": str(self.precision),
            "jacobians": [plain(jacobian) for jacobian in self.jacobians],
            "measure": {"protocol": self.protocol, **plain(self.measure)},
            "execution": plain(self.execution),
        }

    @classmethod
    def _read(cls, tree: Mapping[str, Any]) -> Self:
        return cls(
            network=made(Network, tree["network"]),
            data=made(Data, tree["data"]),
            precision=tree["precision"],
            jacobians=tuple(made(PoolJacobian, item) for item in tree["jacobians"]),
            measure=cls._read_measure(tree["measure"]),
            execution=made(Execution, tree["execution"]),
        )

    @property
    def words(self) -> tuple[str, ...]:
        """The readable parts of the name, the protocol first."""
        parts = [self.protocol, str(self.network.arch), str(self.data.name), str(self.precision)]
        if self.network.batch_norm:
            parts.append("bn")
        optimizer = getattr(self.measure, "optimizer", None)
        if optimizer is not None:
            parts.append(str(optimizer.name))
        labels = [jacobian.label for jacobian in self.jacobians]
        return (*parts, labels[-1] if len(labels) <= 2 else f"{len(labels)}jacobians")

    def axes(self) -> dict[str, Any]:
        """The cell as one flat row, for tables; several Jacobians are joined by spaces in `jacobian`."""
        row: dict[str, Any] = {"cell": self.id, "protocol": self.protocol, "precision": str(self.precision)}
        row |= plain(self.network)
        row |= {("data" if key == "name" else key): value for key, value in plain(self.data).items()}
        row["jacobian"] = " ".join(jacobian.label for jacobian in self.jacobians)
        row["forward"] = str(self.reference.forward)
        if len(self.jacobians) == 1:
            row["beta"] = self.reference.beta
            row["selection"] = str(self.reference.selection)
        measure = plain(self.measure)
        optimizer = measure.pop("optimizer", None)
        if optimizer is not None:
            row |= {("optimizer" if key == "name" else key): value for key, value in optimizer.items()}
        return row | measure | plain(self.execution)


C = TypeVar("C", bound=AnyCell, default=Cell, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Trial(Generic[C]):
    """The unit of work: one replicate of one cell.

    A `Trial` without more is one of max pooling; who takes those of every study says `AnyTrial`.

    A random stream depends on its name and the replicate, never on the cell, so replicate k has the same
    initial weights, batch order and augmentation in every cell and comparisons are paired.
    """

    cell: C
    replicate: int

    def __post_init__(self) -> None:
        whole_number(self.replicate, key="replicate", least=0)

    @property
    def id(self) -> str:
        """Cell id and replicate: `3c00063419b3/0007`."""
        return f"{self.cell.id}/{self.replicate:04d}"

    def seed(self, stream: str) -> int:
        """Seed in [0, 2**63) of the stream `init`, `order`, `augment` or `search` of this replicate."""
        return stream_seed(stream, replicate=self.replicate)


AnyTrial: TypeAlias = Trial[AnyCell]
"""A trial of whichever study."""


def stream_seed(stream: str, *, replicate: int) -> int:
    """Seed in [0, 2**63) that is a function of the stream's name and the replicate only."""
    digest = hashlib.sha256(f"tiebreak:{stream}:{replicate}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
