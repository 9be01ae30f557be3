"""The parts of a network that the study varies, handed to every architecture in one piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from tiebreak.design.axes import NATIVE, DesignError, PoolJacobian, StemPool
from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Pools, ReLU and normalisation of one network.

    An architecture asks for a part where it needs one and never names a class, so that every pool of a
    network holds the same Jacobian (the same object, where that is a switch). A normalisation that is
    switched off leaves an identity in its place: the names of all other layers stay what they are.

    Args:
        jacobian: of every max pool.
        relu: makes one ReLU.
        batch_norm: whether `norm1d` and `norm2d` normalise.
        stem_pool: geometry of `stem`.
    """

    jacobian: PoolJacobian | JacobianSwitch = NATIVE
    relu: Callable[[], nn.Module] = nn.ReLU
    batch_norm: bool = False
    stem_pool: StemPool = StemPool.P2X2

    def pool(self) -> nn.Module:
        """A 2x2 max pool with stride 2."""
        return MaxPool2d(2, 2, jacobian=self.jacobian)

    def stem(self) -> nn.Module:
        """The max pool behind a stem: 2x2 with stride 2, or 3x3 with stride 2 and padding 1."""
        if self.stem_pool is StemPool.P3X3:
            return MaxPool2d(3, 2, 1, jacobian=self.jacobian)
        return self.pool()

    def norm1d(self, width: int) -> nn.Module:
        """Batch norm of `width` features, or an identity."""
        return nn.BatchNorm1d(width) if self.batch_norm else nn.Identity()

    def norm2d(self, width: int) -> nn.Module:
        """Batch norm of `width` channels, or an identity."""
        return nn.BatchNorm2d(width) if self.batch_norm else nn.Identity()


def require_side(images: Tensor, *, least: int, most: int | None = None, name: str) -> None:
    """Refuse images whose height or width a network cannot take.

    Args:
        images: shape (N, C, H, W).
        least: smallest side in pixels.
        most: largest side in pixels, or None for any.
        name: the network, for the message.

    Raises:
        DesignError: a side outside these.
    """
    height, width = images.shape[-2:]
    if min(height, width) < least or (most is not None and max(height, width) > most):
        larger = "" if most == least else " or larger"
        raise DesignError(
            f"{name} takes images of {least}x{least} pixels{larger}, got {height}x{width}. "
            "Choose data of that size, or a network that takes these."
        )
