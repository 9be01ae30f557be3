"""Assertions for authors of pooling kernels: equal, or different by the rule at ties alone.

Example:
    >>> import torch
    >>> from tiebreak.testing import assert_same_up_to_ties
    >>> x, g = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)
    >>> first, even = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), torch.full((1, 1, 2, 2), 0.25)
    >>> assert_same_up_to_ties(first, even, x=x, grad_output=g, kernel=2)
"""

from tiebreak.testing.forward import assert_same_forward, ulps_apart
from tiebreak.testing.gradients import assert_same_up_to_ties

__all__ = ["assert_same_forward", "assert_same_up_to_ties", "ulps_apart"]
