"""Greedy NMS written down step by step, for the player to show."""

from typing import TypedDict

from torch import Tensor

from lessons.boxes import box_iou


class Step(TypedDict):
    """One step: the box that is kept, and the boxes that it suppresses with their IoU."""

    kept: int
    suppressed: list[tuple[int, float]]


def nms_trace(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[Step]:
    """Every step of greedy NMS; `[step["kept"] for step in trace]` is what `lessons.nms.nms` returns.

    boxes (N, 4) xyxy pixels, scores (N,). Raises ValueError for a malformed box.
    """
    queue = scores.argsort(descending=True, stable=True)
    trace: list[Step] = []
    while len(queue):
        best, rest = queue[0], queue[1:]
        overlap = box_iou(boxes[best][None], boxes[rest])[0]
        gone = overlap > iou_threshold
        suppressed = list(zip(rest[gone].tolist(), overlap[gone].tolist(), strict=True))
        trace.append({"kept": int(best), "suppressed": suppressed})
        queue = rest[~gone]
    return trace
