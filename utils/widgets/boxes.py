"""The box playground: IoU and its family, and the direction in which each of them pulls."""

import math
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
    unit = ((box_a[2] - box_a[0]) * (box_a[3] - box_a[1])).sqrt()
    b = (box_b / unit).requires_grad_()
    loss = 1 - MEASURES[measure]((box_a / unit)[None], b[None]).squeeze()
    (gradient,) = torch.autograd.grad(loss, b)
    return -gradient


def descend(box_a: Tensor, box_b: Tensor, measure: str, rate: float = 0.1) -> Tensor:
    """Box B after one step of gradient descent of 1 - measure on its centre and size; (4,) xyxy pixels.

    The optimum is known to be 0, so the step shrinks with what is left to go (Polyak, "Introduction to Optimization",
    1987): a constant step would jump about the target, where the measures have a kink. `rate` limits it far away.
    """
    unit = ((box_a[2] - box_a[0]) * (box_a[3] - box_a[1])).sqrt()
    b = box_convert((box_b / unit)[None], "xyxy", "cxcywh").requires_grad_()
    loss = 1 - MEASURES[measure]((box_a / unit)[None], box_convert(b, "cxcywh", "xyxy")).squeeze()
    (gradient,) = torch.autograd.grad(loss, b)
    if not gradient.any():
        return box_b
    step = torch.minimum(rate * (1 + loss), 0.5 * loss / gradient.square().sum()).detach()
    moved = b.detach() - step * gradient
    moved = torch.cat([moved[:, :2], moved[:, 2:].clamp(min=0.05)], dim=1)
    return box_convert(moved, "cxcywh", "xyxy")[0] * unit


def preset_box(name: str, box_a: Sequence[float], size: Sequence[int]) -> list[float]:
    """Where a preset puts box B, xyxy pixels: mirrored where the picture, of size (width, height), has more room there.

    Raises ValueError where box A leaves no room for it.
    """
    box = [0.0] * 4
    for axis in (0, 1):
        start, length = box_a[axis], box_a[axis + 2] - box_a[axis]
        low, high = PRESETS[name][axis], PRESETS[name][axis + 2]
        sides = [(max(0.0, start + near * length), min(float(size[axis]), start + far * length))
                 for near, far in ((low, high), (1 - high, 1 - low))]
        box[axis], box[axis + 2] = max(sides, key=lambda side: side[1] - side[0])  # as given where both are as long
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box A leaves no room for a {name} box B in this picture; make A smaller.")
    return box


def checked_box(box: Sequence[float]) -> list[float]:
    """Four finite numbers x1 <= x2, y1 <= y2 as floats. Raises ValueError otherwise."""
    values = [float(value) for value in box]
    if len(values) != 4 or not all(map(math.isfinite, values)) or values[0] > values[2] or values[1] > values[3]:
        raise ValueError(f"box {values}: want four finite numbers with x1 <= x2 and y1 <= y2.")
    return values


class BoxPlayground(LessonWidget):
    """Two boxes on a photograph to drag, resize and move by keyboard, with IoU, GIoU, DIoU and CIoU live.

    image (3, H, W); box_a, box_b xyxy pixels. `measure` names the one whose gradient is drawn on box B. A value that is
    not defined (0 / 0, of boxes without area) is None. Raises ValueError for a malformed box.
    """

    _esm = script("boxes")
    box_a = traitlets.List(traitlets.Float()).tag(sync=True)
    box_b = traitlets.List(traitlets.Float()).tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    pull = traitlets.List(traitlets.Float()).tag(sync=True)
    measure = traitlets.Enum(list(MEASURES), "GIoU").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)
    at_rest = traitlets.Bool(False).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    preset = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, box_a: Sequence[float], box_b: Sequence[float], measure: str = "GIoU") -> None:
        self._start = checked_box(box_a), checked_box(box_b)
        super().__init__(image, box_a=self._start[0], box_b=self._start[1], measure=measure)
        self._measure_again()
        self.observe(self._measure_again, ["box_a", "box_b", "measure"])
        self.observe(self._take_step, "steps")
        self.observe(self._take_preset, "preset")

    @shows_errors
    def _measure_again(self, change: Any = None) -> None:
        a, b = self._boxes()
        values = {name: measure(a[None], b[None]).item() for name, measure in MEASURES.items()}
        self.values = {name: value if math.isfinite(value) else None for name, value in values.items()}
        flat = self._flat()
        self.pull = [0.0] * 4 if flat else pull(a, b, self.measure).clamp(-1, 1).tolist()
        self.at_rest = bool(flat) or max(map(abs, self.pull)) < 1e-6 or values[self.measure] > 0.999
        self.message = self._undefined(flat) if flat else self._sentence()

    def _boxes(self) -> tuple[Tensor, Tensor]:
        a, b = (torch.tensor(checked_box(box), dtype=torch.float64) for box in (self.box_a, self.box_b))
        return a, b

    def _flat(self) -> list[str]:
        """The boxes without area: they have no shape to measure and no size to descend in."""
        return [name for name, (x1, y1, x2, y2) in (("A", self.box_a), ("B", self.box_b)) if x1 == x2 or y1 == y2]

    def _undefined(self, flat: list[str]) -> str:
        who = f"Box {flat[0]} has" if len(flat) == 1 else "Boxes A and B have"
        names = ", ".join(name for name, value in self.values.items() if value is None)
        if not names:
            return f"{who} no area: nothing pulls B."
        return f"{who} no area: {names} would be 0 / 0 and {'are' if ',' in names else 'is'} not defined."

    def _sentence(self) -> str:
        overlap, value = self.values["IoU"], self.values[self.measure]
        if overlap == 0:
            return (f"IoU is 0, and {self.measure} has no gradient here: nothing tells B where to go." if self.at_rest
                    else f"IoU is 0, yet {self.measure} is {value:.2f} and pulls B along the arrows.")
        if self.at_rest:
            return f"IoU {overlap:.2f}; {self.measure} does not pull: B is where it wants to be."
        same = "" if self.measure == "IoU" else f", {self.measure} {value:.2f}"
        return f"IoU {overlap:.2f}{same}; {self.measure} pulls the sides of B along the arrows."

    @shows_errors
    def _take_step(self, change: Any) -> None:
        if not self.at_rest:
            self.box_b = descend(*self._boxes(), self.measure).tolist()

    @shows_errors
    def _take_preset(self, change: Any) -> None:
        name, self.preset = self.preset, ""  # so that the same button works again
        if name == "start":
            self.box_a, self.box_b = self._start
        elif name:
            self.box_b = preset_box(name, self.box_a, self.size)

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
        lengths = [value or 0.0 for value in self.values.values()]
        bars.barh(list(self.values), lengths, color=[BLUE if length >= 0 else VERMILLION for length in lengths])
        for row, (length, value) in enumerate(zip(lengths, self.values.values(), strict=True)):
            text = "not defined" if value is None else f"{value:.3f}"
            bars.annotate(text, (max(length, 0), row), xytext=(4, 0), textcoords="offset points", va="center")
        bars.set_xlim(-1, 1.2)
        bars.invert_yaxis()
        finish_axes(bars, "", "", f"arrows: descent of 1 − {self.measure}", legend=False)
        return figure
