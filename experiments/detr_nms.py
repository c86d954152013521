"""Does DETR need NMS? AP after each decoder layer, with NMS and without (DETR, section 4.2 and figure 4).

The paper: NMS helps after the first decoder layer, less and less after the following ones, and after the last it costs
AP, since it removes some boxes that were right. That Faster R-CNN needs it is not in the paper; it is our own
comparison: the lesson's detector with all boxes of its last stage (the NMS of its proposals stays), then thinned out.
Nothing is trained here; a seed draws other validation scenes. `boxes per object`: of those that a detection of score
0.5 or more finds (their class, IoU at least 0.5), how many such detections each has on average; 1 is a set.
"""

from collections.abc import Iterable, Sequence

import torch

from experiments.detr_training import PRE_TRAINED, Answers, answers, finished
from experiments.faster_rcnn_proposals import scenes
from experiments.record import Numbers
from lessons import zoo
from lessons.boxes import box_convert, box_iou
from lessons.data.sample import Detections, Sample, Target
from lessons.detectors.detr import DETR, in_parts
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.images import shape
from lessons.losses import detr_matching_cost
from lessons.matching import hungarian_match
from lessons.metrics import CocoMetrics
from lessons.nms import batched_nms

CLAIM = "NMS helps DETR's first decoder layer and is no use after the last; a detector of regions is lost without it."
NMS_THRESHOLD = 0.5


def run(seed: int, short: bool = False) -> Numbers:
    """AP, AP50 and boxes per object without NMS and with it: of each decoder layer, and of Faster R-CNN."""
    samples = list(scenes(8 if short else 100, seed))
    targets = [target for _, target in samples]
    layers = by_layer(finished(), samples)
    found = {f"decoder layer {i}": layer for i, layer in enumerate(layers, start=1)}
    found["Faster R-CNN"] = every_box([image for image, _ in samples])
    return {name: both_ways(detections, targets) for name, detections in found.items()}


def by_layer(model: DETR, samples: Sequence[Sample]) -> list[list[Detections]]:
    """The detections of all samples after each decoder layer, the first one first."""
    layers: list[list[Detections]] = [[] for _ in model.transformer.decoder.layers]
    for prediction, batch, _ in answers(model, samples):
        for number, layer in enumerate(layers):
            layer += model.detect(prediction, batch, number)
    return layers


@torch.no_grad()
def every_box(images: Sequence[torch.Tensor]) -> list[Detections]:
    """What the lesson's Faster R-CNN finds when nothing is thinned out after its head."""
    model = zoo.load("faster_rcnn", "lesson")
    assert isinstance(model, FasterRCNN)
    model.box_head.nms_threshold, model.box_head.max_detections = 1.0, 10**6
    return [model([image])[0] for image in images]


def thinned(detection: Detections) -> Detections:
    """What NMS in each class keeps."""
    kept = batched_nms(detection["boxes"], detection["scores"], detection["labels"], NMS_THRESHOLD)
    return {key: rows[kept] for key, rows in detection.items()}


def both_ways(detections: Sequence[Detections], targets: Sequence[Target]) -> dict[str, float]:
    """The numbers without NMS and with it."""
    row: dict[str, float] = {}
    for words, found in (("without NMS", detections), ("with NMS", [thinned(one) for one in detections])):
        metrics = CocoMetrics()
        metrics.update(found, targets)
        numbers = metrics.compute()
        row |= {f"{key} {words}": round(numbers[key], 4) for key in ("AP", "AP50")}
        row[f"boxes per object {words}"] = round(boxes_per_object(found, targets), 4)
    return row


def boxes_per_object(detections: Sequence[Detections], targets: Sequence[Target], score: float = 0.5) -> float:
    """Right detections of at least that score for each object that has any; 0 where none has.

    A detection is right about the object of its class with which it overlaps most, by an IoU of at least 0.5.
    """
    counts = []
    for detection, target in zip(detections, targets, strict=True):
        same = detection["labels"][:, None] == target["labels"]
        overlap = (box_iou(detection["boxes"], target["boxes"]) * same)[detection["scores"] >= score]
        best = overlap.max(dim=1)
        counts.append(torch.bincount(best.indices[best.values >= 0.5], minlength=len(target["labels"])))
    each = torch.cat(counts)
    return (each.sum() / (each > 0).sum().clamp(min=1)).item()


def matched_doubles(said: Iterable[Answers], loss_weights: tuple[float, float, float], score: float = 0.25
                    ) -> tuple[int, int]:
    """How many objects two queries or more lie upon after the last layer, and how many of these get the surest one.

    A query lies upon the object with which it overlaps most, by an IoU of at least 0.5, if it gives the object's class
    a probability of at least `score`. said: what `answers` yields; loss_weights: of class, L1 and GIoU in the matching.
    """
    doubles = surest = 0
    for prediction, _, some in said:
        for logits, boxes, (image, target) in zip(prediction.logits[-1], prediction.boxes[-1], some, strict=True):
            if not len(target["boxes"]):
                continue
            truth, likely = in_parts(target["boxes"], shape(image)), logits.softmax(-1)[:, target["labels"]]
            query, found = hungarian_match(detr_matching_cost(logits, boxes, target["labels"], truth, loss_weights))
            overlap = box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(truth, "cxcywh", "xyxy"))
            own = torch.arange(len(truth)) == overlap.argmax(dim=1, keepdim=True)
            upon = likely.where(own & (overlap >= 0.5) & (likely >= score), 0.0)  # (queries, objects)
            twice = (upon > 0).sum(dim=0) >= 2
            doubles += int(twice.sum())
            surest += int((upon.argmax(dim=0) == query[found.argsort()])[twice].sum())
    return doubles, surest


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """First layer, last layer and the detector of regions, on every seed."""
    def gain(numbers: Numbers, name: str) -> float:
        return numbers[name]["AP with NMS"] - numbers[name]["AP without NMS"]

    layers = sorted(name for name in per_seed[0] if name.startswith("decoder"))
    first, last, regions = layers[0], layers[-1], "Faster R-CNN"
    return {"NMS raises the AP of the first decoder layer": all(gain(n, first) > 0 for n in per_seed),
            "it raises that of the last by at most 0.002": all(gain(n, last) <= 0.002 for n in per_seed),
            "it gains less after the last layer than after the first": all(
                gain(n, last) < gain(n, first) for n in per_seed),
            "the last layer finds more than the first": all(
                n[last]["AP without NMS"] > n[first]["AP without NMS"] for n in per_seed),
            "after the last layer an object has at most 1.05 boxes": all(
                n[last]["boxes per object without NMS"] <= 1.05 for n in per_seed),
            "Faster R-CNN without NMS loses a quarter of its AP or more": all(
                n[regions]["AP without NMS"] <= 0.75 * n[regions]["AP with NMS"] for n in per_seed)}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
