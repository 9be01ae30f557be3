"""Random float64 numbers of many sizes: `kind(generator, *shape)`."""

import torch


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def powers(generator, shape, least, most):
    return 2.0 ** torch.randint(least, most, shape, generator=generator).double()


def mixed(generator, *shape):
    return normal(generator, *shape) * powers(generator, shape, -60, 60)


def wide(generator, *shape):
    return normal(generator, *shape) * powers(generator, shape, -250, 250)


def cancelling(generator, *shape):
    """Each row or image is followed by what takes it away again, but for the last bits."""
    half = normal(generator, *shape)
    flat = half.reshape(len(half), -1)
    middle = flat.shape[1] // 2
    if middle:
        flat[:, middle : 2 * middle] = -flat[:, :middle] * (1 + 2.0**-48)
    return half


def short(generator, *shape):
    """Multiples of 1/8: most sums do not round."""
    return torch.randint(-16, 17, shape, generator=generator).double() / 8


def tiny(generator, *shape):
    """Products next to 2**-1074, and subnormal numbers."""
    numbers = normal(generator, *shape) * powers(generator, shape, -545, -530)
    is_subnormal = torch.rand(shape, generator=generator) < 0.05
    return torch.where(is_subnormal, normal(generator, *shape) * 2.0**-1065, numbers)


def huge(generator, *shape):
    """Products next to the largest number: some sums overflow on their way."""
    return normal(generator, *shape) * powers(generator, shape, 503, 512)


def far(generator, *shape):
    """1e300 beside 1e-300 beside subnormal numbers."""
    numbers = normal(generator, *shape)
    choice = torch.randint(3, shape, generator=generator)
    return torch.where(
        choice == 0, numbers * 1e300, torch.where(choice == 1, numbers * 1e-300, numbers * 1e-315)
    )
