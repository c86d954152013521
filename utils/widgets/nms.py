"""The NMS player: greedy suppression of a detector's candidates, one kept box at a time."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from utils.figures import GREEN, SKY, VERMILLION, class_color, draw_boxes, draw_image, finish_axes, new_figure
from utils.widgets.base import LessonWidget, decimals, script, shows_errors, slider_range
from utils.widgets.traces import nms_trace


class NmsPlayer(LessonWidget):
    """Steps through greedy NMS on a photograph.

    image (3, H, W); boxes (N, 4) xyxy pixels and scores (N,). `step` counts the kept boxes shown so far; candidates
    below `score_threshold` do not take part. labels: the class of each box, its number (N,) or its name; then a box
    suppresses only boxes of its class, as `lessons.nms.batched_nms`. Raises ValueError where the lengths differ.
    """

    _esm = script("nms")
    boxes = traitlets.List().tag(sync=True)
    scores = traitlets.List(traitlets.Float()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    colours = traitlets.List(traitlets.Unicode()).tag(sync=True)
    lowest = traitlets.Float(0).tag(sync=True)
    highest = traitlets.Float(1).tag(sync=True)
    score_step = traitlets.Float(0.01).tag(sync=True)
    iou_threshold = traitlets.Float(0.5).tag(sync=True)
    score_threshold = traitlets.Float(0).tag(sync=True)
    step = traitlets.Int(1).tag(sync=True)
    trace = traitlets.List().tag(sync=True)

    def __init__(self, image: Tensor, boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5, step: int = 1,
                 labels: Tensor | Sequence[int | str] | None = None) -> None:
        if len(boxes) != len(scores):
            raise ValueError(f"{len(boxes)} boxes with {len(scores)} scores.")
        order = scores.argsort(descending=True, stable=True)
        self._boxes, self._scores, self._groups = boxes[order].detach(), scores[order].detach(), None
        ends, names = slider_range(decimals(scores)), {}
        if labels is not None:
            self._groups, names = _classes(labels, order)
        super().__init__(image, boxes=self._boxes.tolist(), scores=decimals(self._scores), step=step, **ends, **names,
                         iou_threshold=iou_threshold, score_threshold=ends["lowest"])
        self._trace_again()
        self.observe(self._trace_again, ["iou_threshold", "score_threshold"])

    @shows_errors
    def _trace_again(self, change: Any = None) -> None:
        part = slice(sum(score >= self.score_threshold for score in self.scores))
        groups = None if self._groups is None else self._groups[part]
        self.trace = nms_trace(self._boxes[part], self._scores[part], self.iou_threshold, groups)
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
        colour = "kept green" if self._groups is None else "inside each class, kept thick"
        figure.suptitle(f"Greedy NMS at IoU {self.iou_threshold:g}: {colour}, just suppressed dashed", fontsize=14)
        return figure

    def _draw_stage(self, ax: Any, stage: int) -> None:
        gone = {i for row in self.trace[:stage] for i in [row["kept"], *(j for j, _ in row["suppressed"])]}
        waiting = [i for row in self.trace[stage:] for i in [row["kept"], *(j for j, _ in row["suppressed"])]]
        names = {0: "before", len(self.trace): "the end"}
        draw_image(ax, self._pixels)
        self._draw(ax, [i for i in waiting if i not in gone], SKY, linewidth=0.8)
        if 0 < stage < len(self.trace):
            dashed = [j for j, _ in self.trace[stage - 1]["suppressed"]]
            self._draw(ax, dashed, VERMILLION, linestyle="--", linewidth=1.2)
        kept = [row["kept"] for row in self.trace[:stage]]
        self._draw(ax, kept, GREEN, scores=self._scores[kept])
        title = names.get(stage, f"{stage} kept")
        finish_axes(ax, "", "", f"{title}: {len(waiting)} in the queue" if waiting else f"{title}: {len(kept)} kept",
                    legend=False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.grid(False)

    def _draw(self, ax: Any, chosen: list[int], colour: str, **options: Any) -> None:
        """Some boxes in their class's colour, or without classes in that of their state."""
        draw_boxes(ax, self._boxes[chosen], colors=[self.colours[i] for i in chosen] if self.colours else [colour],
                   **options)


def _classes(labels: Tensor | Sequence[int | str], order: Tensor) -> tuple[Tensor, dict[str, list[str]]]:
    """The group of each box (N,) in the order of its score, and names and colours as traits."""
    given = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(given) != len(order):
        raise ValueError(f"{len(order)} boxes with {len(given)} labels.")
    kinds = {label: place for place, label in enumerate(dict.fromkeys(given), start=1)}
    ranked = [given[i] for i in order.tolist()]
    numbers = [label if isinstance(label, int) else kinds[label] for label in ranked]
    names = [f"class {label}" if isinstance(label, int) else str(label) for label in ranked]
    groups = torch.tensor([kinds[label] for label in ranked])
    return groups, {"names": names, "colours": [class_color(number) for number in numbers]}
