"""Detecting with support vector machines: what R-CNN and SPPnet have in common.

    proposals -> features of each -> one SVM per class -> non-maximum suppression -> box regression

Both describe regions by a CNN that is fine-tuned as a classifier of regions; afterwards SVMs and box regressors are
fitted to its features (`lessons.detectors.svm_fitting`). All are stored in the model: one file holds a detector. They
differ in how the features come about. Sections and appendices are those of R-CNN (Girshick et al., CVPR 2014).
N counts proposals, K classes without the background, G true boxes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lessons.backbones.alexnet import Features
from lessons.boxes import box_iou, clip_boxes_to_image
from lessons.coding import decode_boxes
from lessons.data.sample import Detections, Target
from lessons.nms import batched_nms

POSITIVES, BACKGROUNDS = 32, 96  # regions in a batch of fine-tuning (section 2.3)
FEATURE_NORM = 20.0  # features are scaled to this mean length, for which the constants C and lambda are meant


class SVMDetector(nn.Module):
    """The detector but for its CNN. In training mode a classifier of regions is fine-tuned; in evaluation SVMs detect.

    A subclass says how regions are described (`features`) and what is fine-tuned (`fine_tuning_loss`). classes: K;
    pooled, hidden: lengths of pool5 and fc7. Of the proposals of an image the first `max_proposals` are looked at;
    `propose` makes them.
    """

    svm_weight: Tensor
    svm_bias: Tensor
    box_weight: Tensor
    box_bias: Tensor
    feature_norms: Tensor

    def __init__(self, classes: int, pooled: int, hidden: int, max_proposals: int, propose: Callable[[Tensor], Tensor]
                 ) -> None:
        super().__init__()
        self.max_proposals, self.propose = max_proposals, propose
        self.register_buffer("feature_norms", torch.ones(2))  # mean length of pool5 and fc7
        self.register_buffer("svm_weight", torch.zeros(classes, hidden))
        self.register_buffer("svm_bias", torch.full((classes,), -1.0))
        self.register_buffer("box_weight", torch.zeros(classes, 4, pooled))
        self.register_buffer("box_bias", torch.zeros(classes, 4))

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
                ) -> dict[str, Tensor] | list[Detections]:
        """Training: the loss of one batch of regions. Evaluation: detections, best first.

        images: each (3, H, W) in [0, 1]. Where a target has "proposals" (N, 4), Selective Search is spared.
        Detections have boxes (M, 4) xyxy pixels inside the image, labels (M,) from 1, scores (M,), the SVMs' margins:
        above 0 means "yes". Raises ValueError in training without targets.
        """
        if not self.training:
            return [self.detect(image, *self.regions(image)) for image in images]
        if targets is None:
            raise ValueError(f"in training {type(self).__name__} needs targets.")
        return {"loss_classifier": self.fine_tuning_loss(images, targets)}

    def fine_tuning_loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """The cross-entropy of one batch of `fine_tuning_samples`."""
        raise NotImplementedError

    @property
    def last_layer(self) -> nn.Linear:
        """The classifier of fine-tuning, for K + 1 classes; the SVMs take its place."""
        raise NotImplementedError

    def features(self, image: Tensor, boxes: Tensor) -> Features:
        """CNN features of each of (N, 4) boxes."""
        raise NotImplementedError

    # --- training ------------------------------------------------------------------------------------------------

    def fine_tuning_samples(self, images: Sequence[Tensor], targets: Sequence[Target]) -> tuple[list[Tensor], Tensor]:
        """32 objects and 96 backgrounds out of all proposals: boxes (N_i, 4) of each image, labels (128,) in order."""
        proposals = [self.proposals(image, target) for image, target in zip(images, targets, strict=True)]
        labels = torch.cat([fine_tuning_labels(self.overlaps(boxes, target))
                            for boxes, target in zip(proposals, targets, strict=True)])
        chosen = sample_fine_tuning_batch(labels)
        owner = torch.cat([torch.full((len(boxes),), i) for i, boxes in enumerate(proposals)]).to(chosen.device)
        chosen = chosen[owner[chosen].argsort(stable=True)]
        counts = owner[chosen].bincount(minlength=len(images)).tolist()
        return list(torch.cat(proposals)[chosen].split(counts)), labels[chosen]

    def proposals(self, image: Tensor, target: Target) -> Tensor:
        """The proposals of a training image, its true boxes among them."""
        given = target.get("proposals")
        found = self.propose(image)[: self.max_proposals] if given is None else torch.as_tensor(given)
        return torch.cat([torch.as_tensor(target["boxes"]), found])

    def overlaps(self, boxes: Tensor, target: Target) -> Tensor:
        """(N, K), see `class_overlaps`."""
        return class_overlaps(boxes, target["boxes"], target["labels"], len(self.svm_bias))

    # --- detecting -----------------------------------------------------------------------------------------------

    def score(self, features: Features) -> Tensor:
        """SVM margins, (N, K), for classes 1 .. K."""
        return features.fc7 * (FEATURE_NORM / self.feature_norms[1]) @ self.svm_weight.T + self.svm_bias

    def regress(self, features: Features, boxes: Tensor) -> Tensor:
        """The boxes that each class would make of (N, 4) proposals: (N, K, 4)."""
        flat = features.pool5.flatten(1) * (FEATURE_NORM / self.feature_norms[0])
        deltas = torch.einsum("nf,kcf->nkc", flat, self.box_weight) + self.box_bias
        return decode_boxes(deltas.flatten(1), boxes).reshape(deltas.shape)

    @torch.no_grad()
    def regions(self, image: Tensor, boxes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """All that is known before suppression: proposals (N, 4), scores (N, K), regressed boxes (N, K, 4)."""
        found = self.propose(image)[: self.max_proposals] if boxes is None else boxes
        features = self.features(image, found)
        return found, self.score(features), self.regress(features, found)

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals (N, 4) and their scores (N, K) for classes 1 .. K, before suppression and regression."""
        return self.regions(image)[:2]

    def detect(self, image: Tensor, boxes: Tensor, scores: Tensor, regressed: Tensor) -> Detections:
        """Suppression class by class, then box regression: the last two steps of the method, on `regions`' result."""
        return suppress(boxes, scores, regressed, (image.shape[-2], image.shape[-1]))


# --- labels and samples ------------------------------------------------------------------------------------------


def class_overlaps(proposals: Tensor, boxes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """For each proposal and each class 1 .. K the largest IoU with an object of that class, 0 where there is none.

    proposals: (N, 4), boxes: (G, 4), labels: (G,). Returns (N, K). Fine-tuning and SVMs both label by it.
    """
    iou = box_iou(proposals, boxes)
    columns = [iou[:, labels == k].amax(1) if (labels == k).any() else iou.new_zeros(len(proposals))
               for k in range(1, num_classes + 1)]
    return torch.stack(columns, 1)


def fine_tuning_labels(overlaps: Tensor, threshold: float = 0.5) -> Tensor:
    """(N, K) overlaps -> (N,) labels: the class of the object that a proposal covers best, if IoU >= 0.5; else 0."""
    best, label = overlaps.max(1)
    return torch.where(best >= threshold, label + 1, 0)


def sample_fine_tuning_batch(labels: Tensor, positives: int = POSITIVES, backgrounds: int = BACKGROUNDS,
                             generator: torch.Generator | None = None) -> Tensor:
    """Indices of `positives` random objects and `backgrounds` random backgrounds among (N,) labels (section 2.3).

    Positives are sampled far above their share, because they are rare. Drawn with replacement where there are too few;
    where there is none of a kind, the other kind fills the batch. Raises ValueError for no labels at all.
    """
    if len(labels) == 0:
        raise ValueError("there is no proposal to sample from.")
    inside, outside = (labels > 0).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
    if len(inside) == 0 or len(outside) == 0:
        return _draw(torch.arange(len(labels), device=labels.device), positives + backgrounds, generator)
    return torch.cat([_draw(inside, positives, generator), _draw(outside, backgrounds, generator)])


def _draw(pool: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    if len(pool) < count:
        return pool[torch.randint(len(pool), (count,), generator=generator).to(pool.device)]
    return pool[torch.randperm(len(pool), generator=generator)[:count].to(pool.device)]


# --- the last steps ----------------------------------------------------------------------------------------------


def suppress(boxes: Tensor, scores: Tensor, regressed: Tensor, image_size: tuple[int, int], iou_threshold: float = 0.3,
             score_threshold: float = -1.0, max_detections: int = 100) -> Detections:
    """Greedy suppression of each class on its own among the proposals, then each survivor takes its regressed box.

    boxes: (N, 4), scores: (N, K), regressed: (N, K, 4), image_size: (height, width). Candidates at or below
    `score_threshold` (an SVM's clear "no") are dropped first. Returns at most `max_detections`, best first.
    """
    row, column = (scores > score_threshold).nonzero(as_tuple=True)
    score = scores[row, column]
    keep = batched_nms(boxes[row], score, column, iou_threshold)[:max_detections]
    row, column = row[keep], column[keep]
    final = clip_boxes_to_image(regressed[row, column], image_size)
    inside = (final[:, 2:] > final[:, :2]).all(1)  # a box regressed out of the image has no area left
    return {"boxes": final[inside], "labels": column[inside] + 1, "scores": score[keep][inside]}
