"""Faster R-CNN (Ren et al., NeurIPS 2015): the network proposes its own regions.

    pictures -> backbone -> feature maps -> region proposal network (RPN) -> proposals -> Fast R-CNN's head -> objects

The RPN slides over the feature maps. At each cell it looks at A anchors, boxes of fixed sizes and shapes, and says for
each whether there is an object (one number, "objectness") and how to move the anchor onto it (four numbers). The head
classifies the best of these boxes. Both use the same features, so proposals cost next to nothing.
With a pyramid (Lin et al., CVPR 2017) every level has anchors of one size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.anchors import by_anchor, pyramid_anchors
from lessons.boxes import box_iou, clip_boxes_to_image, remove_small_boxes
from lessons.coding import decode_boxes, encode_boxes
from lessons.data.sample import Detections, Target
from lessons.detectors.fast_rcnn import FastRCNNHead, Samples
from lessons.images import ImageBatch, ImagePreparation, in_originals, shape
from lessons.losses import smooth_l1_loss
from lessons.matching import match_boxes, sample_balanced
from lessons.nms import batched_nms


class RegionProposalNetwork(nn.Module):
    """Feature maps -> proposals (Ren et al., section 3.1).

    channels: of the maps; sizes: for each map the anchors' sizes (square root of area, pixels); aspect_ratios: height /
    width, the same for all maps. The attributes below are torchvision's values and may be changed on an instance.
    Raises ValueError for maps without sizes or with different numbers of them.
    """

    high, low = 0.7, 0.3  # IoU from which an anchor is an object, below which background (section 3.1.2)
    batch_size, positive_fraction = 256, 0.5  # anchors in the loss of one picture (section 3.1.3)
    before_nms, after_nms = {True: 2000, False: 1000}, {True: 2000, False: 1000}  # proposals, by self.training
    nms_threshold = 0.7  # section 3.3
    min_side, beta = 1e-3, 1 / 9  # pixels; where smooth L1 turns straight

    def __init__(self, channels: int, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float] = (0.5, 1, 2)
                 ) -> None:
        super().__init__()
        self.sizes, self.aspect_ratios = tuple(map(tuple, sizes)), tuple(aspect_ratios)
        if len(set(map(len, self.sizes))) != 1 or not self.sizes[0] or not self.aspect_ratios:
            raise ValueError(f"anchor sizes {self.sizes}, aspect ratios {self.aspect_ratios}: want one map or more, "
                             "all with equally many sizes, and a ratio.")
        self.before_nms, self.after_nms = dict(self.before_nms), dict(self.after_nms)  # to be changed on this one alone
        anchors = len(self.sizes[0]) * len(self.aspect_ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors, 1)
        for name, parameter in self.named_parameters():  # section 3.1.3
            nn.init.normal_(parameter, std=0.01 if name.endswith("weight") else 0.0)

    def forward(self, features: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Target] | None = None
                ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals, (N, 4) xyxy pixels of the batch for each picture, best first; in training its losses, too."""
        levels = self.anchors(features, batch)
        objectness, deltas = self.predict(features)
        anchors = torch.cat(levels)
        boxes = [decode_boxes(d, anchors) for d in deltas.detach()]  # proposals are taken as given further on
        counts = [len(level) for level in levels]
        proposals = [self.choose(b, o, counts, size)
                     for b, o, size in zip(boxes, objectness.detach(), batch.sizes, strict=True)]
        return proposals, self.loss(objectness, deltas, anchors, targets) if targets is not None else {}

    def anchors(self, features: Sequence[Tensor], batch: ImageBatch) -> list[Tensor]:
        """Anchors (H * W * A, 4) of each map, in the order of the predictions."""
        return pyramid_anchors(features, shape(batch.pixels), self.sizes, self.aspect_ratios)

    def predict(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Objectness logits (B, N) and deltas (B, N, 4) for the anchors of all maps together."""
        objectness, deltas = [], []
        for feature in features:
            hidden = F.relu(self.conv(feature))
            objectness.append(by_anchor(self.cls_logits(hidden), 1))
            deltas.append(by_anchor(self.bbox_pred(hidden), 4))
        return torch.cat(objectness, dim=1)[..., 0], torch.cat(deltas, dim=1)

    def choose(self, boxes: Tensor, objectness: Tensor, counts: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The proposals (K, 4) of one picture: the best of each level, inside the picture, after NMS in each level."""
        best, level = [], []
        for i, (start, logits) in enumerate(zip(offsets(counts), objectness.split(list(counts)), strict=True)):
            top = logits.topk(min(self.before_nms[self.training], len(logits))).indices
            best.append(top + start)
            level.append(torch.full_like(top, i))
        index, levels = torch.cat(best), torch.cat(level)
        boxes, scores = clip_boxes_to_image(boxes[index], size), objectness[index].sigmoid()
        large = remove_small_boxes(boxes, self.min_side)
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        return boxes[batched_nms(boxes, scores, levels, self.nms_threshold)[:self.after_nms[self.training]]]

    def loss(self, objectness: Tensor, deltas: Tensor, anchors: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the sampled anchors and smooth L1 of the positive ones (Ren et al., equation 1)."""
        logits, labels, found, wanted = [], [], [], []
        for logit, delta, target in zip(objectness, deltas, targets, strict=True):
            matches = self.assign(anchors, target["boxes"])
            positive, negative = sample_balanced(matches + 1, self.batch_size, self.positive_fraction)
            truth = target["boxes"].to(anchors.dtype)[matches[positive]]
            logits.append(logit[torch.cat([positive, negative])])
            labels.append(torch.cat([torch.ones_like(logit[positive]), torch.zeros_like(logit[negative])]))
            found.append(delta[positive])
            wanted.append(encode_boxes(truth, anchors[positive]))
        box_loss = smooth_l1_loss(torch.cat(found), torch.cat(wanted), beta=self.beta, reduction="sum")
        return {"loss_objectness": F.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(labels)),
                "loss_rpn_box_reg": box_loss / max(sum(map(len, labels)), 1)}

    def assign(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """The object (N,) of each anchor, -1 for background, -2 for neither; every object gets its best anchors."""
        return match_boxes(box_iou(boxes, anchors), self.high, self.low, allow_low_quality=True)


class FasterRCNN(nn.Module):
    """The whole detector, in torchvision's calling convention.

    model(images, targets) -> dict of losses in training; model(images) -> list of dict(boxes, labels, scores) in
    evaluation, boxes xyxy in the pixels of the given pictures. backbone: pictures (B, 3, H, W) -> list of maps, finest
    first; the head sees the first `len(head.strides)` of them.
    """

    def __init__(self, backbone: nn.Module, rpn: RegionProposalNetwork, box_head: FastRCNNHead,
                 prepare: ImagePreparation) -> None:
        super().__init__()
        self.backbone, self.rpn, self.box_head, self.prepare = backbone, rpn, box_head, prepare

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
                ) -> dict[str, Tensor] | list[Detections]:
        batch, adapted = self.prepare(images, targets, self.training)
        features = self.backbone(batch.pixels)
        if self.training:
            return self.losses(features, batch, adapted)
        return self.detect(features, batch)

    def losses(self, features: list[Tensor], batch: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        """The four losses of approximate joint training (Ren et al., section 3.2)."""
        proposals, losses = self.rpn(features, batch, targets)
        samples = self.box_head.sample(proposals, targets)
        return losses | self.box_head.loss(features, samples) | self.more_losses(features, samples, targets)

    def more_losses(self, features: list[Tensor], samples: Samples, targets: list[Target]) -> dict[str, Tensor]:
        """What a detector with a further head adds; here nothing."""
        return {}

    def detect(self, features: list[Tensor], batch: ImageBatch) -> list[Detections]:
        """Detections of each picture, best first, in its own pixels."""
        return in_originals(self.find(features, batch), batch)

    def find(self, features: list[Tensor], batch: ImageBatch) -> list[Detections]:
        """Detections of each picture, best first, in the pixels of the batch."""
        proposals, _ = self.rpn(features, batch)
        return self.box_head.detect(features, proposals, batch.sizes)


def offsets(counts: Sequence[int]) -> list[int]:
    """Where each level begins when all follow one another."""
    return [sum(counts[:i]) for i in range(len(counts))]
