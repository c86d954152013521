"""Corner, cascade corner and centre pooling, one look along a row or a column at a time, from a chosen cell."""

from collections.abc import Callable, Sequence
from typing import Any

import traitlets
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lessons.corners import SCANS, cascade_corner_pool, center_pool, corner_pool
from lessons.detectors.corner_head import EDGES
from utils.figures import BLUE, GREEN, ORANGE, PURPLE, VERMILLION, draw_image, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

COLOURS = (VERMILLION, ORANGE, BLUE, GREEN)  # of the looks, in turn
WORDS = {"top": "down the column", "bottom": "up the column", "left": "along the row to the right",
         "right": "along the row to the left"}


def _corner(x: Tensor, corner: str) -> Tensor:
    down, across = EDGES[corner]
    return corner_pool(x, across) + corner_pool(x, down)


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "corner pooling, top-left": lambda x: _corner(x, "top_left"),
    "corner pooling, bottom-right": lambda x: _corner(x, "bottom_right"),
    "cascade, top-left": lambda x: cascade_corner_pool(x, "top_left"),
    "cascade, bottom-right": lambda x: cascade_corner_pool(x, "bottom_right"),
    "centre pooling": center_pool,
}


def look(values: Tensor, place: tuple[int, int], direction: str) -> dict[str, Any]:
    """One look from a cell (row, column) of values (H, W): which cells it passes, the largest value and its cell.

    direction as in `lessons.corners.corner_pool`; of equal values the nearest. `span`: the first and last cell.
    """
    row, column = place
    dim, forward = SCANS[direction]
    line = values[:, column] if dim == 2 else values[row]
    start, sign = place[dim - 2], 1 if forward else -1
    passed = line[start:] if forward else line[: start + 1].flip(0)
    ends = [(start + sign * away, column) if dim == 2 else (row, start + sign * away)
            for away in (int(passed.argmax()), len(passed) - 1)]
    return {"direction": direction, "span": [list(place), list(ends[1])], "found": list(ends[0]),
            "value": passed.max().item()}


def looks(values: Tensor, place: tuple[int, int], pooling: str) -> list[dict[str, Any]]:
    """All looks of a kind of pooling from one cell; the sum of their values is what comes out there."""
    if pooling == "centre pooling":
        return [look(values, (place[0], 0), "left"), look(values, (0, place[1]), "top")]
    down, across = EDGES["top_left" if "top-left" in pooling else "bottom_right"]
    found = []
    for along, inwards in ((across, down), (down, across)):
        found.append(look(values, place, along))
        if pooling.startswith("cascade"):
            row, column = found[-1]["found"]
            found.append(look(values, (row, column), inwards))
    return found


class PoolingExplorer(LessonWidget):
    """Choose a cell of a feature map and see, look by look, what each kind of pooling brings to it.

    image (3, H, W); feature_map (h, w), of which a cell covers `stride` pixels; cell: column and row to begin with, the
    middle by default. `step` counts the looks that are shown. Raises ValueError for a map of another shape.
    """

    _esm = script("pooling")
    poolings = traitlets.List(list(POOLINGS)).tag(sync=True)
    pooling = traitlets.Unicode("corner pooling, top-left").tag(sync=True)
    cell = traitlets.List(traitlets.Int()).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    stride = traitlets.Int(4).tag(sync=True)
    grid = traitlets.List(traitlets.Int()).tag(sync=True)
    veil = traitlets.List().tag(sync=True)
    looks = traitlets.List().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, feature_map: Tensor, stride: int = 4, cell: Sequence[int] | None = None) -> None:
        if feature_map.ndim != 2 or not feature_map.numel():
            raise ValueError(f"feature_map of shape {tuple(feature_map.shape)}: want (H, W) with at least one cell.")
        self._map = feature_map.detach().double()
        height, width = feature_map.shape
        super().__init__(image, stride=stride, grid=[width, height], veil=_colours(self._map),
                         cell=list(cell or (width // 2, height // 2)))
        self._look()
        self.observe(self._look, ["cell", "pooling", "step"])

    @shows_errors
    def _look(self, change: Any = None) -> None:
        (column, row), (width, height) = self.cell, self.grid
        if not (0 <= column < width and 0 <= row < height):
            raise ValueError(f"cell {list(self.cell)} lies outside the map of {width} x {height} cells.")
        found = looks(self._map, (row, column), self.pooling)
        self.step = min(max(self.step, 0), len(found))
        self.looks = [one | {"colour": colour} for one, colour in zip(found, COLOURS, strict=False)]
        self.message = self._sentence(self._map[row, column].item())

    @property
    def result(self) -> float:
        """What comes out at the chosen cell, by the library."""
        column, row = self.cell
        return POOLINGS[self.pooling](self._map[None, None])[0, 0, row, column].item()

    def _sentence(self, own: float) -> str:
        if self.step == 0:
            return f"The cell holds {own:.2f}. Next: {WORDS[self.looks[0]['direction']]}."
        latest = self.looks[self.step - 1]
        row, column = latest["found"]
        seen = (f"{WORDS[latest['direction']]} the largest value is {latest['value']:.2f}, in row {row}, column "
                f"{column}.")
        if self.step < len(self.looks):
            return f"{seen[0].upper()}{seen[1:]}"
        return f"{seen[0].upper()}{seen[1:]} Together {self._sum()}; the cell itself held {own:.2f}."

    def _sum(self) -> str:
        return f"{' + '.join(format(one['value'], '.2f') for one in self.looks)} = {self.result:.2f}"

    def static(self) -> Figure:
        """The map with all looks from the cell, and the whole map after pooling, as a still figure."""
        figure, axes = new_figure(columns=2, width=4.6, height=4.6)
        self._draw(axes[0, 0], self._map, "before, with the looks from one cell")
        for number, one in enumerate(self.looks, start=1):
            self._draw_look(axes[0, 0], number, one)
        pooled = POOLINGS[self.pooling](self._map[None, None])[0, 0]
        self._draw(axes[0, 1], pooled, f"after {self.pooling}")
        for ax in axes[0]:
            self._mark(ax, self.cell[::-1], PURPLE)
        figure.suptitle(self._sum(), fontsize=13)
        return figure

    def _draw(self, ax: Axes, values: Tensor, title: str) -> None:
        width, height = self.size
        draw_image(ax, self._pixels, title)
        ax.imshow(values.numpy(), cmap="viridis", alpha=0.8, interpolation="nearest",
                  extent=(0, self.grid[0] * self.stride, self.grid[1] * self.stride, 0))
        ax.set(xlim=(0, width), ylim=(height, 0))

    def _draw_look(self, ax: Axes, number: int, one: dict[str, Any]) -> None:
        (y1, x1), (y2, x2) = ([(part + 0.5) * self.stride for part in end] for end in one["span"])
        ax.plot([x1, x2], [y1, y2], color="white", linewidth=4.5)
        ax.plot([x1, x2], [y1, y2], color=one["colour"], linewidth=2.5)
        self._mark(ax, one["found"], one["colour"])
        ax.text((x1 + x2) / 2, (y1 + y2) / 2, str(number), ha="center", va="center", fontsize=11,
                bbox={"facecolor": "white", "edgecolor": one["colour"], "pad": 1.5})

    def _mark(self, ax: Axes, place: Sequence[int], colour: str) -> None:
        row, column = place
        ax.add_patch(Rectangle((column * self.stride, row * self.stride), self.stride, self.stride, facecolor=colour,
                               edgecolor="white", linewidth=1.5, zorder=4))


def _colours(values: Tensor) -> list[list[str]]:
    low, high = values.min().item(), values.max().item()
    scaled = (values - low) / max(high - low, 1e-12)
    return [[to_hex(colour) for colour in colormaps["viridis"](row)] for row in scaled.tolist()]
