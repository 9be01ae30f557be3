"""Is AD right when parameters are machine numbers? Networks as small graphs, judged twice (docs/theory.md)."""
