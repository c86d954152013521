"""Where does the decoder look? (DETR, section 4.3 and figure 6: mostly at the extremities of objects, legs and heads)

The paper shows pictures; here it is counted, over the objects that the shipped detector finds and that are at least
three cells of its map wide or high. A cell's attention, the mean of all heads, is spread evenly over its pixels, and
given as density: 1 is the mean over the picture. `outline`: less than 4 pixels from the box's outline; `middle`: in
the middle half of its width and height; `inside`, `outside`: of the box. The control moves each box onto another's
attention, of the same run. Nothing is trained here; a seed draws other validation scenes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.detr_training import PRE_TRAINED, answers, finished
from experiments.faster_rcnn_proposals import scenes
from experiments.record import Numbers
from lessons.boxes import box_iou
from lessons.data.sample import Detections, Sample, Target
from lessons.detectors.detr import DETR

CLAIM = "A query of the decoder looks at the outline of its object more than at the object's middle."
BAND, LEAST = 4, 48  # pixels: of the outline to either side; of the shorter box side


def run(seed: int, short: bool = False) -> Numbers:
    """Densities of each layer's attention, on the objects' own boxes and on those of others."""
    maps, boxes = looked_at(finished(), list(scenes(24 if short else 200, seed)))
    other = boxes.roll(1, dims=0)
    found = {}
    for number, layer in enumerate(maps, start=1):
        found[f"layer {number}"] = densities(layer, boxes)
        found[f"layer {number}, other boxes"] = densities(layer, other)
    return found


def looked_at(model: DETR, samples: Sequence[Sample], least: float = LEAST) -> tuple[Tensor, Tensor]:
    """For M objects that are found: each layer's attention (L, M, H, W) in pixels, with mean 1, and boxes (M, 4)."""
    maps, boxes = [], []
    for prediction, batch, some in answers(model, samples, need_weights=True):
        weights = torch.stack(prediction.decoder_attention).mean(dim=2)  # (L, B, Q, cells)
        for i, (detection, (_, target)) in enumerate(zip(model.detect(prediction, batch), some, strict=True)):
            query, truth = found_objects(detection, target, least)
            cells = weights[:, i, query].unflatten(-1, prediction.padding.shape[1:])
            stride = batch.pixels.shape[-1] // cells.shape[-1]
            maps.append((cells * cells[0, 0].numel() if len(query) else cells)
                        .repeat_interleave(stride, dim=-2).repeat_interleave(stride, dim=-1))
            boxes.append(target["boxes"][truth])
    return torch.cat(maps, dim=1), torch.cat(boxes)


def found_objects(detection: Detections, target: Target, least: float) -> tuple[Tensor, Tensor]:
    """Queries (M,) that are right about an object with score and IoU of at least 0.5, and these objects (M,)."""
    same = detection["labels"][:, None] == target["labels"]
    overlap = box_iou(detection["boxes"], target["boxes"]) * same * (detection["scores"] >= 0.5)[:, None]
    best = overlap.max(dim=0)  # of each object the best query
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    objects = torch.where((best.values >= 0.5) & (sides.amin(dim=1) >= least))[0]
    return best.indices[objects], objects


def densities(maps: Tensor, boxes: Tensor) -> dict[str, float]:
    """Mean density of maps (M, H, W) in parts of boxes (M, 4), the mean over the boxes, and outline / middle."""
    if not len(boxes):
        raise ValueError("no object of that size was found: more scenes, or a better detector.")
    means: dict[str, list[Tensor]] = {}
    for one, box in zip(maps, boxes, strict=True):
        for name, part in parts_of(box, one.shape[-2], one.shape[-1]).items():
            means.setdefault(name, []).append(one[part].mean())
    row = {name: torch.stack(values).mean().item() for name, values in means.items()}
    row["outline / middle"] = row["outline"] / row["middle"]
    return {name: round(value, 4) for name, value in row.items()}


def parts_of(box: Tensor, height: int, width: int) -> dict[str, Tensor]:
    """Which pixels (H, W) lie near the outline, in the middle, inside and outside of a box (4,)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    sides = torch.stack([x - box[0], y - box[1], box[2] - x, box[3] - y])  # inside all are > 0
    quarter = ((box[2:] - box[:2]) / 4).repeat(2)[:, None, None]
    nearest = sides.amin(dim=0)
    return {"outline": (nearest > -BAND) & (nearest < BAND), "middle": (sides > quarter).all(dim=0),
            "inside": nearest > 0, "outside": nearest < 0}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The last layer, on every seed."""
    last = sorted(name for name in per_seed[0] if not name.endswith("boxes"))[-1]
    control = f"{last}, other boxes"
    return {"attention lies on the object: density inside at least twice that outside": all(
                n[last]["inside"] >= 2 * n[last]["outside"] for n in per_seed),
            "it is denser inside its own box than inside another's": all(
                n[last]["inside"] > n[control]["inside"] for n in per_seed),
            "it is denser at the outline than in the middle": all(
                n[last]["outline"] > n[last]["middle"] for n in per_seed),
            "outline / middle is larger than with other boxes": all(
                n[last]["outline / middle"] > n[control]["outline / middle"] for n in per_seed)}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
