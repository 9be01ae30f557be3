"""YAML and overrides to cells and studies. The only room that knows Hydra and OmegaConf."""

from tiebreak.config.composition import ConfigError, config_folder, to_yaml
from tiebreak.config.launching import compose_launch, split_launch
from tiebreak.config.runs import (
    Run,
    StudyRun,
    compose_run,
    compose_studies,
    compose_study,
    list_studies,
    run_of,
)
from tiebreak.config.sweep import multirun

__all__ = [
    "ConfigError",
    "Run",
    "StudyRun",
    "compose_launch",
    "compose_run",
    "compose_studies",
    "compose_study",
    "config_folder",
    "list_studies",
    "multirun",
    "run_of",
    "split_launch",
    "to_yaml",
]
