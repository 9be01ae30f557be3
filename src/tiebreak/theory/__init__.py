"""Is AD right when parameters are machine numbers? Small networks, judged twice (docs/theory.md)."""
