"""Mask R-CNN (He et al., ICCV 2017): Faster R-CNN with one more head, which draws each object's outline.

    proposals -> RoIAlign 14 x 14 -> four convolutions -> enlarged to 28 x 28 -> one mask for each class

Three ideas (section 3): the features are cut out by RoIAlign, without rounding, so that mask and picture fit together;
masks are drawn by convolutions, which keep the places of things; and each class has a mask of its own, a sigmoid per
pixel, so that classes do not compete for pixels: what the object is, the other head has said.
The same head finds keypoints, each a picture with one bright pixel (section 5): see `KeypointRCNN`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.data.sample import Detections, Target
from lessons.detectors.fast_rcnn import FastRCNNHead, Samples
from lessons.detectors.faster_rcnn import FasterRCNN, RegionProposalNetwork
from lessons.images import ImageBatch, ImagePreparation, entry, in_originals, resize_keypoints
from lessons.keypoints import heatmaps_to_keypoints, keypoint_loss
from lessons.masks import mask_loss, mask_probabilities, paste_masks


class MaskHead(nn.Module):
    """Regions (R, C, 14, 14) -> mask logits (R, K, 28, 28) (He et al., figure 4 right)."""

    side = 14

    def __init__(self, channels: int, num_classes: int, hidden: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.convs = convolutions(channels, [hidden] * depth)
        self.enlarge = nn.ConvTranspose2d(hidden, hidden, 2, stride=2)
        self.logits = nn.Conv2d(hidden, num_classes, 1)
        for layer in (self.enlarge, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, regions: Tensor) -> Tensor:
        return self.logits(F.relu(self.enlarge(self.convs(regions))))


class KeypointHead(nn.Module):
    """Regions (R, C, 14, 14) -> heat maps (R, P, 56, 56), one per keypoint (He et al., section 5)."""

    side = 14

    def __init__(self, channels: int, num_keypoints: int, hidden: int = 512, depth: int = 8) -> None:
        super().__init__()
        self.convs = convolutions(channels, [hidden] * depth)
        self.enlarge = nn.ConvTranspose2d(hidden, num_keypoints, 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.enlarge.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.enlarge.bias)  # type: ignore[arg-type]

    def forward(self, regions: Tensor) -> Tensor:
        maps = self.enlarge(self.convs(regions))
        return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


class MaskRCNN(FasterRCNN):
    """FasterRCNN whose detections carry masks (N, 1, H, W), probabilities; targets need masks (G, H, W)."""

    def __init__(self, backbone: nn.Module, rpn: RegionProposalNetwork, box_head: FastRCNNHead, mask_head: MaskHead,
                 prepare: ImagePreparation) -> None:
        super().__init__(backbone, rpn, box_head, prepare)
        self.mask_head = mask_head

    def more_losses(self, features: list[Tensor], samples: Samples, targets: list[Target]) -> dict[str, Tensor]:
        """The mean cross-entropy of the pixels, in the mask of the right class, of the samples that are objects."""
        masks, labels = ([entry(target, key) for target in targets] for key in ("masks", "labels"))
        boxes, matched = objects_of(samples)
        logits = self.mask_head(self.box_head.pool(features, boxes, self.mask_head.side))
        return {"loss_mask": mask_loss(logits, boxes, masks, labels, matched)}

    def detect(self, features: list[Tensor], batch: ImageBatch) -> list[Detections]:
        """Masks are drawn for the detected boxes, which fit better than the proposals, and pasted into the picture."""
        found = self.find(features, batch)
        boxes = [d["boxes"] for d in found]
        logits = self.mask_head(self.box_head.pool(features, boxes, self.mask_head.side))
        masks = mask_probabilities(logits, [d["labels"] for d in found])
        return [{**d, "masks": paste_masks(mask, d["boxes"], original)}
                for d, mask, original in zip(in_originals(found, batch), masks, batch.originals, strict=True)]


class KeypointRCNN(FasterRCNN):
    """FasterRCNN whose detections carry keypoints (N, P, 3) and keypoints_scores (N, P); targets need keypoints."""

    def __init__(self, backbone: nn.Module, rpn: RegionProposalNetwork, box_head: FastRCNNHead,
                 keypoint_head: KeypointHead, prepare: ImagePreparation) -> None:
        super().__init__(backbone, rpn, box_head, prepare)
        self.keypoint_head = keypoint_head

    def more_losses(self, features: list[Tensor], samples: Samples, targets: list[Target]) -> dict[str, Tensor]:
        """The cross-entropy of each visible keypoint's place among all cells of its heat map."""
        keypoints = [entry(target, "keypoints") for target in targets]
        boxes, matched = objects_of(samples)
        logits = self.keypoint_head(self.box_head.pool(features, boxes, self.keypoint_head.side))
        return {"loss_keypoint": keypoint_loss(logits, boxes, keypoints, matched)}

    def detect(self, features: list[Tensor], batch: ImageBatch) -> list[Detections]:
        """Each keypoint is the brightest place of its heat map, enlarged to the size of the detected box."""
        found = self.find(features, batch)
        boxes = [d["boxes"] for d in found]
        maps = self.keypoint_head(self.box_head.pool(features, boxes, self.keypoint_head.side))
        counts = [len(b) for b in boxes]
        detections = []
        for d, b, m, size, original in zip(in_originals(found, batch), boxes, maps.split(counts), batch.sizes,
                                           batch.originals, strict=True):
            points, scores = heatmaps_to_keypoints(m, b)
            detections.append({**d, "keypoints": resize_keypoints(points, size, original), "keypoints_scores": scores})
        return detections


def objects_of(samples: Samples) -> tuple[list[Tensor], list[Tensor]]:
    """Of each picture's samples those that are objects: their proposals (P, 4), and which object each is (P,)."""
    chosen = [torch.where(labels > 0)[0] for labels in samples.labels]
    return ([p[i] for p, i in zip(samples.proposals, chosen, strict=True)],
            [m[i] for m, i in zip(samples.matched, chosen, strict=True)])


def convolutions(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """3 x 3 convolutions that keep the size, each followed by a ReLU."""
    layers: list[nn.Module] = []
    for before, width in zip([channels, *widths], widths, strict=False):
        convolution = nn.Conv2d(before, width, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers += [convolution, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
