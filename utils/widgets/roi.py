"""RoIPool against RoIAlign: a region on a feature map, what each of them looks at, and what comes out."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from lessons.roi import bin_edges, roi_align, roi_pool, round_half_away
from utils.figures import BLUE, ORANGE, VERMILLION, draw_boxes, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors
from utils.widgets.boxes import checked_box


def rounded_bins(box: Tensor, bins: int, limits: tuple[int, int]) -> Tensor:
    """The cells of each of RoIPool's bins, (bins * bins, 4) as x1, y1, x2, y2, row by row.

    box (4,) in cells. Cell i covers i to i + 1, so x2 is one past the last cell. limits: (H, W) of the map.
    """
    left_top, right_bottom = round_half_away(box)[None].split(2, dim=1)
    rows, columns = bin_edges(left_top, (right_bottom - left_top + 1).clamp(min=1), (bins, bins), limits)
    y1, x1 = torch.meshgrid(rows[0, :, 0], columns[0, :, 0], indexing="ij")
    y2, x2 = torch.meshgrid(rows[0, :, 1], columns[0, :, 1], indexing="ij")
    return torch.stack([x1, y1, x2, y2], dim=-1).flatten(0, 1)


def sampling_points(box: Tensor, bins: int, samples: int) -> Tensor:
    """Where RoIAlign reads the map, ((bins * samples)^2, 2) as x, y in cells, row by row."""
    steps = (torch.arange(bins * samples, dtype=box.dtype) + 0.5) / (bins * samples)
    y, x = torch.meshgrid(box[1] + steps * (box[3] - box[1]), box[0] + steps * (box[2] - box[0]), indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


class RoiPoolingExplorer(LessonWidget):
    """A region to drag by fractions of a cell over a feature map, pooled by RoIPool and by RoIAlign.

    feature_map (H, W); box xyxy pixels of the picture; stride: pixels a cell, cell i covers i * stride to (i + 1) *
    stride; bins: a side. RoIAlign is drawn and reckoned with its cells' middles at .5 (`aligned=True`).
    Raises ValueError for a map of another shape and a malformed box.
    """

    _esm = script("roi")
    box = traitlets.List(traitlets.Float()).tag(sync=True)
    bins = traitlets.Int(2, min=1, max=4).tag(sync=True)
    samples = traitlets.Int(2, min=1, max=3).tag(sync=True)
    stride = traitlets.Int(16).tag(sync=True)
    cells = traitlets.List().tag(sync=True)
    window = traitlets.List().tag(sync=True)
    edges = traitlets.List().tag(sync=True)
    points = traitlets.List().tag(sync=True)
    results = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, feature_map: Tensor, box: Sequence[float], stride: int = 16, bins: int = 2) -> None:
        if feature_map.ndim != 2 or not feature_map.numel():
            raise ValueError(f"feature_map of shape {tuple(feature_map.shape)}: want (H, W) with at least one cell.")
        self._map = feature_map.detach().double()
        height, width = feature_map.shape
        super().__init__(size=[width * stride, height * stride], box=checked_box(box), stride=stride, bins=bins,
                         cells=[[self._colour(value) for value in row] for row in self._map.tolist()])
        self._pool_again()
        self.observe(self._pool_again, ["box", "bins", "samples"])

    def _colour(self, value: float) -> str:
        low, high = self._map.min().item(), self._map.max().item()
        return to_hex(colormaps["viridis"]((value - low) / max(high - low, 1e-12)))

    @shows_errors
    def _pool_again(self, change: Any = None) -> None:
        box = torch.tensor(checked_box(self.box), dtype=torch.float64) / self.stride
        height, width = self._map.shape
        bins = rounded_bins(box, self.bins, (height, width))
        self.window = [*bins[:, :2].amin(0).tolist(), *bins[:, 2:].amax(0).tolist()]
        self.edges = (bins * self.stride).tolist()
        self.points = (sampling_points(box, self.bins, self.samples) * self.stride).tolist()
        given = self._map[None, None], [box[None]], self.bins, 1.0
        found = {"RoIPool": roi_pool(*given), "RoIAlign": roi_align(*given, self.samples, True)}
        self.results = {name: [[{"value": value, "colour": self._colour(value)} for value in row]
                               for row in values[0, 0].tolist()] for name, values in found.items()}
        self.message = self._sentence()

    def _sentence(self) -> str:
        """How far RoIPool's window is from the region."""
        x1, y1, x2, y2 = (side / self.stride for side in self.box)
        left, top, right, bottom = self.window
        shift, wide, high = max(abs(x1 + x2 - left - right), abs(y1 + y2 - top - bottom)) / 2, x2 - x1, y2 - y1
        return (f"The region is {wide:.2f} × {high:.2f} cells. RoIPool looks at {right - left} × "
                f"{bottom - top} whole cells; their middle is up to {shift:.2f} cells = "
                f"{shift * self.stride:.1f} px off. RoIAlign is 0 px off.")

    def static(self) -> Figure:
        """The present state as a still figure."""
        figure, axes = new_figure(columns=4, width=3.7, height=3.6)
        self._draw_map(axes[0, 0], "RoIPool: rounded to whole cells")
        self._draw_map(axes[0, 1], "RoIAlign: read between cells")
        draw_boxes(axes[0, 0], torch.tensor(self.edges), colors=[VERMILLION], linewidth=2)
        axes[0, 1].plot(*zip(*self.points, strict=True), "o", color=BLUE, markeredgecolor="white", markersize=7)
        for ax in axes[0, :2]:
            draw_boxes(ax, torch.tensor([self.box]), colors=[ORANGE], linestyle="--", linewidth=2)
        for ax, (name, rows) in zip(axes[0, 2:], self.results.items(), strict=True):
            kind = "largest value" if name == "RoIPool" else f"mean of {self.samples**2} samples"
            self._draw_result(ax, rows, f"{name}: {kind}")
        figure.suptitle(self.message, fontsize=12)
        return figure

    def _draw_map(self, ax: Axes, title: str) -> None:
        width, height = self.size
        ax.imshow(self._map.numpy(), cmap="viridis", extent=(0, width, height, 0))
        ax.set_xticks(range(0, width + 1, self.stride), [])
        ax.set_yticks(range(0, height + 1, self.stride), [])
        ax.grid(color="white", linewidth=0.6)
        ax.tick_params(length=0)
        ax.set_title(title, fontsize=13)

    def _draw_result(self, ax: Axes, rows: Sequence[Sequence[dict[str, Any]]], title: str) -> None:
        values = torch.tensor([[one["value"] for one in row] for row in rows])
        ax.imshow(values.numpy(), cmap="viridis", vmin=self._map.min().item(), vmax=self._map.max().item())
        middle = (self._map.min().item() + self._map.max().item()) / 2
        for y, row in enumerate(values.tolist()):
            for x, value in enumerate(row):
                ax.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=14, fontweight="bold",
                        color="black" if value > middle else "white")
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=13)
