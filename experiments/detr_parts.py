"""What hangs on the encoder, and on telling it and the decoder where things lie? (DETR, section 4.2, tables 2 and 3)

The paper trains each variant from nothing: without encoder 36.7 AP, with 3 layers 40.1, with 6 40.6; without spatial
encodings 32.8. Here the finished detector loses the part, and then what is left has 100 steps to adapt (see
detr_training): `AP50 at once` is measured before, the rest after. `whole` goes on for as many steps with nothing taken.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from experiments.detr_training import PRE_TRAINED, finished, size_of, trained_on
from experiments.one_stage_training import measured
from experiments.record import Numbers, wins
from lessons.detectors.detr import DETR

CLAIM = "Without its encoder, and without spatial encodings, DETR loses much."


class Placeless(nn.Module):
    """An encoder or decoder that is not told where the picture's cells lie; the queries keep their encodings."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, *inputs: Any, pos: Any = None, **others: Any) -> Any:
        return self.whole(*inputs, pos=None, **others)


def encoder_layers(count: int) -> Callable[[DETR], None]:
    """Keeps the first `count` layers of the encoder."""
    def cut(model: DETR) -> None:
        encoder = model.transformer.encoder
        encoder.layers = encoder.layers[:count]

    return cut


def no_positions(model: DETR) -> None:
    """Takes the sines from all attention."""
    model.transformer.encoder = Placeless(model.transformer.encoder)  # type: ignore[assignment]
    model.transformer.decoder = Placeless(model.transformer.decoder)  # type: ignore[assignment]


CHANGES: Mapping[str, Callable[[DETR], Any]] = {
    "whole": lambda model: None, "1 encoder layer": encoder_layers(1), "no encoder": encoder_layers(0),
    "no spatial encodings": no_positions}


def run(seed: int, short: bool = False) -> Numbers:
    """COCO's numbers after the same further training, and AP50 before it."""
    size, found = size_of(short), {}
    for name, change in CHANGES.items():
        model = finished()
        change(model)
        at_once = measured(model, size, seed)["AP50"]
        found[name] = {**measured(trained_on(model, size, seed), size, seed), "AP50 at once": at_once}
    return found


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The whole against each that lacks something."""
    return {**{f"the whole beats {name}": wins(per_seed, "whole", name) for name in CHANGES if name != "whole"},
            "one layer of the encoder beats none": wins(per_seed, "1 encoder layer", "no encoder"),
            "spatial encodings are worth more than the encoder": wins(
                per_seed, "no encoder", "no spatial encodings")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
