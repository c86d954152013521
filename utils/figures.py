"""Figures that look the same everywhere: colour-blind-safe, readable from the back row, with a text description.

Colours are Okabe and Ito's, told apart with every kind of colour vision; what matters is also written or dashed.
Figures are plain matplotlib; `show` puts one into the notebook together with its description.
"""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, YELLOW)
Extent: TypeAlias = tuple[float, float, float, float]  # x1, y1, x2, y2
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DARK_TEXT_ON = {ORANGE, SKY, YELLOW, PURPLE, GREEN}  # white text would not stand out on these


def show(figure: Figure, alt: str, dpi: int = 72) -> None:
    """Displays a figure once, as a PNG with alternative text, and the same text below it for those who open it.

    JupyterLab leaves the alternative text of pictures out of its page, so a foldable description stands beside each.
    Raises ValueError for an empty description.
    """
    from IPython.display import HTML, display
    from IPython.display import Image as Picture

    if not (alt or "").strip():
        raise ValueError("a figure needs an alternative text: say what one sees and what it shows.")
    display(Picture(png_bytes(figure, dpi), format="png", alt=alt))
    display(HTML(f"<details><summary>Text description</summary>{html.escape(alt)}</details>"))
    close(figure)


def close(figure: Figure) -> None:
    """Closes a figure made with pyplot, so that the notebook does not show it a second time."""
    import matplotlib.pyplot as plt

    plt.close(figure)


def png_bytes(figure: Figure, dpi: int = 72) -> bytes:
    """The figure as PNG of 256 colours, the same bytes for the same picture (no date, no version in it).

    With all its colours a page of photographs would make a notebook three times as large.
    """
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    Image.open(buffer).convert("RGB").quantize(256).save(small, format="PNG", optimize=True)
    return small.getvalue()


def new_figure(columns: int = 1, rows: int = 1, width: float = 4.0, height: float = 4.0, **options: Any
               ) -> tuple[Figure, np.ndarray]:
    """A figure that only `show` will show, and its axes as a (rows, columns) array. Sizes of one panel in inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.atleast_1d(figure.subplots(rows, columns, squeeze=False, **options))


def class_color(label: int) -> str:
    """The colour of a class, by its label 1, 2, ..."""
    return PALETTE[(int(label) - 1) % len(PALETTE)]


def draw_image(ax: Axes, image: Tensor, title: str = "") -> Axes:
    """A photograph (3, H, W) or (H, W) in [0, 1] without ticks, in pixel coordinates with 0 at the outer edge."""
    height, width = image.shape[-2:]
    pixels = image.detach().cpu().float().clamp(0, 1)
    ax.imshow(pixels.permute(1, 2, 0).numpy() if image.ndim == 3 else pixels.numpy(), cmap="gray", vmin=0, vmax=1,
              extent=(0, width, height, 0), interpolation="nearest" if max(height, width) < 100 else "antialiased")
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    ax.set_title(title, fontsize=13)
    return ax


def draw_boxes(ax: Axes, boxes: Tensor, labels: Tensor | None = None, scores: Tensor | None = None,
               classes: Sequence[str] | None = None, colors: Sequence[str] | None = None, linestyle: str = "-",
               linewidth: float = 2.5) -> Axes:
    """Boxes (N, 4) xyxy pixels with class name and score on a plate that stays inside the picture.

    labels (N,) choose the colours unless `colors` names them; a box has a dark outline, to be seen on any background.
    Raises ValueError for boxes of another shape and for a label that `classes` does not name.
    """
    boxes = torch.as_tensor(boxes)
    if boxes.numel() and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise ValueError(f"boxes must be (N, 4), not {tuple(boxes.shape)}.")
    taken: list[Extent] = []
    for i, (x1, y1, x2, y2) in enumerate(boxes.reshape(-1, 4).tolist()):
        label = int(labels[i]) if labels is not None else 1
        if classes is not None and not 0 <= label < len(classes):
            raise ValueError(f"label {label} has no name: there are {len(classes)} classes.")
        color = colors[i % len(colors)] if colors else class_color(label)
        outline = withStroke(linewidth=linewidth + 1.5, foreground="#000000A0")  # thin lines go without
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=linewidth,
                               linestyle=linestyle, path_effects=[outline] if linewidth >= 1.5 else []))
        words = [classes[label]] if classes is not None else []
        words += [f"{float(scores[i]):.2f}"] if scores is not None else []
        if words:
            taken.append(_plate(ax, (x1, y1, x2, y2), " ".join(words), color, taken))
    return ax


def draw_masks(ax: Axes, masks: Tensor, labels: Tensor | None = None, opacity: float = 0.5) -> Axes:
    """Masks (N, H, W) bool as coloured veils with an outline."""
    for i, mask in enumerate(masks.cpu().numpy()):
        color = class_color(int(labels[i])) if labels is not None else PALETTE[i % len(PALETTE)]
        red, green, blue = (int(color[j : j + 2], 16) / 255 for j in (1, 3, 5))
        veil = np.zeros((*mask.shape, 4))
        veil[mask.astype(bool)] = (red, green, blue, opacity)
        height, width = mask.shape
        ax.imshow(veil, extent=(0, width, height, 0))
        if mask.any() and not mask.all():
            ax.contour(np.arange(width) + 0.5, np.arange(height) + 0.5, mask, levels=[0.5], colors=color, linewidths=2)
    return ax


def draw_keypoints(ax: Axes, keypoints: Tensor, labels: Tensor | None = None) -> Axes:
    """Keypoints (N, P, 3) as x, y in pixels and visibility: in each object a marker of its own for each point.

    Points with visibility 0 are left out. labels (N,) choose the colours.
    """
    for i, points in enumerate(keypoints.tolist()):
        color = class_color(int(labels[i])) if labels is not None else PALETTE[i % len(PALETTE)]
        for j, (x, y, visible) in enumerate(points):
            if visible > 0:
                ax.plot(x, y, MARKERS[j % len(MARKERS)], color=color, markeredgecolor="white", markersize=9, zorder=6)
    return ax


def draw_heat_map(ax: Axes, image: Tensor, heat: Tensor, title: str = "", opacity: float = 0.6) -> Axes:
    """A map (h, w) of any resolution over a photograph (3, H, W), with a colour bar. viridis reads in grey, too."""
    draw_image(ax, image, title)
    height, width = image.shape[-2:]
    picture = ax.imshow(heat.detach().cpu().numpy(), extent=(0, width, height, 0), cmap="viridis", alpha=opacity)
    ax.figure.colorbar(picture, ax=ax, shrink=0.8)  # type: ignore[union-attr]
    return ax


def draw_precision_recall(ax: Axes, precision: Tensor, recall: Tensor, name: str = "", index: int = 0) -> Axes:
    """The steps of precision against recall, and the envelope (best precision at this recall or higher) dashed."""
    precision, recall = torch.as_tensor(precision), torch.as_tensor(recall)
    color = PALETTE[index % len(PALETTE)]
    ax.plot(recall, precision, color=color, marker=MARKERS[index % len(MARKERS)], label=name or "precision")
    envelope = precision.flip(0).cummax(0).values.flip(0)
    ax.step(recall, envelope, where="pre", color=color, linestyle="--", label=f"{name} envelope".strip())
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
    return ax


def images_figure(images: Sequence[Tensor], titles: Sequence[str] | None = None, columns: int = 4, width: float = 3.2
                  ) -> tuple[Figure, list[Axes]]:
    """Photographs side by side; the axes come back so that boxes can be drawn on them."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, grid = new_figure(columns, rows, width, width * images[0].shape[-2] / images[0].shape[-1] + 0.4)
    axes = list(grid.flat)
    for i, ax in enumerate(axes):
        if i < len(images):
            draw_image(ax, images[i], titles[i] if titles else "")
        else:
            ax.axis("off")
    return figure, axes[: len(images)]


def detections_figure(images: Sequence[Tensor], detections: Sequence[Mapping[str, Tensor]], classes: Sequence[str],
                      threshold: float = 0.5, title: str = "", targets: Sequence[Mapping[str, Any]] | None = None
                      ) -> Figure:
    """Detections above a score threshold; with targets, the true boxes as dashed white lines below them.

    Masks (N, 1, H, W) are drawn where they reach 0.5, and keypoints (N, P, 3), where detections carry them.
    """
    figure, axes = images_figure(images)
    for i, (ax, detection) in enumerate(zip(axes, detections, strict=True)):
        if targets is not None:
            draw_boxes(ax, targets[i]["boxes"], colors=["#FFFFFF"], linestyle="--", linewidth=1.5)
        shown = detection["scores"] >= threshold
        if "masks" in detection:
            draw_masks(ax, detection["masks"][shown][:, 0] >= 0.5, detection["labels"][shown])
        if "keypoints" in detection:
            draw_keypoints(ax, detection["keypoints"][shown], detection["labels"][shown])
        draw_boxes(ax, detection["boxes"][shown], detection["labels"][shown], detection["scores"][shown], classes)
    figure.suptitle(title, fontsize=15)
    return figure


def curves_figure(x: Sequence[float], curves: Mapping[str, Sequence[float]], xlabel: str = "", ylabel: str = "",
                  title: str = "", log_x: bool = False, spread: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """Lines with a legend, told apart by colour, dash and marker; `spread` adds a band of plus and minus that much."""
    figure, grid = new_figure(width=7, height=4)
    ax = grid[0, 0]
    for i, (name, values) in enumerate(curves.items()):
        few = len(values) <= 25
        ax.plot(x, values, color=PALETTE[i % len(PALETTE)], linestyle=DASHES[i % len(DASHES)], linewidth=2.5,
                label=name, marker=MARKERS[i % len(MARKERS)] if few else None, markersize=7)
        if spread and name in spread:
            low, high = (np.asarray(values) + sign * np.asarray(spread[name]) for sign in (-1, 1))
            ax.fill_between(x, low, high, color=PALETTE[i % len(PALETTE)], alpha=0.2)
    if log_x:
        ax.set_xscale("log")
        ax.set_xticks(list(x), [f"{value:g}" for value in x])
        ax.minorticks_off()
    finish_axes(ax, xlabel, ylabel, title)
    return figure


def bars_figure(bars: Mapping[str, Sequence[float]], ylabel: str = "", title: str = "", groups: Sequence[str] = ()
                ) -> Figure:
    """One bar per name, the mean of its values, with every value (seed) as a dot on it.

    With `groups`, each name holds one list of values per group and the bars of a group stand side by side.
    """
    names = list(bars)
    groups = groups or ("",)
    figure, grid = new_figure(width=max(5.0, 1.1 * len(names) * len(groups) + 2), height=4)
    ax = grid[0, 0]
    width = 0.8 / len(names) if len(groups) > 1 else 0.6
    for i, name in enumerate(names):
        for g in range(len(groups)):
            values = np.asarray(bars[name][g] if len(groups) > 1 else bars[name], dtype=float).reshape(-1)
            place = g + (i - (len(names) - 1) / 2) * width if len(groups) > 1 else i
            ax.bar(place, values.mean(), width * 0.92, color=PALETTE[i % len(PALETTE)], edgecolor="white",
                   hatch=("", "//", "..", "xx")[i % 4], label=name if g == 0 and len(groups) > 1 else None)
            ax.plot([place] * len(values), values, "o", color="black", markersize=4)
            ax.annotate(f"{values.mean():.3f}", (place, max(values.max(), 0)), ha="center", va="bottom", fontsize=10,
                        xytext=(0, 4), textcoords="offset points")
    ticks = groups if len(groups) > 1 else names
    ax.set_xticks(range(len(ticks)), ticks)
    ax.margins(y=0.15)
    finish_axes(ax, "", ylabel, title, legend=len(groups) > 1)
    return figure


def finish_axes(ax: Axes, xlabel: str, ylabel: str, title: str, legend: bool = True) -> None:
    """Title, labels, grid and legend in the sizes of this collection."""
    ax.set_xlabel(xlabel, fontsize=12)
    ax.set_ylabel(ylabel, fontsize=12)
    ax.set_title(title, fontsize=14)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    if legend:
        ax.legend(frameon=False, fontsize=11)


def _plate(ax: Axes, box: Extent, text: str, color: str, taken: Sequence[Extent]) -> Extent:
    """A name plate above a box; inside or below it where the picture ends or a plate stands already. Its extent."""
    right = ax.get_xlim()[1]
    width, height = _plate_size(ax, text)
    fits = box[0] + width <= right
    y, side, extent = _plate_place(ax, box, (box[0] if fits else right - width, width, height), taken)
    ax.text(box[0] if fits else right, y, text, fontsize=10, fontweight="bold", ha="left" if fits else "right", va=side,
            color="black" if color in DARK_TEXT_ON or color == "#FFFFFF" else "white", clip_on=True, zorder=5,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.5})
    return extent


def _plate_size(ax: Axes, text: str) -> tuple[float, float]:
    """About the width and height of a plate with bold letters of 10 points, in pixels of the picture."""
    panel, dpi = ax.get_window_extent(), ax.figure.dpi  # before the layout: rather too small
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    point = max((right - left) / panel.width, (bottom - top) / panel.height) * dpi / 72
    return point * (6.8 * len(text) + 3), point * 15


def _plate_place(ax: Axes, box: Extent, plate: tuple[float, float, float], taken: Sequence[Extent]
                 ) -> tuple[float, str, Extent]:
    """Where a plate (left end, width, height) stands best: its anchor's y, the side it hangs by, and its extent."""
    left, width, height = plate
    above = [(y, "bottom", (left, y - height, left + width, y)) for y in (box[1], box[3])]
    below = [(y, "top", (left, y, left + width, y + height)) for y in (box[1], box[3])]
    bottom, top = ax.get_ylim()
    places = [above[0], *below, above[1]]
    inside = [place for place in places if place[2][1] >= top and place[2][3] <= bottom] or [below[0]]
    return next((place for place in inside if not any(_overlap(place[2], other) for other in taken)), inside[0])


def _overlap(a: Extent, b: Extent) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
