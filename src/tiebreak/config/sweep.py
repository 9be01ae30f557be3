"""Hydra's multirun, with whatever launcher it names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tiebreak.config.composition import ConfigError, config_folder, readable, refusal, root_of


def multirun(overrides: Sequence[str], task: Callable[[DictConfig], int], *, stopped: int) -> int:
    """Hand a sweep to Hydra: each point is composed and given to `task`, by whatever launcher it names.

    Every point of a batch is run, whatever became of the others. After a batch with a failed point Hydra
    begins no other, which matters only where `hydra.sweeper.max_batch_size` is set.

    Args:
        overrides: as on the command line.
        task: runs one point, says what went wrong in it and returns its exit code. It must not raise.
        stopped: the exit code of a point that was interrupted: the points after it are not begun.

    Returns:
        0, or the exit code of a failed point: the largest where Hydra's own launcher runs them all here, the
        first with one that runs them in other processes.

    Raises:
        ConfigError: an override that Hydra refuses, or a folder of its own that it cannot make.
        KeyboardInterrupt: a point was interrupted.
    """
    codes = [0]

    def point(config: DictConfig) -> int:
        code = task(config)
        if code == stopped:
            raise KeyboardInterrupt
        codes.append(code)
        if code:
            raise _PointFailed(code)
        return code

    overrides = [readable(override) for override in overrides]
    before, before_full = sys.argv, os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"  # or Hydra prints the exception and exits, and the sentence is lost
    sys.argv = ["tiebreak run", "--multirun", *overrides]
    try:
        root = root_of(overrides)
        hydra.main(config_path=str(config_folder()), config_name=root, version_base="1.3")(point)()
    except _PointFailed as failed:
        return max(*codes, *failed.args)
    except OSError as error:  # a point raises none
        raise ConfigError(
            f"Hydra cannot write {error.filename or 'its files'} ({error.strerror or error}). Set "
            "hydra.sweep.dir to a folder that can be written."
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(refusal(error, overrides)) from None
    finally:
        sys.argv = before
        if before_full is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before_full
    return max(codes)


class _PointFailed(Exception):  # noqa: N818 - what is told, not what went wrong
    """The exit code of a failed point, in the one form that every launcher of Hydra's hands back."""


_FULL_ERROR = "HYDRA_FULL_ERROR"
