"""The moving average of a model's weights, which often predicts better than the weights of the last step."""

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of everything in a model's state (Polyak and Juditsky 1992, in its decaying form).

    After step t: average = d * average + (1 - d) * state with d = min(decay, (1 + t) / (10 + t)), so that the first,
    untrained weights are soon forgotten. Floating buffers (running statistics) are averaged too, others copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes the model's state after step `step` (from 0) into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1.0 - decay)
            else:
                self.tensors[name].copy_(value)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes the average from a saved state."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])

    def applied_to(self, model: nn.Module) -> nn.Module:
        """A copy of `model` with the averaged weights; the model itself is left alone."""
        averaged = copy.deepcopy(model)
        averaged.load_state_dict(self.tensors)
        return averaged
