"""Networks whose nonsmooth parts are arguments, and any other module with its pools replaced."""

from tiebreak.models.build import build
from tiebreak.models.rewrite import pools_left, rewrite_pools

__all__ = ["build", "pools_left", "rewrite_pools"]
