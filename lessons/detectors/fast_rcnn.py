"""Fast R-CNN (Girshick, ICCV 2015): one pass over the picture, one network, one loss.

    feature maps, proposals -> RoI pooling -> two fully connected layers -> K class scores and 4K box deltas

(K counts the background, as in torchvision, so it has deltas, too, which nothing learns; the paper gives it none.)

What R-CNN did in three stages (fine-tuning, SVMs, regressors) is here one head with a multi-task loss: cross-entropy
for the class and smooth L1 for the box of that class (section 2.3). Each region's features are cut from a shared map.
The same head serves Faster R-CNN and Mask R-CNN; `FastRCNN` is the detector whose proposals come from outside.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.boxes import box_iou, clip_boxes_to_image, remove_small_boxes
from lessons.coding import decode_boxes, encode_boxes
from lessons.data.sample import Detections, Target
from lessons.images import ImagePreparation, entry, in_originals, resize_boxes
from lessons.losses import smooth_l1_loss
from lessons.matching import match_boxes, sample_balanced
from lessons.nms import batched_nms
from lessons.proposals import selective_search
from lessons.roi import multiscale_roi_align


class Samples(NamedTuple):
    """For each picture of a batch the proposals that are learnt from, and what they should become.

    proposals (S, 4) xyxy pixels; labels (S,), 0 for background; matched (S,), the object of each (0 for background);
    deltas (S, 4) from the proposal to its object's box.
    """

    proposals: list[Tensor]
    labels: list[Tensor]
    matched: list[Tensor]
    deltas: list[Tensor]


class FastRCNNHead(nn.Module):
    """Regions of feature maps -> classes and boxes (Girshick, section 2).

    channels: of the maps; num_classes: with background; strides: of the maps that are looked at, finest first; hidden:
    width of both layers. The attributes below are torchvision's values and may be changed on an instance.
    """

    high, low = 0.5, 0.5  # IoU from which a proposal is an object, below which background
    background_from = 0.0  # IoU from which background is learnt from; 0.1 in the paper, which so looks for hard ones
    batch_size, positive_fraction = 512, 0.25  # proposals of one picture in the loss
    weights = (10.0, 10.0, 5.0, 5.0)  # of the deltas, which makes their variance about 1
    score_threshold, nms_threshold, max_detections = 0.05, 0.5, 100
    min_side, beta = 1e-2, 1 / 9  # pixels; where smooth L1 turns straight
    canonical_size = 224  # pixels; a region of this size is taken from level 4 of a pyramid (FPN, equation 1)
    pooling: Callable[..., Tensor] = staticmethod(multiscale_roi_align)  # or multiscale_roi_pool, the paper's

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], hidden: int = 1024, side: int = 7
                 ) -> None:
        super().__init__()
        self.strides, self.side, self.num_classes = tuple(strides), side, num_classes
        self.fc6 = nn.Linear(channels * side**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.cls_score = nn.Linear(hidden, num_classes)
        self.bbox_pred = nn.Linear(hidden, 4 * num_classes)

    def forward(self, features: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K) and deltas (R, 4K) of all pictures' proposals, one picture after the other."""
        x = self.describe(features, proposals)
        return self.cls_score(x), self.bbox_pred(x)

    def describe(self, features: Sequence[Tensor], proposals: Sequence[Tensor]) -> Tensor:
        """(R, hidden): what the two fully connected layers make of each proposal's features."""
        x = self.pool(features, proposals).flatten(1)
        return F.relu(self.fc7(F.relu(self.fc6(x))))

    def pool(self, features: Sequence[Tensor], proposals: Sequence[Tensor], side: int | None = None) -> Tensor:
        """(R, C, side, side): each proposal from the level of its size."""
        return self.pooling(features[: len(self.strides)], proposals, side or self.side, self.strides,
                            canonical_size=self.canonical_size)

    def sample(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> Samples:
        """Proposals to learn from, a quarter of them objects if there are so many; the objects' own boxes are added.

        Raises ValueError for a label that is none of 1 .. num_classes - 1.
        """
        samples = Samples([], [], [], [])
        for boxes, target in zip(proposals, targets, strict=True):
            check_labels(entry(target, "labels"), self.num_classes)
            truth = target["boxes"].to(boxes.dtype)
            boxes = torch.cat([boxes, truth])
            iou = box_iou(truth, boxes)
            matches = match_boxes(iou, self.high, self.low)
            labels = class_of(matches, target["labels"])
            if self.background_from > 0 and len(truth):
                labels = labels.masked_fill((labels == 0) & (iou.amax(dim=0) < self.background_from), -1)
            chosen = torch.cat(sample_balanced(labels, self.batch_size, self.positive_fraction)).sort().values
            boxes, labels, matched = boxes[chosen], labels[chosen], matches[chosen].clamp(min=0)
            goals = truth[matched] if len(truth) else boxes  # what background should become does not matter
            for row, value in zip(samples, (boxes, labels, matched, encode_boxes(goals, boxes, self.weights)),
                                  strict=True):
                row.append(value)
        return samples

    def loss(self, features: Sequence[Tensor], samples: Samples) -> dict[str, Tensor]:
        """Cross-entropy over all samples and smooth L1 over the objects among them (Girshick, equations 1 to 3)."""
        logits, deltas = self(features, samples.proposals)
        labels, goals = torch.cat(samples.labels), torch.cat(samples.deltas)
        objects = torch.where(labels > 0)[0]
        own = deltas.view(-1, self.num_classes, 4)[objects, labels[objects]]  # the deltas of the right class
        box_loss = smooth_l1_loss(own, goals[objects], beta=self.beta, reduction="sum") / max(len(labels), 1)
        # of no sample at all the mean would be NaN
        class_loss = F.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0
        return {"loss_classifier": class_loss, "loss_box_reg": box_loss}

    def detect(self, features: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
               ) -> list[Detections]:
        """dict(boxes, labels, scores) for each picture of a batch, best first, boxes in the pixels of the batch."""
        logits, deltas = self(features, proposals)
        boxes = decode_boxes(deltas, torch.cat(list(proposals)), self.weights).view(-1, self.num_classes, 4)
        counts = [len(p) for p in proposals]
        return [self.choose(b, s, size) for b, s, size in
                zip(boxes.split(counts), logits.softmax(-1).split(counts), sizes, strict=True)]

    def choose(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        """The detections of one picture from boxes (N, K, 4) and probabilities (N, K): NMS in each class."""
        labels = torch.arange(1, scores.shape[1], device=scores.device).repeat(len(scores))
        boxes, scores = clip_boxes_to_image(boxes[:, 1:], size).reshape(-1, 4), scores[:, 1:].flatten()
        likely = scores > self.score_threshold
        boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
        large = remove_small_boxes(boxes, self.min_side)
        boxes, scores, labels = boxes[large], scores[large], labels[large]
        keep = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.max_detections]
        return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}


class FastRCNN(nn.Module):
    """The whole detector: a backbone, the head, and proposals from outside (section 2).

    model(images, targets) -> dict of losses in training; model(images) -> list of dict(boxes, labels, scores) in
    evaluation, boxes xyxy in the pixels of the given pictures. Proposals are a target's "proposals" (N, 4), or the
    argument of that name in evaluation, or else the first `max_proposals` that `propose` finds. backbone: pictures
    (B, 3, H, W) -> list of maps; the head sees the first `len(head.strides)` of them.
    """

    def __init__(self, backbone: nn.Module, box_head: FastRCNNHead, prepare: ImagePreparation,
                 max_proposals: int = 200, propose: Callable[[Tensor], Tensor] = selective_search) -> None:
        super().__init__()
        self.backbone, self.box_head, self.prepare = backbone, box_head, prepare
        self.max_proposals, self.propose = max_proposals, propose

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None,
                proposals: Sequence[Tensor] | None = None) -> dict[str, Tensor] | list[Detections]:
        batch, adapted = self.prepare(images, targets, self.training)
        if proposals is None:
            proposals = [self.proposals(image, target) for image, target in
                         zip(images, targets or [{}] * len(images), strict=True)]
        regions = [resize_boxes(own.to(image), *sizes) for own, image, *sizes in
                   zip(proposals, images, batch.originals, batch.sizes, strict=True)]
        features = self.backbone(batch.pixels)
        if self.training:
            return self.box_head.loss(features, self.box_head.sample(regions, adapted))
        return in_originals(self.box_head.detect(features, regions, batch.sizes), batch)

    def proposals(self, image: Tensor, target: Target) -> Tensor:
        """The proposals (N, 4) of a picture, xyxy in its pixels."""
        given = target.get("proposals")
        return self.propose(image)[: self.max_proposals] if given is None else torch.as_tensor(given)


def compress_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two thin layers that do nearly what one thick layer does, by truncated SVD (section 3.1, equation 5).

    The weights W (u, v) are about U diag(s) V', with the `rank` largest singular values; the first layer is diag(s) V'
    without a bias, the second U with the layer's own. rank * (u + v) weights take the place of u * v: fewer where
    rank < u v / (u + v). Of all matrices of this rank the product is nearest to W (Eckart and Young, 1936).
    Raises ValueError for a rank outside 1 .. min(u, v).
    """
    outputs, inputs = layer.weight.shape
    if not 1 <= rank <= min(outputs, inputs):
        raise ValueError(f"rank {rank} of weights ({outputs}, {inputs}): want 1 to {min(outputs, inputs)}.")
    u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    first, second = nn.Linear(inputs, rank, bias=False).to(u), nn.Linear(rank, outputs, layer.bias is not None).to(u)
    with torch.no_grad():
        first.weight.copy_(s[:rank, None] * v[:rank])
        second.weight.copy_(u[:, :rank])
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """ValueError for an object whose label (N,) is the background's, 0, or none of the num_classes."""
    strange = (labels < 1) | (labels >= num_classes)
    if strange.any():
        raise ValueError(f"a target has the label {labels[strange][0].item()}; this detector's objects have "
                         f"1 to {num_classes - 1}, 0 is the background.")


def class_of(matches: Tensor, labels: Tensor) -> Tensor:
    """The class (N,) of each box: its object's label, 0 for background (-1), -1 for what is neither (-2)."""
    if len(labels) == 0:
        return torch.zeros_like(matches)
    return torch.where(matches >= 0, labels[matches.clamp(min=0)], matches + 1)
