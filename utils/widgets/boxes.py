"""The box playground: IoU and its family, and the direction in which each of them pulls."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from lessons.boxes import box_convert, box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from utils.figures import BLUE, GREEN, VERMILLION, draw_boxes, draw_image, finish_axes, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

MEASURES = {"IoU": box_iou, "GIoU": generalized_box_iou, "DIoU": distance_box_iou, "CIoU": complete_box_iou}
# box B in units of box A: left, top, right, bottom where A is 0, 0, 1, 1
PRESETS = {"disjoint": (1.3, 0.9, 2.1, 1.5), "touching": (1.0, 0.0, 2.0, 1.0), "crossed": (-0.3, 0.35, 1.3, 0.65),
           "nested": (0.05, 0.1, 0.5, 0.55), "identical": (0.0, 0.0, 1.0, 1.0)}


def pull(box_a: Tensor, box_b: Tensor, measure: str) -> Tensor:
    """How gradient descent of 1 - measure moves the sides x1, y1, x2, y2 of box B, (4,).

    Boxes (4,) xyxy pixels. In units of box A's size (square root of its area), so that it does not depend on the scale.
    """
    scale = ((box_a[2] - box_a[0]) * (box_a[3] - box_a[1])).sqrt()
    b = (box_b / scale).requires_grad_()
    loss = 1 - MEASURES[measure]((box_a / scale)[None], b[None]).squeeze()
    (gradient,) = torch.autograd.grad(loss, b)
    return -gradient


def descend(box_a: Tensor, box_b: Tensor, measure: str, rate: float = 0.1) -> Tensor:
    """Box B after one step of gradient descent of 1 - measure on its centre and size; (4,) xyxy pixels."""
    scale = ((box_a[2] - box_a[0]) * (box_a[3] - box_a[1])).sqrt()
    b = box_convert((box_b / scale)[None], "xyxy", "cxcywh").requires_grad_()
    value = MEASURES[measure]((box_a / scale)[None], box_convert(b, "cxcywh", "xyxy")).squeeze()
    (gradient,) = torch.autograd.grad(1 - value, b)
    moved = b.detach() - rate * (2 - value.detach()) * gradient
    moved = torch.cat([moved[:, :2], moved[:, 2:].clamp(min=0.05)], dim=1)
    return box_convert(moved, "cxcywh", "xyxy")[0] * scale


class BoxPlayground(LessonWidget):
    """Two boxes on a photograph to drag, resize and move by keyboard, with IoU, GIoU, DIoU and CIoU live.

    image (3, H, W); box_a, box_b xyxy pixels. `measure` names the one whose gradient is drawn on box B.
    """

    _esm = script("boxes")
    box_a = traitlets.List(traitlets.Float()).tag(sync=True)
    box_b = traitlets.List(traitlets.Float()).tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    pull = traitlets.List(traitlets.Float()).tag(sync=True)
    measure = traitlets.Enum(list(MEASURES), "GIoU").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    preset = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, box_a: Sequence[float], box_b: Sequence[float], measure: str = "GIoU") -> None:
        self._start = [float(value) for value in box_a], [float(value) for value in box_b]
        super().__init__(image, box_a=self._start[0], box_b=self._start[1], measure=measure)
        self._measure_again()
        self.observe(self._measure_again, ["box_a", "box_b", "measure"])
        self.observe(self._take_step, "steps")
        self.observe(self._take_preset, "preset")

    @shows_errors
    def _measure_again(self, change: Any = None) -> None:
        a, b = torch.tensor(self.box_a, dtype=torch.float64), torch.tensor(self.box_b, dtype=torch.float64)
        self.values = {name: measure(a[None], b[None]).item() for name, measure in MEASURES.items()}
        self.pull = pull(a, b, self.measure).clamp(-1, 1).tolist()
        self.message = self._sentence()

    def _sentence(self) -> str:
        if max(map(abs, self.pull)) < 1e-6:
            if self.values["IoU"] == 0:
                return f"IoU is 0, and {self.measure} has no gradient here: nothing tells B where to go."
            return f"IoU {self.values['IoU']:.2f}; {self.measure} does not pull: B is where it wants to be."
        if self.values["IoU"] == 0:
            return f"IoU is 0, yet {self.measure} is {self.values[self.measure]:.2f} and pulls B along the arrows."
        return f"IoU {self.values['IoU']:.2f}; {self.measure} pulls the sides of B along the arrows."

    @shows_errors
    def _take_step(self, change: Any) -> None:
        a, b = torch.tensor(self.box_a, dtype=torch.float64), torch.tensor(self.box_b, dtype=torch.float64)
        self.box_b = descend(a, b, self.measure).tolist()

    @shows_errors
    def _take_preset(self, change: Any) -> None:
        if not self.preset:
            return
        if self.preset == "start":
            self.box_a, self.box_b = self._start
        else:
            x1, y1, x2, y2 = self.box_a
            sides = ((x1, x2 - x1), (y1, y2 - y1)) * 2
            self.box_b = [origin + share * side
                          for share, (origin, side) in zip(PRESETS[self.preset], sides, strict=True)]
        self.preset = ""

    def static(self) -> Figure:
        """The present state as a still figure."""
        figure, axes = new_figure(columns=2, width=4.6, height=4)
        ax = draw_image(axes[0, 0], self._pixels, "dashed white: smallest box around both")
        a, b = torch.tensor(self.box_a), torch.tensor(self.box_b)
        draw_boxes(ax, torch.cat([torch.min(a, b)[:2], torch.max(a, b)[2:]])[None], colors=["#FFFFFF"], linestyle="--",
                   linewidth=1.5)
        shared = torch.cat([torch.max(a, b)[:2], torch.min(a, b)[2:]])
        if (shared[2:] > shared[:2]).all():
            x1, y1, x2, y2 = shared.tolist()
            ax.fill([x1, x2, x2, x1], [y1, y1, y2, y2], color=GREEN, alpha=0.5)
        draw_boxes(ax, torch.stack([a, b]), torch.tensor([0, 1]), classes=["A", "B"], colors=[BLUE, VERMILLION])
        x1, y1, x2, y2 = self.box_b
        starts = ((x1, (y1 + y2) / 2), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2))
        far = 0.22 * max(self.size)
        for side, (length, (x, y)) in enumerate(zip(self.pull, starts, strict=True)):
            if abs(length) > 0.01:
                end = (x, y + length * far) if side % 2 else (x + length * far, y)
                ax.annotate("", end, (x, y), arrowprops={"color": "white", "width": 3, "headwidth": 10})
        bars = axes[0, 1]
        colors = [BLUE if value >= 0 else VERMILLION for value in self.values.values()]
        bars.barh(list(self.values), list(self.values.values()), color=colors)
        for row, value in enumerate(self.values.values()):
            bars.annotate(f"{value:.3f}", (max(value, 0), row), xytext=(4, 0), textcoords="offset points", va="center")
        bars.set_xlim(-1, 1.2)
        bars.invert_yaxis()
        finish_axes(bars, "", "", f"arrows: descent of 1 − {self.measure}", legend=False)
        return figure
