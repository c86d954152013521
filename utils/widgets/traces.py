"""Greedy NMS written down step by step, for the player to show."""

from typing import TypedDict

from torch import Tensor

from lessons.boxes import box_iou


class Step(TypedDict):
    """One step: the box that is kept, and the boxes that it suppresses with their IoU."""

    kept: int
    suppressed: list[tuple[int, float]]


def nms_trace(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> list[Step]:
    """Every step of greedy NMS; `[step["kept"] for step in trace]` is what `lessons.nms.nms` returns.

    boxes (N, 4) xyxy pixels, scores (N,). With groups (N,), for instance classes, a box suppresses only its own group,
    as `lessons.nms.batched_nms`. Raises ValueError for a malformed box.
    """
    queue = scores.argsort(descending=True, stable=True)
    trace: list[Step] = []
    while len(queue):
        best, rest = queue[0], queue[1:]
        overlap = box_iou(boxes[best][None], boxes[rest])[0]
        gone = overlap > iou_threshold
        if groups is not None:
            gone &= groups[rest] == groups[best]
        suppressed = list(zip(rest[gone].tolist(), overlap[gone].tolist(), strict=True))
        trace.append({"kept": int(best), "suppressed": suppressed})
        queue = rest[~gone]
    return trace
