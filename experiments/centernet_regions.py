"""What the centres are good for: one detector's boxes with corners alone, with centres, and with true centres.

The shipped detector of lesson 10 on scenes that it has never seen; a seed draws other scenes, nothing is trained. All
conditions see the same maps (CenterNet, section 4). The paper's central region is a third of small boxes and a
fifth of large ones; here both are also tried for boxes of every size. A box is right where it has IoU 0.5 or more with
an object of its class; small means an area below 32 x 32 pixels, of the box or of the object.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from experiments.faster_rcnn_proposals import scenes
from experiments.record import Numbers, wins
from lessons import zoo
from lessons.boxes import box_area, box_iou
from lessons.corners import (
    Detections,
    KeypointMaps,
    centre_scores,
    decode_corners,
    decode_triplets,
    find_peaks,
)
from lessons.data.sample import Sample, Target
from lessons.detectors.centernet import CenterNet, cells_of
from lessons.images import ImageBatch
from lessons.metrics import CocoMetrics

CLAIM = "Centres remove wrong boxes, small ones most; with true centres the boxes would be much better still."
PRE_TRAINED = zoo.CHECKPOINTS / "centernet.safetensors"
LEAST = 0.1  # score of a pair of corners from which its box counts as wrong or right
SMALL = 32.0  # pixels, the square root of the area
REGIONS = {"thirds": math.inf, "fifths": 0.0}  # up to which size a box has its middle third, then its middle fifth

Maps = Mapping[str, KeypointMaps]
Seen = Sequence[tuple[dict[str, KeypointMaps], ImageBatch]]


def run(seed: int, short: bool = False) -> Numbers:
    """AP, wrong boxes a scene and objects covered, by size, for each way of using centres."""
    model = zoo.load("centernet", "lesson")
    assert isinstance(model, CenterNet)
    samples = list(scenes(8 if short else 100, seed))
    seen = look(model, samples)
    told = [(with_true_centres(model, maps, target), batch)
            for (maps, batch), (_, target) in zip(seen, samples, strict=True)]
    found = {"corners alone": measure(model, seen, samples, None)}
    found |= {name: measure(model, seen, samples, large / model.stride) for name, large in REGIONS.items()}
    return found | {"true centres": measure(model, told, samples, math.inf)}


@torch.no_grad()
def look(model: CenterNet, samples: Sequence[Sample]) -> Seen:
    """What the network says of each picture."""
    return [model.predict([image]) for image, _ in samples]


def with_true_centres(model: CenterNet, maps: Maps, target: Target) -> dict[str, KeypointMaps]:
    """The maps with a centre, of probability 1, exactly where each object has its own, and nowhere else."""
    heat, offsets = torch.zeros_like(maps["centre"].heat), torch.zeros_like(maps["centre"].offsets)
    places = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2 / model.stride
    column, row = cells_of(places, heat).T
    heat[0, target["labels"] - 1, row, column] = 1.0
    offsets[0, :, row, column] = (places - torch.stack([column, row], dim=1)).T
    return {**maps, "centre": KeypointMaps(heat, offsets)}


def decoder(model: CenterNet, large: float | None) -> Callable[[Maps], list[Detections]]:
    """How boxes in cells come from maps; large: cells, up to which size the middle is a third, None for no test."""
    def decode(maps: Maps) -> list[Detections]:
        corners = maps["top_left"], maps["bottom_right"]
        if large is None:
            return decode_corners(*corners, model.top_k, model.max_distance)
        return decode_triplets(*corners, maps["centre"], model.top_k, model.max_distance, large)

    return decode


def measure(model: CenterNet, seen: Seen, samples: Sequence[Sample], large: float | None) -> dict[str, float]:
    """COCO's numbers after soft-NMS, and before it wrong boxes and covered objects, by size."""
    metrics, counts = CocoMetrics(), torch.zeros(2, 3)
    model.decode = decoder(model, large)  # type: ignore[method-assign]
    for (maps, batch), (_, target) in zip(seen, samples, strict=True):
        metrics.update(model.detect(maps, batch), [target])
        counts += tally(model, maps, target, large)
    del model.decode  # the class's own again
    ap, found = metrics.compute(), {}
    for size, (wrong, objects, covered) in zip(("small", "larger"), counts.tolist(), strict=True):
        found |= {f"wrong, {size}": round(wrong / len(samples), 4),
                  f"covered, {size}": round(covered / max(objects, 1), 4)}
    return {**{key: round(ap[key], 4) for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium")}, **found}


def tally(model: CenterNet, maps: Maps, target: Target, large: float | None) -> Tensor:
    """Wrong boxes, objects, and objects that a box covers, (2, 3), for small and for larger ones."""
    corners = maps["top_left"], maps["bottom_right"]
    (pairs,) = decode_corners(*corners, model.top_k, model.max_distance)
    kept = pairs["scores"] >= LEAST  # by the corners' score in all conditions, so that the same pairs are judged
    if large is not None:
        centres = find_peaks(maps["centre"], 0, model.top_k)
        kept &= centre_scores(pairs["boxes"], pairs["labels"], centres, large) > 0
    boxes, labels = pairs["boxes"][kept] * model.stride, pairs["labels"][kept] + 1
    right = (box_iou(target["boxes"], boxes) >= 0.5) & (target["labels"][:, None] == labels)  # (G, N)
    wrong, covered = ~right.any(dim=0), right.any(dim=1)
    is_small, of_small = box_area(boxes) < SMALL**2, box_area(target["boxes"]) < SMALL**2
    return torch.tensor([[(wrong & found).sum(), true.sum(), (covered & true).sum()]
                         for found, true in ((is_small, of_small), (~is_small, ~of_small))], dtype=torch.float32)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Wrong boxes by size, the two regions, and what true centres would give."""
    def left(size: str, condition: str = "thirds") -> float:
        """The share of wrong boxes that stays, over all seeds."""
        return (sum(n[condition][f"wrong, {size}"] for n in per_seed)
                / max(sum(n["corners alone"][f"wrong, {size}"] for n in per_seed), 1e-9))

    def lost(size: str) -> float:
        """How many more of the objects fifths lose than thirds."""
        return sum(n["thirds"][f"covered, {size}"] - n["fifths"][f"covered, {size}"] for n in per_seed)

    return {"centres remove wrong boxes": max(left("small"), left("larger")) < 1,
            "they remove a larger share of the small ones": left("small") < left("larger"),
            "centres raise AP": wins(per_seed, "thirds", "corners alone"),
            "fifths remove more wrong boxes than thirds": left("larger", "fifths") < left("larger"),
            "fifths lose more small than larger objects": lost("small") > lost("larger"),
            "true centres raise AP further": wins(per_seed, "true centres", "thirds")}
