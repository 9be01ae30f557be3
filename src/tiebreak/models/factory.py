"""A network and weights of the user's own: from a function of theirs and from safetensors files."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from tiebreak.design.axes import UserError


def load_model(name: str, *, seed: int = 0) -> nn.Module:
    """The module that a function of the user's returns, or that stands under that name.

    Torch's generator is seeded first, so that a name and a seed are one network for whoever asks.

    Args:
        name: `package.module:factory`, importable from the current folder or as installed; the factory is
            called without arguments.
        seed: of torch's generator, 0 or more and below 2**63; it goes on from there afterwards.

    Raises:
        UserError: a name of another form, a module or factory that is not there or raises, or a result that
            is no `nn.Module`.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    torch.manual_seed(seed)
    factory = load_object(name, what="a model")
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UserError(f"{name} must be a function without arguments, got {type(factory).__name__}.")
    try:
        with _current_folder_first():
            model = factory()
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UserError(f"the factory {name} raised {_shown(error)}. Mend it and try again.") from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the factory {name} must return a torch.nn.Module, got {type(model).__name__}. "
            "Return the network itself."
        )
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Put a state dict into a network, every number rounded once to the format that it has there.

    Args:
        model: changed in place.
        path: a safetensors file with the names and shapes of `model.state_dict()`.

    Raises:
        UserError: a file that is missing or damaged, or a state dict of another network.
    """
    tensors, wanted = load_tensors(path), model.state_dict()
    for reason, names in (
        ("has no", sorted(set(wanted) - set(tensors))),
        ("has a tensor that the network does not have:", sorted(set(tensors) - set(wanted))),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{path} {reason} {names[0]}{more}. Name the network that it is of.")
    for name, tensor in wanted.items():
        if tensor.shape != tensors[name].shape:
            raise UserError(
                f"{name} in {path} must have the shape {tuple(tensor.shape)}, got "
                f"{tuple(tensors[name].shape)}. Name the network that it is of."
            )
    model.load_state_dict(tensors)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no file {path}.") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error}). Write it again.") from None


def load_object(name: str, *, what: str) -> Any:
    """What stands under a name of the user's.

    Args:
        name: `package.module:attribute`, importable from the current folder or as installed.
        what: what is named, as a sentence begins: `a model`.

    Raises:
        UserError: a name of another form, a module that cannot be imported, or no such attribute.

    Example:
        >>> load_object("math:pi", what="a number")
        3.141592653589793
    """
    module_name, sign, attribute = name.partition(":")
    if not sign or not all(part.isidentifier() for part in f"{module_name}.{attribute}".split(".")):
        raise UserError(f"{what} is named package.module:name, got {name!r}.")
    try:
        with _current_folder_first():
            found = pkgutil.resolve_name(f"{module_name}:")
    except (Exception, SystemExit) as error:
        raise UserError(
            f"the module {module_name} cannot be imported: {_shown(error)}. Run from the folder that it is "
            "in, or install it."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"there is no {attribute} in the module {module_name}. Name a function of it.")
        found = getattr(found, part)
    return found


@contextmanager
def _current_folder_first():
    """As `python -m` does it: the user's folder is searched first."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.pop(0)


def _shown(error: BaseException) -> str:
    """An exception on one line, with the line of the user's file that raised it."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", __file__, pkgutil.__file__, importlib.__file__))
    ]
    return f"{said} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else said
