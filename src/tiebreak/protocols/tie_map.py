"""Where the ties are: the tied windows of images, and of each pool of the network that they are fed to."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tiebreak.data import Batch
from tiebreak.data.pixels import normalisation_table, normalise
from tiebreak.design.axes import DesignError
from tiebreak.design.cell import TieMap, Trial
from tiebreak.numerics.pooling import JacobianSwitch, PoolEvent, max_pool2d
from tiebreak.numerics.selection import multiplicity
from tiebreak.protocols.backprop import observe
from tiebreak.protocols.setting import prepare
from tiebreak.records.session import Outcome, OutcomeKind, Row, Session

RAW = -1
"""The `pool` of a row about the image itself, whose pixels are pooled by 2x2 as if they were a layer."""


def measure_tie_map(trial: Trial, session: Session) -> Outcome:
    """Emit an `image` row for each image, and a `tie_window` row for each window that is tied in a channel.

    The images are the first ones of the training split, as stored, without augmentation or noise. The
    network is that of the replicate at its initial weights, in evaluation mode, so that one image may pass
    batch norm.

    Raises:
        DesignError: more images than there are.
    """
    measure = trial.cell.measure
    assert isinstance(measure, TieMap)
    with prepare(trial, session, once=True) as setting:
        images = setting.dataset.train
        if measure.num_images > len(images):
            raise DesignError(
                f"protocol.num_images={measure.num_images} is more than the {len(images)} training images "
                "there are. Use fewer."
            )
        pixels = next(iter(images.read([torch.arange(measure.num_images)])))
        labels = images.labels[: measure.num_images]
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            session.emit(_image_row(index, image, label=int(label)))
        for row in _tied_windows(_raw(pixels), pool=RAW):
            session.emit(row)
        switch = JacobianSwitch(trial.cell.reference)
        model = setting.network(switch).eval()
        dataset = setting.dataset
        table = normalisation_table(dataset.mean, std=dataset.std).to(setting.device)
        batch = setting.inputs(Batch(normalise(pixels.to(setting.device), table=table), labels))
        for pool, event in enumerate(observe(lambda: setting.loss(model, batch), switch=switch).events):
            for row in _tied_windows(event, pool=pool):
                session.emit(row)
    return Outcome(kind=OutcomeKind.COMPLETED)


def _image_row(index: int, image: Tensor, *, label: int) -> Row:
    """An image as a row of scalars: its bytes, channel by channel and row by row, in hexadecimal."""
    channels, height, width = image.shape
    return {
        "row": "image",
        "image": index,
        "label": label,
        "channels": channels,
        "height": height,
        "width": width,
        "pixels": bytes(image.flatten().tolist()).hex(),
    }


def _raw(pixels: Tensor) -> PoolEvent:
    switch = JacobianSwitch(events=[])
    max_pool2d(pixels.float() / 255, kernel=2, jacobian=switch)
    assert switch.events
    return switch.events[0]


def _tied_windows(event: PoolEvent, *, pool: int) -> Iterator[Row]:
    tied = multiplicity(event.mask) > 1
    above = tied & (event.output.detach() > 0)
    counts, counts_above = tied.sum(1), above.sum(1)
    for image, row, column in counts.nonzero().tolist():
        yield {
            "row": "tie_window",
            "image": image,
            "pool": pool,
            "window_row": row,
            "window_column": column,
            "channels": tied.shape[1],
            "tied": int(counts[image, row, column]),
            "tied_above_zero": int(counts_above[image, row, column]),
        }
