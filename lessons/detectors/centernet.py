"""CornerNet (Law & Deng, ECCV 2018) and CenterNet (Duan et al., ICCV 2019): an object is a few keypoints, no anchor.

    pictures -> backbone -> one map, stride 4 -> for each kind of keypoint: heat of each class, offsets, tags

CornerNet pairs a top-left with a bottom-right corner of similar tag. It never looks at what lies between the two, and
so makes many boxes of nothing; CenterNet predicts a third keypoint, the centre, and keeps a pair only if there is one
in the middle of its box. It is the same network with one branch more, and pooling that looks into the object.
This is not "Objects as Points" (Zhou et al., 2019), which is called CenterNet too.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lessons.boxes import clip_boxes_to_image
from lessons.corners import KeypointMaps, decode_corners, decode_triplets
from lessons.data.sample import Detections, Target
from lessons.detectors.corner_head import KeypointHead
from lessons.heatmaps import gaussian_radius, keypoint_heat
from lessons.images import ImageBatch, ImagePreparation, in_originals
from lessons.losses import corner_focal_loss, pull_push_loss, smooth_l1_loss
from lessons.nms import soft_nms

Maps = Mapping[str, KeypointMaps]


class CornerNet(nn.Module):
    """The detector with corners alone, in torchvision's calling convention.

    model(images, targets) -> dict of losses in training; model(images) -> list of dict(boxes, labels, scores) in
    evaluation, boxes xyxy in the pixels of the given pictures. backbone: pictures (B, 3, H, W) -> list of maps, of
    which the first has stride `stride`. heads: the first detects, from the first map; further ones learn from the maps
    that follow (intermediate supervision of stacked hourglasses, section 3.5) and must see the same stride.
    Departs from the papers: no second look at the mirrored picture or at other scales, and "pixels" in `large` are
    those of the prepared pictures.
    """

    kinds: tuple[str, ...] = ("top_left", "bottom_right")
    top_k, max_distance = 100, 0.5  # corners of a picture, and difference of tags up to which two are a pair
    pull_weight, push_weight, offset_weight = 0.1, 0.1, 1.0
    min_iou = 0.3  # of a box with both corners one radius off; the heat's bumps are as wide as that allows
    nms_sigma, nms_score, max_detections = 0.5, 0.001, 100

    def __init__(self, backbone: nn.Module, heads: Sequence[KeypointHead], prepare: ImagePreparation, stride: int = 4
                 ) -> None:
        super().__init__()
        for head in heads:
            if set(head) != set(self.kinds):
                raise ValueError(f"a head for {', '.join(head)}: {type(self).__name__} wants {', '.join(self.kinds)}.")
        self.backbone, self.heads, self.prepare, self.stride = backbone, nn.ModuleList(heads), prepare, stride

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
                ) -> dict[str, Tensor] | list[Detections]:
        if not self.training:
            return self.detect(*self.predict(images))
        batch, adapted = self.prepare(images, targets, training=True)
        features = self.backbone(batch.pixels)
        return self.losses([head(one) for head, one in zip(self.heads, features, strict=False)], adapted)

    # --- learning ------------------------------------------------------------------------------------------------

    def losses(self, predictions: Sequence[Maps], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The weighted losses (section 3.5, equation 8 of CenterNet), averaged over the heads."""
        wanted = self.keypoints(targets)
        parts = [self.loss(maps, wanted, targets) for maps in predictions]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def keypoints(self, targets: Sequence[Target]) -> dict[str, list[Tensor]]:
        """Where each kind of keypoint lies: for each picture (G, 2), x and y in cells."""
        corners = [(target["boxes"] / self.stride).split(2, dim=1) for target in targets]
        places = {"top_left": [low for low, _ in corners], "bottom_right": [high for _, high in corners],
                  "centre": [(low + high) / 2 for low, high in corners]}
        return {kind: places[kind] for kind in self.kinds}

    def loss(self, maps: Maps, places: Mapping[str, list[Tensor]], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of one head's maps: of heat and offsets the sum over the kinds of keypoints, of tags the mean."""
        heat, offset, tags = [], [], []
        for kind, (logits, offsets, embeddings) in maps.items():
            cells = [cells_of(place, logits) for place in places[kind]]
            heat.append(corner_focal_loss(logits, self.wanted_heat(cells, targets, logits)))
            offset.append(offset_loss(offsets, cells, places[kind]))
            if embeddings is not None:
                tags.append([at(tag, cell)[:, 0] for tag, cell in zip(embeddings, cells, strict=True)])
        pull, push = (torch.stack(part).mean() for part in zip(*map(pull_push_loss, *tags), strict=True))
        return {"heat": torch.stack(heat).sum(), "offset": self.offset_weight * torch.stack(offset).sum(),
                "pull": self.pull_weight * pull, "push": self.push_weight * push}

    def wanted_heat(self, cells: Sequence[Tensor], targets: Sequence[Target], logits: Tensor) -> Tensor:
        """The target for heat (B, K, H, W), of the keypoints in `cells` (G, 2) of each picture."""
        heat = []
        for cell, target in zip(cells, targets, strict=True):
            low, high = (target["boxes"] / self.stride).split(2, dim=1)
            radii = gaussian_radius((high - low).ceil(), self.min_iou)
            heat.append(keypoint_heat(cell, target["labels"] - 1, radii, logits.shape[1:]))
        return torch.stack(heat)

    # --- detecting -----------------------------------------------------------------------------------------------

    def predict(self, images: Sequence[Tensor]) -> tuple[dict[str, KeypointMaps], ImageBatch]:
        """What the detecting head says of pictures, with probabilities for heat, and the batch that they make."""
        batch, _ = self.prepare(images)
        maps = self.heads[0](self.backbone(batch.pixels)[0])
        return {kind: one._replace(heat=one.heat.sigmoid()) for kind, one in maps.items()}, batch

    def detect(self, maps: Maps, batch: ImageBatch) -> list[Detections]:
        """Detections of each picture, best first, in its own pixels. maps: with probabilities for heat."""
        found = [self.suppress(pairs, size) for pairs, size in zip(self.decode(maps), batch.sizes, strict=True)]
        return in_originals(found, batch)

    def decode(self, maps: Maps) -> list[Detections]:
        """Boxes in cells of each picture, before NMS; labels from 0."""
        return decode_corners(maps["top_left"], maps["bottom_right"], self.top_k, self.max_distance)

    def suppress(self, found: Detections, size: tuple[int, int]) -> Detections:
        """Boxes in pixels after soft-NMS in each class, labels from 1, best first; none that lies outside the picture.

        found: as `decode` returns it; size: height and width of the picture, in whose padding corners can be found too.
        """
        boxes = clip_boxes_to_image(found["boxes"] * self.stride, size)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, labels, scores = boxes[inside], found["labels"][inside], found["scores"][inside]
        kept, lowered = [labels.new_zeros(0)], [scores[:0]]
        for label in labels.unique():
            own = torch.where(labels == label)[0]
            left, score = soft_nms(boxes[own], scores[own], sigma=self.nms_sigma, score_threshold=self.nms_score,
                                   method="gaussian")
            kept.append(own[left])
            lowered.append(score)
        keep, score = torch.cat(kept), torch.cat(lowered)
        best = score.argsort(descending=True, stable=True)[: self.max_detections]
        return {"boxes": boxes[keep[best]], "scores": score[best], "labels": labels[keep[best]] + 1}


class CenterNet(CornerNet):
    """CornerNet with centres: a pair of corners counts only if a centre lies in the middle of its box."""

    kinds = ("top_left", "bottom_right", "centre")
    top_k = 70
    large = 150.0  # pixels; in boxes of a larger square root of area "the middle" is a fifth, in others a third

    def decode(self, maps: Maps) -> list[Detections]:
        return decode_triplets(maps["top_left"], maps["bottom_right"], maps["centre"], self.top_k, self.max_distance,
                               self.large / self.stride)


def cells_of(places: Tensor, maps: Tensor) -> Tensor:
    """The cells (G, 2) int64, x and y, that hold these places; one on the map's far border is in its last cell."""
    last = torch.tensor([maps.shape[-1] - 1, maps.shape[-2] - 1], device=places.device)
    return places.floor().long().clamp(min=0).minimum(last)


def at(values: Tensor, cells: Tensor) -> Tensor:
    """What a map (C, H, W) says in cells (G, 2): (G, C)."""
    return values[:, cells[:, 1], cells[:, 0]].T


def offset_loss(offsets: Tensor, cells: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Smooth L1 between the maps (B, 2, H, W) and where in their cells the keypoints lie (equation 3), per keypoint."""
    found = torch.cat([at(offset, cell) for offset, cell in zip(offsets, cells, strict=True)])
    right = torch.cat([place - cell for place, cell in zip(places, cells, strict=True)])
    return smooth_l1_loss(found, right, reduction="sum") / max(1, len(right))
