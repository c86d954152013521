"""What corner pooling is good for: CornerNet trained briefly with it, with cascades, and without (its ablation).

The paper: 36.5 AP without corner pooling, 38.4 with it. The same network each time, with the same number of weights
without pooling and with corner pooling; cascades have three more convolutions for each corner. Short trainings find
corners before they can pair them, so that corners are measured too: a true corner is found if one of its class is among
the `top_k` best of the map, less than `NEAR` pixels away in x and y.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments.proposal_training import Size, train_briefly
from experiments.record import Numbers, wins
from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import small_resnet
from lessons.corners import KeypointMaps, find_peaks
from lessons.data.sample import Target
from lessons.data.scenes import CLASSES, Scenes
from lessons.detectors.centernet import CornerNet
from lessons.detectors.corner_head import EDGES, CascadeCornerPooling, CornerPooling, KeypointHead, NoPooling
from lessons.images import ImagePreparation
from lessons.metrics import CocoMetrics
from lessons.order import seeded
from lessons.recipes.centernet import CHANNELS, HIDDEN
from lessons.recipes.small_resnet import LESSON as PRE_TRAINED
from lessons.recipes.small_resnet import start_from_pre_trained

CLAIM = "Corner pooling helps to find corners, and raises AP."
FULL, SHORT = Size(300, 300, 100), Size(16, 3, 4)
NEAR = 8.0  # pixels
TOP_K = 10  # corners of a picture; at most five are true

POOLINGS: dict[str, Callable[[str], NoPooling]] = {
    "no pooling": lambda _: NoPooling(CHANNELS, HIDDEN // 2),
    "corner pooling": lambda corner: CornerPooling(CHANNELS, HIDDEN // 2, corner),
    "cascade corner pooling": lambda corner: CascadeCornerPooling(CHANNELS, HIDDEN // 2, corner)}


def build(pooling: str, seed: int) -> CornerNet:
    """Lesson 10's network with corners alone and one kind of pooling."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), CHANNELS)
        poolings = {corner: POOLINGS[pooling](corner) for corner in EDGES}
        head = KeypointHead(poolings, CHANNELS, len(CLASSES), HIDDEN)
        return CornerNet(backbone, [head], ImagePreparation((160,), 320))


def run(seed: int, short: bool = False) -> Numbers:
    """Corners found and AP after the same short training, for each kind of pooling."""
    size, found = SHORT if short else FULL, {}
    for name in POOLINGS:
        model = build(name, seed)
        start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type]
        train_briefly(model, size, seed)
        found[name] = measure(model, size, seed)
    return found


@torch.no_grad()
def measure(model: CornerNet, size: Size, seed: int) -> dict[str, float]:
    """The share of true corners that are found, and COCO's numbers, on the validation scenes of a seed."""
    metrics, hits = CocoMetrics(), []
    data = Scenes("val", size.measured, seed=1000 + seed)
    for image, target in (data[i] for i in range(size.measured)):
        maps, batch = model.predict([image])
        metrics.update(model.detect(maps, batch), [target])
        hits += [corners_found(model, maps[corner], target, corner) for corner in EDGES]
    ap = metrics.compute()
    return {"corners found": round(torch.cat(hits).float().mean().item(), 4),
            **{key: round(ap[key], 4) for key in ("AP", "AP50", "AP75")}}


def corners_found(model: CornerNet, maps: KeypointMaps, target: Target, corner: str) -> Tensor:
    """Which of the objects' corners (G,) the map has among its best."""
    peaks = find_peaks(maps, 0, TOP_K)
    places = target["boxes"][:, :2] if corner == "top_left" else target["boxes"][:, 2:]
    near = ((peaks.places * model.stride - places[:, None]).abs() < NEAR).all(dim=-1)  # (G, TOP_K)
    return (near & (peaks.labels + 1 == target["labels"][:, None])).any(dim=1)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Corner pooling against none, and cascades against corner pooling."""
    return {"corner pooling finds more corners": wins(per_seed, "corner pooling", "no pooling", "corners found"),
            "corner pooling raises AP": wins(per_seed, "corner pooling", "no pooling"),
            "cascades find more corners": wins(per_seed, "cascade corner pooling", "corner pooling", "corners found"),
            "cascades raise AP": wins(per_seed, "cascade corner pooling", "corner pooling")}


__all__ = ["CLAIM", "PRE_TRAINED", "build", "run", "verdict"]
