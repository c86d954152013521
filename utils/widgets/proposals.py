"""The proposal explorer: what a region proposal network thinks of every anchor, and the best boxes it makes of them."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from lessons.boxes import box_iou
from lessons.detectors.faster_rcnn import FasterRCNN, RegionProposalNetwork
from lessons.images import ImageBatch, resize_boxes, shape
from utils.figures import GREEN, ORANGE, draw_boxes, draw_heat_map, draw_image, finish_axes, new_figure
from utils.widgets.base import LessonWidget, data_url, script

THRESHOLDS = ("0.5", "0.7")  # IoU from which an object counts as covered
SHAPES = {0.5: "wide", 1.0: "square", 2.0: "tall"}  # height / width


def heat_picture(heat: Tensor) -> Tensor:
    """A map (h, w) of numbers in [0, 1] as colours (3, h, w), viridis."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps["viridis"](heat.detach().cpu().clamp(0, 1).numpy())[..., :3]).permute(2, 0, 1)


class ProposalExplorer(LessonWidget):
    """A slider over a picture's proposals, on a heat map of one kind of anchor, with the recall of the true boxes.

    image (3, H, W); proposals (N, 4) xyxy pixels, best first; heats: objectness (h, w) in [0, 1] by the anchors' name;
    truth (G, 4) xyxy pixels. Everything is computed beforehand, so that it works without Python. `recall` holds, for
    each IoU threshold, the number of objects that the first 0, 1, 2, ... proposals cover.
    """

    _esm = script("proposals")
    proposals = traitlets.List().tag(sync=True)
    truth = traitlets.List().tag(sync=True)
    heats = traitlets.Dict().tag(sync=True)
    heat = traitlets.Unicode("").tag(sync=True)
    kept = traitlets.Int(10).tag(sync=True)
    iou_threshold = traitlets.Enum(list(THRESHOLDS), "0.5").tag(sync=True)
    first = traitlets.Dict().tag(sync=True)
    recall = traitlets.Dict().tag(sync=True)

    def __init__(self, image: Tensor, proposals: Tensor, heats: dict[str, Tensor], truth: Tensor, kept: int = 10
                 ) -> None:
        self._heats = heats
        best = box_iou(truth, proposals).cummax(dim=1).values if len(proposals) else torch.zeros(len(truth), 0)
        covered = {name: best >= float(name) for name in THRESHOLDS}  # (G, N): by the first n + 1
        super().__init__(image, proposals=proposals.tolist(), truth=truth.tolist(), kept=min(kept, len(proposals)),
                         heats={name: data_url(heat_picture(heat)) for name, heat in heats.items()},
                         heat=next(iter(heats), ""),
                         first={name: (~hit).sum(dim=1).tolist() for name, hit in covered.items()},
                         recall={name: [0, *hit.sum(dim=0).tolist()] for name, hit in covered.items()})

    @classmethod
    @torch.no_grad()
    def from_detector(cls, detector: FasterRCNN, image: Tensor, truth: Tensor, kept: int = 10) -> "ProposalExplorer":
        """What the detector's proposal network makes of a picture (3, H, W) with true boxes (G, 4) xyxy pixels."""
        batch, _ = detector.prepare([image])
        features = detector.backbone(batch.pixels)
        proposals = resize_boxes(detector.rpn(features, batch)[0][0], batch.sizes[0], shape(image))
        return cls(image, proposals, objectness_maps(detector.rpn, features, batch), truth, kept)

    def shown(self) -> tuple[int, int]:
        """How many objects the kept proposals cover, and how many there are."""
        return self.recall[self.iou_threshold][self.kept], len(self.truth)

    def static(self, counts: Sequence[int] = (10, 100)) -> Figure:
        """The heat map and the best proposals, twice, as a still figure."""
        figure, axes = new_figure(columns=1 + len(counts), width=4.2, height=4.2)
        self._draw_heat(axes[0, 0])
        for ax, count in zip(axes[0, 1:], counts, strict=True):
            count = min(count, len(self.proposals))
            draw_image(ax, self._pixels, f"best {count}: {self.recall[self.iou_threshold][count]} of {len(self.truth)} "
                                         f"objects at IoU {self.iou_threshold}")
            draw_boxes(ax, torch.tensor(self.proposals[:count]).reshape(-1, 4), colors=[ORANGE], linewidth=1)
            self._draw_truth(ax, count)
        return figure

    def _draw_heat(self, ax: Any) -> None:
        if not self.heat:
            finish_axes(draw_image(ax, self._pixels), "", "", "no heat map", legend=False)
            return
        draw_heat_map(ax, self._pixels, self._heats[self.heat], f"objectness, {self.heat}")
        ax.images[-1].set_clim(0, 1)

    def _draw_truth(self, ax: Any, count: int) -> None:
        for box, rank in zip(self.truth, self.first[self.iou_threshold], strict=True):
            draw_boxes(ax, torch.tensor([box]), colors=[GREEN if rank < count else "#FFFFFF"],
                       linestyle="-" if rank < count else "--")


def objectness_maps(rpn: RegionProposalNetwork, features: Sequence[Tensor], batch: ImageBatch) -> dict[str, Tensor]:
    """Objectness (h, w) in [0, 1] for each kind of anchor of each map, for the batch's first picture, no padding."""
    maps: dict[str, Tensor] = {}
    for feature, sizes in zip(features, rpn.sizes, strict=True):
        kinds = [f"{side:g} px {SHAPES.get(ratio, f'ratio {ratio:g}')}" for ratio in rpn.aspect_ratios
                 for side in sizes]  # in the order of the anchors
        objectness = rpn.predict([feature])[0][0].sigmoid().view(*shape(feature), len(kinds))
        rows, columns = (-(-side * cells // whole) for side, cells, whole in
                         zip(batch.sizes[0], shape(feature), shape(batch.pixels), strict=True))
        maps.update(zip(kinds, objectness[:rows, :columns].permute(2, 0, 1), strict=True))
    return maps
