"""The arithmetic: pools, ReLU, norm pool, precisions, gaps, determinism. No files, no configuration."""
