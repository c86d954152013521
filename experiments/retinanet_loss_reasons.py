"""Why does focal loss not win after a short training? Two guesses, tested (beside `retinanet_loss`).

The focal loss is twenty times smaller than cross-entropy at the start, so the loss of the boxes outweighs it in the
backbone: then a heavier classification loss should help it. Or it only needs longer: then it should gain more from two
and a half times as many steps.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from experiments.one_stage_training import PRE_TRAINED, measured, size_of, started
from experiments.proposal_training import Size, train_briefly
from experiments.record import Numbers, wins
from lessons.data.sample import Target
from lessons.recipes.retinanet import build

CLAIM = "Focal loss is held back in a short training by its size, or by the shortness."
LOSSES = {"CE, alpha 0.75": (0.75, 0.0), "FL, alpha 0.25": (0.25, 2.0)}  # alpha and gamma
HEAVIER, LONGER = 10.0, 2.5


class Weighted(nn.Module):
    """A detector whose classification loss counts `weight` times."""

    def __init__(self, model: nn.Module, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight

    def forward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        losses = self.model(images, targets)
        return losses | {"classification": self.weight * losses["classification"]}


def run(seed: int, short: bool = False) -> Numbers:
    """COCO's numbers of both losses as they are, of a heavier focal loss, and of both after a longer training."""
    size, found = size_of(short), {}
    longer = Size(size.images, int(LONGER * size.steps), size.measured)
    for name, loss in LOSSES.items():
        found[name] = trained(loss, 1.0, size, seed)
        found[f"{name}, longer"] = trained(loss, 1.0, longer, seed)
    found["FL, alpha 0.25, heavier"] = trained(LOSSES["FL, alpha 0.25"], HEAVIER, size, seed)
    return found


def trained(loss: tuple[float, float], weight: float, size: Size, seed: int) -> dict[str, float]:
    """COCO's numbers after training with alpha and gamma, the classification loss weighed."""
    model = started(build, seed)
    model.alpha, model.gamma = loss  # type: ignore[assignment]
    train_briefly(Weighted(model, weight), size, seed)
    return measured(model.eval(), size, seed)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The two guesses."""
    gains = {name: sum(n[f"{name}, longer"]["AP"] - n[name]["AP"] for n in per_seed) for name in LOSSES}
    return {"a heavier classification loss helps it": wins(per_seed, "FL, alpha 0.25, heavier", "FL, alpha 0.25"),
            "it then beats balanced cross-entropy": wins(per_seed, "FL, alpha 0.25, heavier", "CE, alpha 0.75"),
            "focal loss gains more from a longer training": gains["FL, alpha 0.25"] > gains["CE, alpha 0.75"],
            "after the longer training focal loss beats it": wins(per_seed, "FL, alpha 0.25, longer",
                                                                  "CE, alpha 0.75, longer")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
