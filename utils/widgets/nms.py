"""The NMS player: greedy suppression of a detector's candidates, one kept box at a time."""

from collections.abc import Sequence
from typing import Any

import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from utils.figures import GREEN, VERMILLION, draw_boxes, draw_image, finish_axes, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors
from utils.widgets.traces import nms_trace


class NmsPlayer(LessonWidget):
    """Steps through greedy NMS on a photograph.

    image (3, H, W); boxes (N, 4) xyxy pixels and scores (N,) of one class. `step` counts the kept boxes shown so far;
    candidates below `score_threshold` do not take part. Raises ValueError where the lengths differ.
    """

    _esm = script("nms")
    boxes = traitlets.List().tag(sync=True)
    scores = traitlets.List(traitlets.Float()).tag(sync=True)
    lowest = traitlets.Float(0).tag(sync=True)
    highest = traitlets.Float(1).tag(sync=True)
    iou_threshold = traitlets.Float(0.5).tag(sync=True)
    score_threshold = traitlets.Float(0).tag(sync=True)
    step = traitlets.Int(1).tag(sync=True)
    trace = traitlets.List().tag(sync=True)

    def __init__(self, image: Tensor, boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5, step: int = 1) -> None:
        if len(boxes) != len(scores):
            raise ValueError(f"{len(boxes)} boxes with {len(scores)} scores.")
        order = scores.argsort(descending=True, stable=True)
        self._boxes, self._scores = boxes[order].detach(), scores[order].detach()
        low, high = (float(end) for end in (scores.min(), scores.max())) if len(scores) else (0.0, 1.0)
        super().__init__(image, boxes=self._boxes.tolist(), scores=self._scores.tolist(), lowest=low, highest=high,
                         iou_threshold=iou_threshold, score_threshold=low, step=step)
        self._trace_again()
        self.observe(self._trace_again, ["iou_threshold", "score_threshold"])

    @shows_errors
    def _trace_again(self, change: Any = None) -> None:
        takes_part = int((self._scores >= self.score_threshold - 1e-6).sum())
        self.trace = nms_trace(self._boxes[:takes_part], self._scores[:takes_part], self.iou_threshold)
        self.step = max(0, min(self.step, len(self.trace)))

    def kept(self) -> list[int]:
        """The candidates kept up to the present step, as places in the order of falling score."""
        return [row["kept"] for row in self.trace[: self.step]]

    def static(self, steps: Sequence[int] = (0, 1, 2, -1)) -> Figure:
        """Several steps side by side as a still figure: before, after one and two kept boxes, and the end (-1)."""
        stages = sorted({s if s >= 0 else len(self.trace) for s in steps if s <= len(self.trace)})
        figure, axes = new_figure(columns=len(stages), width=3.3, height=3.7)
        for ax, stage in zip(axes[0], stages, strict=True):
            self._draw_stage(ax, stage)
        figure.suptitle(f"Greedy NMS at IoU {self.iou_threshold:g}: kept green, just suppressed dashed", fontsize=14)
        return figure

    def _draw_stage(self, ax: Any, stage: int) -> None:
        gone = {i for row in self.trace[:stage] for i in [row["kept"], *(j for j, _ in row["suppressed"])]}
        waiting = [i for row in self.trace[stage:] for i in [row["kept"], *(j for j, _ in row["suppressed"])]]
        names = {0: "before", len(self.trace): "the end"}
        draw_image(ax, self._pixels)
        draw_boxes(ax, self._boxes[[i for i in waiting if i not in gone]], colors=["#56B4E9"], linewidth=0.8)
        if 0 < stage < len(self.trace):
            dashed = [j for j, _ in self.trace[stage - 1]["suppressed"]]
            draw_boxes(ax, self._boxes[dashed], colors=[VERMILLION], linestyle="--", linewidth=1.2)
        kept = [row["kept"] for row in self.trace[:stage]]
        draw_boxes(ax, self._boxes[kept], scores=self._scores[kept], colors=[GREEN])
        title = names.get(stage, f"{stage} kept")
        finish_axes(ax, "", "", f"{title}: {len(waiting)} in the queue" if waiting else f"{title}: {len(kept)} kept",
                    legend=False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.grid(False)
