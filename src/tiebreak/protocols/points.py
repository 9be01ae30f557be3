"""A network at one batch, recorded so that it can be certified, with the gaps that its program found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import NATIVE, DesignError, PoolJacobian, Selection, UserError
from tiebreak.design.cell import Trial, Zones
from tiebreak.exact.certify import cotangent_of
from tiebreak.exact.graph import Graph
from tiebreak.exact.record import record, require_trained
from tiebreak.models.factory import load_weights
from tiebreak.numerics.gap import Gap
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.numerics.precision import cast
from tiebreak.protocols.setting import Place, prepare
from tiebreak.protocols.zones import draw_gaps, zones


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """What a certificate is asked about.

    Attributes:
        about: the network and the batch in words.
        graph: the network at its numbers.
        cotangent: of the mean cross-entropy at the output, (N, classes) float64.
        jacobians: compared with PyTorch's.
        gaps: of the floating-point program, one a Jacobian.
    """

    about: str
    graph: Graph
    cotangent: Tensor
    jacobians: tuple[PoolJacobian, ...]
    gaps: tuple[Gap, ...]


def point_of_cell(
    trial: Trial,
    place: Place,
    *,
    draw: int = 0,
    weights: Path | None = None,
    evaluation: bool = False,
) -> Point:
    """The point that the protocol `zones` sees at one draw of a trial.

    Args:
        trial: of the protocol `zones`; its first Jacobian is PyTorch's.
        place: says where the data sets are.
        draw: which batch of the replicate's order, from 0.
        weights: a state dict in a safetensors file, in place of the initial weights.
        evaluation: put the network into evaluation mode.

    Raises:
        NotCertifiableError: an operation that cannot be certified, with its place.
        DesignError: another protocol or reference, or a batch that there is not.
        UserError: weights that are missing, damaged or another network's.
    """
    cell = trial.cell
    if not isinstance(cell.measure, Zones):
        raise DesignError(f"a certificate is of a cell with protocol=zones, got {cell.measure.protocol}.")
    if (cell.reference.beta, cell.reference.selection) != (0.0, Selection.BETA):
        raise DesignError(
            f"a certificate compares with PyTorch's Jacobian, got pool.betas that begin with "
            f"{cell.reference.label}. Put 0 first."
        )
    switch = JacobianSwitch(cell.reference)
    with prepare(trial, place, once=True) as setting:
        total = setting.num_batches(0)
        if not 0 <= draw < total:
            raise DesignError(
                f"draw must be a batch of the epoch, 0 to {total - 1}, got {draw}. Choose another."
            )
        model = setting.network(switch)
        if weights is not None:
            load_weights(model, weights)
            model = cast(model, cell.precision)  # an eight-bit format is kept in fp32 and rounded here
        model.train(not evaluation)
        (batch,) = islice(setting.train_batches(start=draw), 1)
        graph, output = record(model, batch.images, forward=lambda: setting.forward(model, batch)[0])
        cotangent = cotangent_of(functional.cross_entropy, output, batch.labels)
        result = draw_gaps(
            model, partial(setting.loss, model, batch), switch=switch, jacobians=cell.jacobians
        )
    of_weights = f", weights of {weights.name}" if weights is not None else ""
    in_mode = ", in evaluation mode" if evaluation else ""
    return Point(
        about=f"{cell.name}, replicate {trial.replicate}, batch {draw}{of_weights}{in_mode}",
        graph=graph,
        cotangent=cotangent,
        jacobians=cell.jacobians[1:],
        gaps=result.gaps,
    )


def point_of_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    jacobians: Sequence[PoolJacobian],
    about: str,
) -> Point:
    """The point of a user's own network at a batch, in the mode that it is in; the loss is cross-entropy.

    Args:
        model: left as it was.
        images: (N, ...), floating point; moved to the device of the model.
        labels: (N,) int64, classes.
        jacobians: compared with PyTorch's.
        about: the network and the batch in words.

    Raises:
        NotCertifiableError: an operation that cannot be certified, with its place.
        UserError: a network that raises on the batch or has nothing to differentiate, or a label that is no
            class of it.
    """
    require_trained(model)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    images, labels = images.to(device), labels.to(device)
    graph, output = record(model, images, forward=explained_pass(model, images))
    classes = output.shape[1]
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise UserError(
            f"labels must be classes, 0 to {classes - 1} for an output of {classes} numbers, got "
            f"{int(labels.min())} to {int(labels.max())}."
        )
    result = zones(model, images, labels, jacobians=(NATIVE, *jacobians))
    return Point(
        about=about,
        graph=graph,
        cotangent=cotangent_of(functional.cross_entropy, output, labels),
        jacobians=tuple(jacobians),
        gaps=result.gaps,
    )


def jacobians_of(labels: str) -> tuple[PoolJacobian, ...]:
    """Rules from their labels with commas between: `minimal,beta100,last`.

    Raises:
        DesignError: a label of no rule, of PyTorch's own, or one given twice.

    Example:
        >>> [jacobian.label for jacobian in jacobians_of("minimal,beta100,last")]
        ['minimal', 'beta100', 'last']
    """
    found = tuple(_jacobian(label) for label in labels.split(","))
    names = [jacobian.label for jacobian in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DesignError(f"{twice[0]} is given twice in --jacobians. Give it once.")
    return found


def _jacobian(label: str) -> PoolJacobian:
    if label in (Selection.LAST, Selection.ALL_ONES):
        return PoolJacobian(selection=Selection(label))
    text = "1" if label == "minimal" else label.removeprefix("beta") if label.startswith("beta") else ""
    try:
        beta = float(text)
    except ValueError:
        beta = 0.0
    if beta == 0.0:
        raise DesignError(
            f"--jacobians must be of minimal, last, all_ones and beta followed by a number other than 0 (as "
            f"minimal,beta100,last), got {label!r}."
        )
    return PoolJacobian(beta=beta)


def explained_pass(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """A forward pass of a user's own network that says in a sentence why it cannot be run.

    Args:
        model: the network.
        images: (N, ...), what it is run on.
    """

    def forward() -> Tensor:
        try:
            return model(images)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise UserError(
                f"the network cannot be run on images of the shape {tuple(images.shape)} in {images.dtype}: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error

    return forward
