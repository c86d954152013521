"""Tensors that are reckoned with together lie on one device: all on the processor, or all on the same GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_device(**named: Tensor | Sequence[Tensor] | None) -> None:
    """ValueError unless all of the tensors, each given by its name, alone or in a list, are on one device.

    Torch would complain, too, but of a sum somewhere inside, and not of whose tensor is in the wrong place.
    """
    places: dict[torch.device, str] = {}
    for name, value in named.items():
        for tensor in (value,) if isinstance(value, Tensor) else value or ():
            places.setdefault(tensor.device, name)
    if len(places) > 1:
        found = " and ".join(f"{name} on {device}" for device, name in places.items())
        raise ValueError(f"{found}: want one device.")
