"""The location explorer: which object each point of FCOS's pyramid answers for, and what it shall say of it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lessons.anchors import anchor_grid
from lessons.coding import encode_ltrb
from lessons.detectors.fcos import centreness_of
from lessons.matching import fcos_fits, fcos_ranges, fcos_targets
from utils.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW, draw_boxes, draw_image, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

OBJECTS = (BLUE, GREEN, ORANGE, PURPLE, SKY)  # of the objects, in turn
AMBIGUOUS = "black"  # in the still figure, whose few colours leave no red; red in the page
EVERYWHERE = "all levels"


class LocationExplorer(LessonWidget):
    """Click a pixel: the nearest point of each level, the object that it learns, and l, t, r, b and centre-ness.

    image (3, H, W); boxes (G, 4) xyxy pixels and names (G,) of the true objects; strides of the pyramid's levels P3,
    P4, ... in pixels; reach: strides up to which a level's sides go (lessons.matching.fcos_ranges); radius: strides
    from an object's centre within which points learn it while `centre` is set, any point inside otherwise. Without
    `pyramid` there is the level of stride `alone` only, for objects of every size. `draw` names the level whose points
    are drawn. Raises ValueError where names and boxes differ or `alone` is no level's stride.
    """

    _esm = script("locations")
    truth = traitlets.List().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    colours = traitlets.List(traitlets.Unicode()).tag(sync=True)
    levels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    draw = traitlets.Unicode(EVERYWHERE).tag(sync=True)
    pyramid = traitlets.Bool(True).tag(sync=True)
    centre = traitlets.Bool(True).tag(sync=True)
    alone = traitlets.Int(16).tag(sync=True)
    pixel = traitlets.List(traitlets.Float()).tag(sync=True)
    points = traitlets.List().tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    counts = traitlets.Dict().tag(sync=True)
    learns = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, boxes: Tensor, names: Sequence[str], strides: Sequence[int] = (8, 16, 32),
                 reach: float = 8, radius: float = 1.5, pixel: Sequence[float] | None = None, alone: int = 16) -> None:
        if len(boxes) != len(names):
            raise ValueError(f"{len(boxes)} boxes with {len(names)} names.")
        if alone not in strides:
            raise ValueError(f"the level alone has stride {alone}; the pyramid's are {list(strides)}.")
        self._truth, self._strides = boxes.detach().float().reshape(-1, 4), tuple(strides)
        self._reach, self._radius = reach, radius
        middle = [image.shape[2] / 2, image.shape[1] / 2]
        super().__init__(image, truth=self._truth.tolist(), names=list(names), alone=alone,
                         colours=[OBJECTS[i % len(OBJECTS)] for i in range(len(names))],
                         levels=[_level(stride) for stride in strides], pixel=list(pixel or middle))
        self._assign()
        self.observe(self._assign, ["pyramid", "centre"])
        self.observe(self._look, ["pixel"])

    @shows_errors
    def _assign(self, change: Any = None) -> None:
        strides = self._strides if self.pyramid else (self.alone,)
        width, height = self.size
        grids = [anchor_grid((math.ceil(height / s), math.ceil(width / s)), s, (s,), (1.0,)) for s in strides]
        self._squares = torch.cat(grids)
        self._stride = torch.cat([torch.full((len(grid),), float(s)) for grid, s in zip(grids, strides, strict=True)])
        self._centres = (self._squares[:, :2] + self._squares[:, 2:]) / 2
        self._ranges = fcos_ranges(self._stride, self._reach)
        places = self._centres, self._stride, self._ranges, self._radius if self.centre else math.inf
        self._fits, self._matches = fcos_fits(self._truth, *places), fcos_targets(self._truth, *places)
        self.points = self._drawn()
        self.counts = self._count()
        self._look()

    def _drawn(self) -> list[dict[str, Any]]:
        """Every point: where it is, its level, the object that it learns (-1 for none), how many it could."""
        numbers = zip(self._centres.tolist(), self._stride.tolist(), self._matches.tolist(),
                      self._fits.sum(dim=1).tolist(), strict=True)
        return [{"x": x, "y": y, "level": _level(stride), "stride": stride, "object": match, "fits": fits}
                for (x, y), stride, match, fits in numbers]

    def _count(self) -> dict[str, int]:
        """Points in all, those that learn an object, those that could learn two, and two of different classes."""
        classes = torch.zeros_like(self._matches)
        for one in set(self.names):
            classes += self._fits[:, [name == one for name in self.names]].any(dim=1)
        return {"points": len(self._matches), "positive": int((self._matches >= 0).sum()),
                "ambiguous": int((self._fits.sum(dim=1) > 1).sum()), "different": int((classes > 1).sum())}

    @shows_errors
    def _look(self, change: Any = None) -> None:
        """What the point of each level that is nearest to the pixel shall say."""
        x, y = self.pixel
        if not (0 <= x <= self.size[0] and 0 <= y <= self.size[1]):
            raise ValueError(f"pixel {list(self.pixel)} lies outside the picture of {self.size[0]} x {self.size[1]}.")
        away = (self._centres - torch.tensor([x, y])).square().sum(dim=1)
        rows = []
        for stride in self._stride.unique().tolist():
            own = torch.where(self._stride == stride)[0]
            rows.append(self._row(int(own[away[own].argmin()])))
        self.rows = rows
        self.learns = next((row for row in rows if row["object"] >= 0), {})
        self.message = self._sentence()

    def _row(self, index: int) -> dict[str, Any]:
        match = int(self._matches[index])
        (x, y), stride = self._centres[index].tolist(), self._stride[index].item()
        row = {"level": _level(stride), "stride": stride, "x": x, "y": y, "object": match,
               "words": self._reason(index), "low": self._ranges[index, 0].item(),
               "high": None if self._ranges[index, 1].isinf() else self._ranges[index, 1].item()}
        if match >= 0:
            sides = encode_ltrb(self._truth[match][None], self._squares[index][None], normalize_by_size=False)
            row |= {"sides": sides[0].tolist(), "centreness": centreness_of(sides).item()}
        return row

    def _reason(self, index: int) -> str:
        """The object that the point learns, or why none."""
        fits = [self.names[i] for i in torch.where(self._fits[index])[0].tolist()]
        match = int(self._matches[index])
        if match >= 0:
            others = f", the smallest of {len(fits)}" if len(fits) > 1 else ""
            return f"{self.names[match]}{others}"
        point, anywhere = self._centres[index][None], torch.tensor([[0.0, math.inf]])
        stride = self._stride[index][None]
        inside = fcos_fits(self._truth, point, stride, anywhere, math.inf)[0]
        central = fcos_fits(self._truth, point, stride, anywhere, self._radius if self.centre else math.inf)[0]
        if not inside.any():
            return "background: in no box"
        if not central.any():
            return "background: too far from the centre"
        return "background: another level's size"

    def _sentence(self) -> str:
        counts = self.counts
        amount = (f"{counts['positive']} of {counts['points']} points learn an object; {counts['ambiguous']} of them "
                  f"lie in two or more, {counts['different']} in two of different classes.")
        row = self.learns
        if not row:
            return f"At this pixel every level learns background. {amount}"
        left, top, right, bottom = row["sides"]
        return (f"{row['level']} learns {self.names[row['object']]}: l {left:.0f}, t {top:.0f}, r {right:.0f}, "
                f"b {bottom:.0f} px, centre-ness {row['centreness']:.2f}. {amount}")

    def static(self) -> Figure:
        """The points of each level, and the chosen one with its four distances, as a still figure."""
        levels = list(dict.fromkeys(point["level"] for point in self.points))
        figure, axes = new_figure(columns=len(levels) + 1, width=3.4, height=3.7)
        for ax, level in zip(axes[0], levels, strict=False):
            own = [point for point in self.points if point["level"] == level]
            positive = sum(point["object"] >= 0 for point in own)
            self._ground(ax, f"{level}: {positive} of {len(own)} points")
            _draw_points(ax, own, self.colours)
        ax = self._ground(axes[0, -1], "at the chosen pixel: background")
        if self.learns:
            self._draw_sides(ax)
        figure.suptitle(f"{self.counts['positive']} points learn an object; crosses: {self.counts['ambiguous']} that "
                        "lie in two", fontsize=13)
        return figure

    def _ground(self, ax: Axes, title: str) -> Axes:
        draw_image(ax, self._pixels, title)
        if self.names:
            draw_boxes(ax, self._truth, colors=self.colours, linewidth=1.5)
        return ax

    def _draw_sides(self, ax: Axes) -> None:
        row = self.learns
        (left, top, right, bottom), x, y = row["sides"], row["x"], row["y"]
        for name, (dx, dy) in {"l": (-left, 0), "t": (0, -top), "r": (right, 0), "b": (0, bottom)}.items():
            ax.plot([x, x + dx], [y, y + dy], color="black", linewidth=4)
            ax.plot([x, x + dx], [y, y + dy], color=YELLOW, linewidth=2.5)
            ax.text(x + dx / 2, y + dy / 2, f"{name} {abs(dx + dy):.0f}", ha="center", va="center", fontsize=10,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        ax.plot(x, y, "o", color=YELLOW, markeredgecolor="black", markersize=9)
        ax.set_title(f"{row['level']}: {self.names[row['object']]}, centre-ness {row['centreness']:.2f}", fontsize=13)


def _level(stride: float) -> str:
    """P3 for a stride of 8."""
    return f"P{round(math.log2(stride))}"


def _draw_points(ax: Axes, points: Sequence[dict[str, Any]], colours: Sequence[str]) -> None:
    for point in points:
        size = 3 + point["stride"] / 8
        if point["fits"] > 1:
            ax.plot(point["x"], point["y"], "X", color=AMBIGUOUS, markeredgecolor="white", markersize=size + 5)
        elif point["object"] >= 0:
            ax.plot(point["x"], point["y"], "o", color=colours[point["object"]], markeredgecolor="white",
                    markersize=size + 3)
        else:
            ax.plot(point["x"], point["y"], ".", color="white", markersize=2.5)
