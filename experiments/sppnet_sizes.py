"""Does training at two sizes help at sizes never seen? (He et al., TPAMI 2015, section 2.3: 224 and 180 pixels in turn)

Crops of single objects, shown at different sizes to a frozen body; a pyramid makes them vectors of one length, on which
a linear classifier learns: from crops of 64 pixels alone, or from 64 and 48 in turn, an epoch each. The bins are those
of the paper's appendix A, which see every cell of a map of any size; the ones of section 2.3 would leave out the last
cells of some maps (two of seven at 56 pixels) and so make sizes differ by more than their size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.fast_rcnn_training import PRE_TRAINED
from experiments.record import Numbers
from lessons.backbones.resnet import LastStage, small_resnet
from lessons.data.crops import Crops, stack_crops
from lessons.images import normalise
from lessons.recipes.small_resnet import start_from_pre_trained

__all__ = ["PRE_TRAINED"]
CLAIM = "Training at two sizes in turn lowers the loss of accuracy at sizes that were not trained."
TRAINED, MEASURED = (64, 48), (32, 40, 48, 56, 64, 80)
EPOCHS = 8


def run(seed: int, short: bool = False) -> Numbers:
    """The share of crops classified rightly at each size, for both trainings of the same length."""
    count, held_back = (60, 30) if short else (1200, 600)
    body = LastStage(small_resnet((1, 2, 1))).eval()
    start_from_pre_trained(body.body)
    (crops, labels), (unknown, truth) = (stack_crops([some[i] for i in range(len(some))])
                                         for some in crop_sets(seed, count, held_back))
    train = {size: describe(body, crops, size) for size in TRAINED}
    nets = {"one size": fit([train[64]] * EPOCHS, labels, seed),
            "two sizes": fit([train[TRAINED[i % 2]] for i in range(EPOCHS)], labels, seed)}
    val = {size: describe(body, unknown, size) for size in MEASURED}
    return {name: {f"{size} pixels": share(net, val[size], truth) for size in MEASURED}
            for name, net in nets.items()}


def crop_sets(seed: int, count: int, held_back: int) -> tuple[Crops, Crops]:
    """Crops of known objects to train on, and of unknown ones to measure on."""
    return Crops(count, 64, seed=1000 + seed), Crops(held_back, 64, "val_unknown", seed=1000 + seed)


@torch.no_grad()
def describe(body: nn.Module, crops: Tensor, size: int) -> Tensor:
    """Pyramids (N, P) of crops shown at a size; bin i of n sees cells floor(i a / n) to ceil((i + 1) a / n) of a."""
    shown = F.interpolate(crops, size=(size, size), mode="bilinear", antialias=True)
    maps = [body(normalise(part))[0] for part in shown.split(64)]
    return torch.cat([torch.cat([F.adaptive_max_pool2d(m, n).flatten(1) for n in (4, 2, 1)], dim=1) for m in maps])


def fit(epochs: Sequence[Tensor], labels: Tensor, seed: int) -> nn.Linear:
    """A linear classifier; each epoch has its own features (N, P) of the same crops."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Linear(epochs[0].shape[1], int(labels.max()) + 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4, weight_decay=0.05)
    for features in epochs:
        for chosen in torch.randperm(len(labels), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(features[chosen]), labels[chosen]).backward()
            optimizer.step()
    return net


@torch.no_grad()
def share(net: nn.Module, features: Tensor, labels: Tensor) -> float:
    """The share of crops whose class has the highest score."""
    return round((net(features).argmax(1) == labels).float().mean().item(), 4)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """What two sizes gain, where they were trained and where they were not."""
    gain = {size: sum(one["two sizes"][f"{size} pixels"] - one["one size"][f"{size} pixels"] for one in per_seed)
            for size in MEASURED}
    return {"two sizes are better at 40 pixels, never trained": gain[40] > 0,
            "two sizes are better at 32 pixels, never trained": gain[32] > 0,
            "at 64 pixels they differ by less than two hundredths": abs(gain[64]) / len(per_seed) < 0.02}
