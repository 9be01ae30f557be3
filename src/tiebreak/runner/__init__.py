"""Trials to records: claims, attempts, checkpoints, workers."""
