"""The pyramid explorer: how spatial pyramid pooling turns a window of any size into a vector of one length."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lessons.roi import bin_edges, cells_between, roi_spatial_pyramid_pool
from utils.figures import ORANGE, VERMILLION, draw_boxes, draw_image, new_figure
from utils.widgets.base import LessonWidget, data_url, script, shows_errors
from utils.widgets.boxes import checked_box


def heat_picture(values: Tensor) -> Tensor:
    """A map (H, W) as colours (3, H, W); viridis, which reads in grey, too."""
    from matplotlib import colormaps

    shares = values / values.amax().clamp(min=1e-6)
    return torch.from_numpy(colormaps["viridis"](shares.numpy())[..., :3]).permute(2, 0, 1).float()


class PyramidExplorer(LessonWidget):
    """A window to drag over a photograph, its cells on the feature map, and its bins with what is pooled in them.

    image (3, H, W); features (C, h, w), `stride` pixels a cell; window xyxy pixels; levels: bins a side. `channel` is
    the one whose values are shown, `level` the one whose bins are drawn in the picture. Cell i is drawn about pixel
    i * stride, the middle of what it sees. Raises ValueError for a
    malformed window, features of another shape and levels < 1.
    """

    _esm = script("pyramid")
    window = traitlets.List(traitlets.Float()).tag(sync=True)
    levels = traitlets.List(traitlets.Int()).tag(sync=True)
    level = traitlets.Unicode("").tag(sync=True)
    stride = traitlets.Int(8).tag(sync=True)
    channel = traitlets.Int(0).tag(sync=True)
    channels = traitlets.Int(1).tag(sync=True)
    cells = traitlets.List().tag(sync=True)
    bins = traitlets.List().tag(sync=True)
    strongest = traitlets.Float(0.0).tag(sync=True)
    veil = traitlets.Unicode("").tag(sync=True)
    equation = traitlets.Unicode("").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, features: Tensor, window: Sequence[float], levels: Sequence[int] = (4, 2, 1),
                 stride: int = 8, channel: int = 0) -> None:
        if features.ndim != 3:
            raise ValueError(f"features of shape {tuple(features.shape)}: want (C, h, w).")
        self._features = features.detach()
        roi_spatial_pyramid_pool(features[None], [torch.tensor([checked_box(window)])], levels, 1 / stride)
        super().__init__(image, window=checked_box(window), levels=list(levels), level=str(levels[0]), stride=stride,
                         channel=channel, channels=len(features))
        self._pool()
        self.observe(self._pool, ["window", "channel"])

    @shows_errors
    def _pool(self, change: Any = None) -> None:
        window = torch.tensor([checked_box(self.window)])
        first, size = cells_between(window / self.stride)
        limits = self._features.shape[1:]
        pooled = roi_spatial_pyramid_pool(self._features[None], [window], self.levels, 1 / self.stride)[0]
        parts = pooled.split([len(self._features) * n * n for n in self.levels])
        own = self._features[self.channel]
        self.strongest, self.veil = own.amax().item(), data_url(heat_picture(own))
        self.cells = torch.cat([first, first + size], dim=1)[0].long().tolist()
        self.bins = [{"n": n, "values": part.view(-1, n * n)[self.channel].tolist(),
                      "bins": _rectangles(*bin_edges(first, size, (n, n), limits))}
                     for n, part in zip(self.levels, parts, strict=True)]
        self.equation, self.message = self._equation(len(pooled)), self._sentence(size[0].long().tolist())

    def _equation(self, length: int) -> str:
        squares = " + ".join(f"{n}²" for n in self.levels)
        return f"({squares}) bins × {self.channels} channels = {length:,} numbers"

    def _sentence(self, size: list[int]) -> str:
        width, height = self.window[2] - self.window[0], self.window[3] - self.window[1]
        shared = [n for n in self.levels if n > min(size)]
        words = (f" Fewer cells than bins a side: at {shared[0]} × {shared[0]} several bins look at the same cell."
                 if shared else "")
        return (f"{width:.0f} × {height:.0f} pixels are {size[0]} × {size[1]} cells; the vector's length does not care."
                f"{words}")

    def static(self) -> Figure:
        """The window with the bins of every level, and the pooled values of the channel, as a still figure."""
        figure, axes = new_figure(columns=len(self.levels), rows=2, width=3.4, height=3.4)
        for (ax, below), level in zip(axes.T, self.bins, strict=True):
            draw_image(ax, self._pixels, f"{level['n']} × {level['n']} bins")
            for x1, y1, x2, y2 in ([(end - 0.5) * self.stride for end in cells] for cells in level["bins"]):
                ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor=(*_rgb(ORANGE), 0.25), edgecolor="white"))
            rows, columns = (torch.arange(count) * self.stride for count in self._features.shape[1:])
            ax.plot(*torch.cartesian_prod(columns, rows).T, ".", color="white", markersize=2)
            draw_boxes(ax, torch.tensor([self.window]), colors=[VERMILLION])
            values = torch.tensor(level["values"]).view(level["n"], level["n"])
            below.imshow(values, cmap="Blues", vmin=0, vmax=max(self.strongest, 1e-6) * 1.2)
            for y, x in torch.cartesian_prod(*[torch.arange(level["n"])] * 2).view(-1, 2).tolist():
                ink = "white" if values[y, x] > 0.7 * self.strongest else "black"
                below.text(x, y, f"{values[y, x]:.1f}", ha="center", va="center", color=ink, fontsize=11)
            below.set_xticks([])
            below.set_yticks([])
            below.set_title(f"channel {self.channel}: maxima", fontsize=12)
        figure.suptitle(self.equation, fontsize=13)
        return figure


def _rectangles(rows: Tensor, columns: Tensor) -> list[list[int]]:
    """The bins of one window as [left, top, right, bottom] in cells, row by row."""
    return [[left, top, right, bottom] for top, bottom in rows[0].tolist() for left, right in columns[0].tolist()]


def _rgb(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
