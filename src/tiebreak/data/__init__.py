"""Images as tensors in memory; order is a function of (seed, epoch)."""
