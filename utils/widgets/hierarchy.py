"""Selective Search's regions merging, step by step, on the photograph."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from lessons.proposals import Hierarchy
from utils.figures import draw_boxes, images_figure
from utils.widgets.base import LessonWidget, data_url, script

GOLDEN = 0.618033988749895  # successive multiples are spread evenly, so that neighbouring regions differ in hue


def colour_regions(image: Tensor, labels: Tensor, opacity: float = 0.55) -> Tensor:
    """The photograph (3, H, W) under coloured regions with white borders; labels (H, W). A region keeps its colour."""
    from matplotlib.colors import hsv_to_rgb

    numbers = labels.double()
    hue, value = (numbers * GOLDEN) % 1, 0.6 + 0.4 * ((numbers * GOLDEN * 7) % 1)
    colour = torch.from_numpy(hsv_to_rgb(torch.stack([hue, torch.full_like(hue, 0.75), value], -1).numpy()))
    mixed = (1 - opacity) * image + opacity * colour.permute(2, 0, 1).to(image.dtype)
    border = torch.zeros_like(labels, dtype=torch.bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    return torch.where(border, torch.ones_like(mixed), mixed)


class HierarchyExplorer(LessonWidget):
    """A slider over stages of merging. `label_maps` (H, W) per stage, `boxes` xyxy pixels of what a stage has made.

    Without captions the stages are numbered, and without boxes none is drawn. Raises ValueError where there is no map,
    or where the number of captions or boxes differs from that of the maps.
    """

    _esm = script("hierarchy")
    frames = traitlets.List().tag(sync=True)
    boxes = traitlets.List().tag(sync=True)
    captions = traitlets.List().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(self, image: Tensor, label_maps: Sequence[Tensor],
                 boxes: Sequence[Sequence[float] | None] | None = None, captions: Sequence[str] | None = None) -> None:
        stages = len(label_maps)
        boxes = [None] * stages if boxes is None else boxes
        captions = [f"stage {i} of {stages}" for i in range(1, stages + 1)] if captions is None else captions
        if not stages or not stages == len(boxes) == len(captions):
            raise ValueError(f"{stages} label maps, {len(boxes)} boxes, {len(captions)} captions: want one of each "
                             "for every stage.")
        self._stages = [colour_regions(image, labels) for labels in label_maps]
        super().__init__(image, frames=[data_url(stage) for stage in self._stages], captions=list(captions),
                         boxes=[list(box) if box is not None else [] for box in boxes])

    @classmethod
    def from_hierarchy(cls, image: Tensor, hierarchy: Hierarchy, stages: int = 24) -> "HierarchyExplorer":
        """Stages spread over the merges of one strategy, closer together towards the end, where objects form."""
        merges = len(hierarchy.merges)
        left = torch.logspace(0, torch.log10(torch.tensor(merges + 1.0)).item(), stages).round().long()  # regions left
        steps = sorted({int(merges + 1 - count.clamp(1, merges + 1)) for count in left})
        boxes: list[Any] = [hierarchy.boxes[merges + step].tolist() if step else None for step in steps]
        captions = [f"{merges + 1 - step} regions after {step} merges; {merges + 1 + step} boxes proposed so far"
                    for step in steps]
        return cls(image, [hierarchy.labels(step) for step in steps], boxes, captions)

    def static(self, count: int = 4) -> Figure:
        """Some stages side by side as a still figure."""
        chosen = torch.linspace(0, len(self._stages) - 1, min(count, len(self._stages))).round().long().tolist()
        titles = [self.captions[i].split(";")[0].replace(" after", "\nafter") for i in chosen]
        figure, axes = images_figure([self._stages[i] for i in chosen], titles)
        for ax, i in zip(axes, chosen, strict=True):
            if self.boxes[i]:
                draw_boxes(ax, torch.tensor([self.boxes[i]]), colors=["#FFFFFF"])
        return figure
