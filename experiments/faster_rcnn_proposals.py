"""How good are proposals that are learnt? (Faster R-CNN, section 4.1, table 2, and section 4.1's figure of recall)

The shipped detector of lesson 05 on scenes that it has never seen; a seed draws other scenes. Recall is the share of
objects that the first n boxes of a picture cover with an IoU of at least 0.5 or 0.7.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.rcnn_proposals import shuffled_windows
from experiments.record import Numbers
from lessons import zoo
from lessons.data.scenes import Scenes
from lessons.detectors.faster_rcnn import FasterRCNN, RegionProposalNetwork
from lessons.images import ImageBatch
from lessons.proposals import proposal_recall, selective_search

CLAIM = "Few learnt proposals cover more objects than many of Selective Search; they need both scores and regression."
PRE_TRAINED = zoo.CHECKPOINTS / "faster_rcnn.safetensors"
COUNTS = (10, 50, 100, 300)
Pictures = Sequence[tuple[list[Tensor], ImageBatch]]  # of each the feature maps and the batch of one


def run(seed: int, short: bool = False) -> Numbers:
    """Recall at COUNTS of proposals, of their two rivals, and of proposals without one of their parts."""
    samples = list(scenes(8 if short else 60, seed))
    model = zoo.load("faster_rcnn", "lesson")
    assert isinstance(model, FasterRCNN)
    seen, generator = look(model, [image for image, _ in samples]), torch.Generator().manual_seed(seed)
    found = {"RPN": propose(model.rpn, seen),
             "Selective Search": [selective_search(image) for image, _ in samples],
             "sliding windows": [shuffled_windows(generator) for _ in samples]}
    for name, other in variants(model.rpn, generator).items():
        found[name] = propose(other, seen)
    truth = [target["boxes"] for _, target in samples]
    return {name: recalls(boxes, truth) for name, boxes in found.items()}


def scenes(count: int, seed: int) -> Iterator[Any]:
    """Validation scenes of a seed that no training uses."""
    data = Scenes("val", count, seed=1000 + seed)
    return (data[i] for i in range(count))


@torch.no_grad()
def look(model: FasterRCNN, images: Sequence[Tensor]) -> Pictures:
    """What the proposal network sees of each picture."""
    batches = [model.prepare([image])[0] for image in images]
    return [(model.backbone(batch.pixels), batch) for batch in batches]


@torch.no_grad()
def propose(rpn: RegionProposalNetwork, seen: Pictures, count: int = 300) -> list[Tensor]:
    """At most `count` proposals of each picture, best first, out of the best 1000 anchors (the paper: 6000)."""
    generous = variant(rpn, before_nms={False: 1000}, after_nms={False: count})
    return [generous(features, batch)[0][0] for features, batch in seen]


def variant(rpn: RegionProposalNetwork, **attributes: Any) -> RegionProposalNetwork:
    """The same network, its weights shared, with other attributes."""
    other = copy.copy(rpn)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def variants(rpn: RegionProposalNetwork, generator: torch.Generator) -> dict[str, RegionProposalNetwork]:
    """The network without one of its parts: anchors that stay where they are, scores at random, no suppression."""
    def no_regression(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        objectness, deltas = rpn.predict(features)
        return objectness, torch.zeros_like(deltas)

    def no_scores(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        objectness, deltas = rpn.predict(features)
        return torch.randn(objectness.shape, generator=generator), deltas

    return {"RPN without regression": variant(rpn, predict=no_regression),
            "RPN without scores": variant(rpn, predict=no_scores),
            "RPN without NMS": variant(rpn, nms_threshold=1.0)}


def recalls(boxes: Sequence[Tensor], truth: Sequence[Tensor]) -> dict[str, float]:
    """Recall at each of COUNTS and at both thresholds, by names as "50 boxes, IoU 0.7"."""
    return {f"{n} boxes, IoU {iou}": round(value, 4) for iou in (0.5, 0.7)
            for n, value in zip(COUNTS, proposal_recall(boxes, truth, COUNTS, iou).tolist(), strict=True)}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """What holds for every seed."""
    def every(statement: Callable[[Numbers], bool]) -> bool:
        return all(statement(numbers) for numbers in per_seed)

    def kept(row: dict[str, float]) -> float:
        return row["50 boxes, IoU 0.5"] / row["300 boxes, IoU 0.5"]

    def lost(numbers: Numbers, key: str) -> float:
        return 1 - numbers["RPN without regression"][key] / numbers["RPN"][key]

    few, some, many = (f"{n} boxes, IoU 0.5" for n in (10, 50, 300))
    rivals = ("Selective Search", "sliding windows")
    return {"10 learnt proposals cover more objects than 10 of either rival": every(
                lambda n: n["RPN"][few] > max(n[rival][few] for rival in rivals)),
            "50 learnt proposals cover more than 50 of either rival": every(
                lambda n: n["RPN"][some] > max(n[rival][some] for rival in rivals)),
            "cut from 300 to 50, they keep a larger share of their recall": every(
                lambda n: kept(n["RPN"]) > max(kept(n[rival]) for rival in rivals)),
            "without regression a quarter or more of the recall at IoU 0.7 is lost": every(
                lambda n: lost(n, "50 boxes, IoU 0.7") >= 0.25),
            "without regression less of the recall at IoU 0.5 is lost": every(
                lambda n: lost(n, some) < lost(n, "50 boxes, IoU 0.7")),
            "without scores at most half of the recall of 10 boxes is left": every(
                lambda n: n["RPN without scores"][few] <= 0.5 * n["RPN"][few]),
            "without scores at least 0.8 of the recall of 300 boxes is left": every(
                lambda n: n["RPN without scores"][many] >= 0.8 * n["RPN"][many]),
            "without NMS 50 boxes cover less": every(lambda n: n["RPN without NMS"][some] < n["RPN"][some])}
