"""Training as PyTorch's users do it: `torch.optim` and `torch.nn.functional.cross_entropy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from parity.spec import InputError, is_statistic

OPTIMIZERS = ("sgd", "adam")


class Trainer:
    """A model whose output are logits, in training; see `parity.backends.Trainer`."""

    def __init__(
        self,
        model: nn.Module,
        variables: Mapping[str, torch.Tensor],
        data_format: str,
        optimizer: str,
        learning_rate: float,
        momentum: float,
    ) -> None:
        self.model, self.last = model, data_format == "channels_last"
        self.parameters = {name: variable for name, variable in variables.items() if not is_statistic(name)}
        self.device = next(iter(self.parameters.values())).device
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(self.parameters.values(), learning_rate, momentum=momentum)
            if optimizer == "sgd"
            else torch.optim.Adam(self.parameters.values(), learning_rate)
        )

    def step(self, x: Any, labels: Any) -> float:
        """One step on a batch; its mean cross-entropy before the step."""
        self.model.train()
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(self._tensor(x)), torch.tensor(labels, device=self.device))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, x: Any) -> Any:
        """The logits in inference mode."""
        self.model.eval()
        with torch.no_grad():
            return self.model(self._tensor(x)).cpu().numpy()

    def velocity(self) -> dict[str, Any]:
        """v of each parameter by name, where a step is v <- momentum v + g and w <- w - rate v."""
        found = {name: self.optimizer.state[variable] for name, variable in self.parameters.items()}
        return {
            name: found[name].get("momentum_buffer", torch.zeros_like(variable)).cpu().numpy().copy()
            for name, variable in self.parameters.items()
        }

    def set_velocity(self, values: Mapping[str, Any]) -> None:
        """Go on from this `velocity`."""
        for name, variable in self.parameters.items():
            self.optimizer.state[variable]["momentum_buffer"] = torch.tensor(values[name]).to(variable)

    def _tensor(self, array: Any) -> torch.Tensor:
        value = torch.tensor(array, device=self.device)
        return value.movedim(-1, 1) if self.last else value


def trainer(
    model: nn.Module,
    variables: Mapping[str, torch.Tensor],
    *,
    data_format: str,
    optimizer: str,
    learning_rate: float,
    momentum: float,
) -> Trainer:
    """The model in training by the framework's own `optimizer`.

    Raises:
        InputError: for an optimizer that this package does not know. A `ValueError`.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"received optimizer {optimizer!r}", f"one of {', '.join(OPTIMIZERS)}")
    return Trainer(model, variables, data_format, optimizer, learning_rate, momentum)
