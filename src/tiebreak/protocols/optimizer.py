"""SGD and Adam as torch computes them, through the functions that its optimizer classes call.

The classes load torch's compiler when the first of them is made: a second, as long as torch itself takes to
load. The functions do the same arithmetic, bit for bit, and load nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from tiebreak.design.axes import OptimizerName
from tiebreak.design.cell import Optimizer

BETAS = (0.9, 0.999)
"""Adam's decay rates of the two moments: torch's defaults."""


class Updater:
    """Updates parameters in place from their gradients.

    It has what `torch.amp.GradScaler` asks of an optimizer: `param_groups` and `step`.

    Args:
        settings: the optimizer of the cell; its rate is the first one.
        parameters: what is updated.

    Attributes:
        lr: the rate of the next step.
        state: for each parameter that has been updated its slots by name, as torch's classes name them.
    """

    def __init__(self, settings: Optimizer, parameters: Iterable[Tensor]) -> None:
        self._settings = settings
        self._parameters = list(parameters)
        self.param_groups = [{"params": self._parameters}]
        self.lr = settings.lr
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step with the gradients that are there; a parameter without one is left alone."""
        moved = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        if self._settings.name is OptimizerName.ADAM:
            self._adam(moved, gradients)
        else:
            self._sgd(moved, gradients)

    def _sgd(self, moved: list[Tensor], gradients: list[Tensor]) -> None:
        momentum = self._settings.momentum
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in moved] if momentum else []
        sgd(
            moved,
            gradients,
            buffers,
            weight_decay=self._settings.weight_decay,
            momentum=momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for parameter, buffer in zip(moved, buffers, strict=False):
            if buffer is not None:
                self.state[parameter]["momentum_buffer"] = buffer

    def _adam(self, moved: list[Tensor], gradients: list[Tensor]) -> None:
        for parameter in moved:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.tensor(0.0, dtype=torch.float32),  # on the CPU, as torch keeps it
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        slots = [self.state[parameter] for parameter in moved]
        adam(
            moved,
            gradients,
            [slot["exp_avg"] for slot in slots],
            [slot["exp_avg_sq"] for slot in slots],
            [],
            [slot["step"] for slot in slots],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=self._settings.weight_decay,
            eps=self._settings.eps,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every slot, named by the parameter's place and the slot: `3.exp_avg`."""
        return {
            f"{index}.{slot}": value
            for index, parameter in enumerate(self._parameters)
            for slot, value in self.state.get(parameter, {}).items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave, each slot on its parameter's device; Adam counts steps on the CPU."""
        self.state.clear()
        for name, value in tensors.items():
            index, slot = name.split(".")
            parameter = self._parameters[int(index)]
            self.state[parameter][slot] = value.to("cpu" if slot == "step" else parameter.device, copy=True)
