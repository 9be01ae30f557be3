"""Truth over the reals: what a network and its derivative are at this very point, decided exactly."""
