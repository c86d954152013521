"""Which loss for the four distances? (FCOS, equation 2; UnitBox, Yu et al., ACM MM 2016)

L2 adds up squared distances, so that an error of a tenth costs a box of twice the size four times as much, and it
treats the four sides as strangers. IoU and GIoU judge the box as a whole, and large boxes as small ones.
"""

from collections.abc import Sequence

from torch import Tensor

from experiments.one_stage_training import PRE_TRAINED, size_of, started, trained_and_measured
from experiments.record import Numbers, wins
from lessons.coding import encode_ltrb
from lessons.detectors.fcos import FCOS
from lessons.losses import smooth_l1_loss
from lessons.recipes.fcos import build

CLAIM = "A loss on the overlap of boxes regresses them better than L2 on their four distances."


def l2(distances: Tensor, squares: Tensor, truth: Tensor) -> Tensor:
    """Half the squared differences of the four distances, in strides: a sum."""
    return 0.5 * (distances - encode_ltrb(truth, squares)).square().sum()


def l1(distances: Tensor, squares: Tensor, truth: Tensor) -> Tensor:
    """The differences of the four distances, in strides: a sum."""
    return smooth_l1_loss(distances, encode_ltrb(truth, squares), beta=0.0, reduction="sum")


LOSSES = {"GIoU": None, "L1": l1, "L2": l2}


def run(seed: int, short: bool = False) -> Numbers:
    """COCO's numbers after the same short training with each loss; short: a few steps."""
    size, found = size_of(short), {}
    for name, loss in LOSSES.items():
        model = started(build, seed)
        assert isinstance(model, FCOS)
        if loss is not None:
            model.box_loss = loss  # type: ignore[method-assign]
        found[name] = trained_and_measured(model, size, seed)
    return found


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """GIoU against both, and where boxes are judged strictly."""
    return {"GIoU beats L2": wins(per_seed, "GIoU", "L2"),
            "GIoU beats L2 at IoU 0.75": wins(per_seed, "GIoU", "L2", "AP75"),
            "GIoU beats L2 on small objects": wins(per_seed, "GIoU", "L2", "AP_small"),
            "GIoU beats L1": wins(per_seed, "GIoU", "L1")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
