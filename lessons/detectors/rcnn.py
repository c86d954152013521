"""R-CNN: regions with CNN features (Girshick et al., CVPR 2014).

    image -> propose -> warp -> CNN features -> one SVM per class -> non-maximum suppression -> box regression

The CNN is fine-tuned by gradient descent (`RCNN.forward` in training mode); afterwards SVMs and box regressors are
fitted to its features (`train_svms`, `train_box_regressors`). All are stored in the model: one file holds a detector.
N counts proposals, K classes without the background, G true boxes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.backbones.alexnet import Features, SmallAlexNet
from lessons.boxes import box_iou, clip_boxes_to_image
from lessons.coding import decode_boxes, encode_boxes
from lessons.data.sample import Detections, Target
from lessons.nms import batched_nms
from lessons.proposals import selective_search

POSITIVES, BACKGROUNDS = 32, 96  # crops in a batch of fine-tuning (section 2.3)
FEATURE_NORM = 20.0  # features are scaled to this mean length, for which the constants C and lambda are meant
LAMBDA = 1000.0  # of the ridge regression (appendix C)
NEAR = 0.6  # IoU from which a proposal is near enough to learn box regression from (appendix C)


class DescribedRegions(NamedTuple):
    """What SVMs and box regressors learn of one training image: N regions, the G true boxes first, and M near pairs.

    fc7: (N, F). overlaps: (N, K), see `class_overlaps`. labels: (G,). Of the regions that overlap an object by more
    than 0.6: pool5 (M, P), their boxes and their objects' boxes (M, 4), the objects' labels (M,).
    """

    fc7: Tensor
    overlaps: Tensor
    labels: Tensor
    pool5: Tensor
    near: Tensor
    objects: Tensor
    near_labels: Tensor


class RCNN(nn.Module):
    """The detector. In training mode a classifier of crops is fine-tuned; in evaluation mode SVMs detect.

    backbone: classifies crops into K + 1 classes, background first. context_padding: pixels of the image around a
    proposal that a crop shows on each side, counted in the crop (16 of 227 in the paper). Of the proposals of an image
    the first `max_proposals` are looked at; `propose` makes them.
    """

    mean: Tensor
    svm_weight: Tensor
    svm_bias: Tensor
    box_weight: Tensor
    box_bias: Tensor
    feature_norms: Tensor

    def __init__(self, backbone: SmallAlexNet, context_padding: int = 4, max_proposals: int = 200,
                 propose: Callable[[Tensor], Tensor] = selective_search) -> None:
        super().__init__()
        self.backbone, self.propose = backbone, propose
        self.context_padding, self.max_proposals = context_padding, max_proposals
        classes = backbone.fc8.out_features - 1
        self.register_buffer("mean", torch.full((3,), 0.5))  # colour of the training images
        self.register_buffer("feature_norms", torch.ones(2))  # mean length of pool5 and fc7
        self.register_buffer("svm_weight", torch.zeros(classes, backbone.fc7.out_features))
        self.register_buffer("svm_bias", torch.full((classes,), -1.0))
        self.register_buffer("box_weight", torch.zeros(classes, 4, backbone.fc6.in_features))
        self.register_buffer("box_bias", torch.zeros(classes, 4))

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
                ) -> dict[str, Tensor] | list[Detections]:
        """Training: the loss of one batch of crops. Evaluation: detections, best first.

        images: each (3, H, W) in [0, 1]. Where a target has "proposals" (N, 4), Selective Search is spared.
        Detections have boxes (M, 4) xyxy pixels inside the image, labels (M,) from 1, scores (M,), the SVMs' margins:
        above 0 means "yes". Raises ValueError in training without targets.
        """
        if not self.training:
            return [self.detect(image, *self.regions(image)) for image in images]
        if targets is None:
            raise ValueError("in training R-CNN needs targets.")
        crops, labels = self.fine_tuning_batch(images, targets)
        return {"loss_classifier": F.cross_entropy(self.backbone(crops), labels)}

    # --- training the CNN ----------------------------------------------------------------------------------------

    def fine_tuning_batch(self, images: Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """32 crops of objects and 96 of background out of all proposals of the images, (128, 3, S, S) and (128,)."""
        proposals = [self.proposals(image, target) for image, target in zip(images, targets, strict=True)]
        labels = torch.cat([fine_tuning_labels(self.overlaps(boxes, target))
                            for boxes, target in zip(proposals, targets, strict=True)])
        chosen = sample_fine_tuning_batch(labels)
        owner = torch.cat([torch.full((len(boxes),), i) for i, boxes in enumerate(proposals)]).to(chosen.device)[chosen]
        boxes = torch.cat(proposals)[chosen]
        order = owner.argsort(stable=True)
        crops = torch.cat([self.warp(image, boxes[owner == i]) for i, image in enumerate(images)])
        mirror = torch.rand(len(crops), 1, 1, 1, device=crops.device) < 0.5
        return torch.where(mirror, crops.flip(3), crops), labels[chosen[order]]

    def proposals(self, image: Tensor, target: Target) -> Tensor:
        """The proposals of a training image, its true boxes among them."""
        given = target.get("proposals")
        found = self.propose(image)[: self.max_proposals] if given is None else torch.as_tensor(given)
        return torch.cat([torch.as_tensor(target["boxes"]), found])

    def overlaps(self, boxes: Tensor, target: Target) -> Tensor:
        """(N, K), see `class_overlaps`."""
        return class_overlaps(boxes, target["boxes"], target["labels"], len(self.svm_bias))

    # --- detecting -----------------------------------------------------------------------------------------------

    def warp(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Crops as the backbone wants them, (N, 3, S, S), the mean colour subtracted."""
        crops = warp_crops(image, boxes, self.backbone.crop_size, self.context_padding, self.mean)
        return crops - self.mean[:, None, None]

    def features(self, image: Tensor, boxes: Tensor) -> Features:
        """CNN features of each box: one pass per box, R-CNN's great cost."""
        parts = [self.backbone.features(self.warp(image, part)) for part in boxes.split(256)]
        return Features(*(torch.cat(layer) for layer in zip(*parts, strict=True)))

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


# --- crops -------------------------------------------------------------------------------------------------------


def enlarge_for_context(boxes: Tensor, size: int, padding: int) -> Tensor:
    """Boxes grown about their centres so that, warped to `size` pixels, the old box ends `padding` pixels inside.

    The padding is measured in the WARPED frame (appendix A): every box grows by size / (size - 2 padding), 1.164 for
    the paper's 227 and 16, whatever its own size. Raises ValueError unless 0 <= 2 padding < size.
    """
    if not 0 <= 2 * padding < size:
        raise ValueError(f"a padding of {padding} leaves nothing of a crop of {size} pixels.")
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (size / (size - 2 * padding))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre - half, centre + half], 1)


def warp_crops(image: Tensor, boxes: Tensor, size: int, context_padding: int = 0, fill: Tensor | None = None) -> Tensor:
    """Stretches every box, with some context, to a square of size x size pixels (section 2.1 and appendix A).

    image: (C, H, W). boxes: (N, 4) xyxy pixels, which may reach beyond the image. Returns (N, C, size, size), sampled
    bilinearly; what lies outside the image has the colour `fill` (C,), by default the image's mean. Differentiable
    with respect to image and boxes. Raises ValueError for boxes without width or height, or with NaN.
    """
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        bad = boxes[~(boxes[:, 2:] > boxes[:, :2]).all(1)][0].tolist()
        raise ValueError(f"box {bad} (xyxy pixels) has no area to warp.")
    fill = image.mean((1, 2)) if fill is None else fill
    x1, y1, x2, y2 = enlarge_for_context(boxes, size, context_padding).T[..., None]
    steps = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size  # pixel centres, 0 .. 1
    x = (x1 + (x2 - x1) * steps) * 2 / image.shape[2] - 1  # (N, size), -1 .. 1 of the image
    y = (y1 + (y2 - y1) * steps) * 2 / image.shape[1] - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)  # (N, size, size, 2)
    # one tall picture of all crops, so that the image is not copied for each of them
    tall = F.grid_sample((image - fill[:, None, None])[None], grid.reshape(1, -1, size, 2), align_corners=False)
    return tall[0].unflatten(1, (len(boxes), size)).transpose(0, 1) + fill[:, None, None]


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


# --- SVMs and box regression -------------------------------------------------------------------------------------


@torch.no_grad()
def describe_regions(model: RCNN, image: Tensor, target: Target) -> DescribedRegions:
    """CNN features of a training image's true boxes and proposals, with what the labels are made of."""
    boxes, truth = model.proposals(image, target), torch.as_tensor(target["boxes"])
    labels = torch.as_tensor(target["labels"])
    features = model.features(image, boxes)
    best, nearest = box_iou(boxes, truth).max(1) if len(truth) else (boxes.new_zeros(len(boxes)),) * 2
    near = (best > NEAR).nonzero()[:, 0]
    nearest = nearest[near].long()
    return DescribedRegions(features.fc7, model.overlaps(boxes, target), labels, features.pool5.flatten(1)[near],
                            boxes[near], truth[nearest], labels[nearest])


def set_feature_norms(model: RCNN, regions: Sequence[DescribedRegions]) -> None:
    """Measures the mean length of pool5 and fc7 features, by which they are scaled from then on."""
    for i, layer in enumerate(("pool5", "fc7")):
        norms = torch.cat([getattr(region, layer).norm(dim=1) for region in regions])
        model.feature_norms[i] = norms.mean().clamp(min=1e-6) if len(norms) else 1.0


def train_svms(model: RCNN, regions: Sequence[DescribedRegions]) -> None:
    """Fits one SVM per class to the fc7 features of training images, at the scale that `set_feature_norms` found."""
    scale = FEATURE_NORM / model.feature_norms[1]
    model.svm_weight[:], model.svm_bias[:] = fit_svms([region.fc7 * scale for region in regions], regions)


def fit_svms(features: Sequence[Tensor], regions: Sequence[DescribedRegions], negative_below: float = 0.3,
             portions: int = 10) -> tuple[Tensor, Tensor]:
    """One SVM per class, with hard-negative mining in one pass over the images (section 2.3).

    features: (N, F) for each image's regions, of about length 20. Returns weights (K, F) and biases (K,); a class
    without any object gets a constant score of -1.
    """
    classes = regions[0].overlaps.shape[1]
    weight, bias = features[0].new_zeros(classes, features[0].shape[1]), features[0].new_full((classes,), -1.0)
    for k in range(classes):
        positives, negatives = svm_examples(features, regions, k, negative_below)
        if len(positives):
            size = -(-len(negatives) // portions)
            batches = [torch.cat(negatives[i:i + size]) for i in range(0, len(negatives), size)]
            weight[k], bias[k] = mine_hard_negatives(positives, batches)
    return weight, bias


def svm_examples(features: Sequence[Tensor], regions: Sequence[DescribedRegions], k: int, negative_below: float = 0.3
                 ) -> tuple[Tensor, list[Tensor]]:
    """What teaches the SVM of class k + 1: (P, F) positives, and the negatives (M_i, F) of each image.

    Positive are the true boxes alone, negative the regions below IoU 0.3 with every object of the class; what lies
    between is left out. Fine-tuning labels otherwise: all from IoU 0.5 are positive, since a CNN needs many.
    """
    positives = [rows[: len(region.labels)][region.labels == k + 1]
                 for rows, region in zip(features, regions, strict=True)]
    negatives = [rows[region.overlaps[:, k] < negative_below] for rows, region in zip(features, regions, strict=True)]
    return torch.cat(positives), negatives


def train_box_regressors(model: RCNN, regions: Sequence[DescribedRegions]) -> None:
    """One ridge regression per class, from the pool5 features of proposals near an object (appendix C)."""
    scale = FEATURE_NORM / model.feature_norms[0]
    pool5, near, objects, labels = (torch.cat([getattr(region, name) for region in regions])
                                    for name in ("pool5", "near", "objects", "near_labels"))
    for k in range(len(model.box_bias)):
        of_class = labels == k + 1
        model.box_weight[k], model.box_bias[k] = fit_box_regression(
            pool5[of_class] * scale, near[of_class], objects[of_class])


def fit_svm(positives: Tensor, negatives: Tensor, c: float = 1e-3, positive_weight: float = 2.0
            ) -> tuple[Tensor, Tensor]:
    """One linear SVM with the constants of R-CNN's code: (F,) weights and a bias.

    positives: (P, F), negatives: (M, F). Departs from the code: the hinge loss is squared, because its solver always
    converges. Raises ValueError where either kind is missing.
    """
    from sklearn.svm import LinearSVC  # compiled; only needed here

    if not len(positives) or not len(negatives):
        raise ValueError(f"an SVM needs both kinds, got {len(positives)} positives and {len(negatives)} negatives.")
    svm = LinearSVC(C=c, dual=False, class_weight={1: positive_weight}, intercept_scaling=10.0)
    labels = [1] * len(positives) + [0] * len(negatives)
    svm.fit(torch.cat([positives, negatives]).cpu().numpy(), labels)
    return torch.from_numpy(svm.coef_[0]).to(positives), torch.tensor(svm.intercept_[0]).to(positives)


def mine_hard_negatives(positives: Tensor, batches: Sequence[Tensor], c: float = 1e-3) -> tuple[Tensor, Tensor]:
    """An SVM trained on all positives and on the negatives that are hard for it, in one pass (section 2.3).

    positives: (P, F). batches: negatives in portions, (M_i, F) each; the first is taken whole. Of every further portion
    those that score above -1, inside the margin or wrong, join the training set, what has become easy (below -1.2, as
    in R-CNN's code) leaves it, and the SVM is fitted anew. Returns weights (F,) and bias.
    """
    hard = batches[0]
    weight, bias = fit_svm(positives, hard, c)
    for batch in batches[1:]:
        found = batch[batch @ weight + bias > -1]
        if len(found):
            hard = torch.cat([found, hard[hard @ weight + bias >= -1.2]])
            weight, bias = fit_svm(positives, hard, c)
    return weight, bias


def fit_box_regression(features: Tensor, proposals: Tensor, objects: Tensor, ridge: float = LAMBDA
                       ) -> tuple[Tensor, Tensor]:
    """Ridge regression from pool5 features to box deltas of one class, in closed form (appendix C, equation 5).

    features: (M, F), scaled; proposals and objects: (M, 4) xyxy pixels, pairs with IoU > 0.6. Returns weights (4, F)
    and bias (4,): W = (X'X + ridge I)^-1 X'T, with X and T centred so that the bias is not shrunk. R-CNN's code also
    whitens T; as the solution is linear in T, that changes nothing. Without any pair, zeros: boxes stay as they are.
    """
    if len(features) == 0:
        return features.new_zeros(4, features.shape[1]), features.new_zeros(4)
    x, t = features.double(), encode_boxes(objects, proposals).double()
    x_mean, t_mean = x.mean(0), t.mean(0)
    x, t = x - x_mean, t - t_mean
    gram = x.T @ x
    gram.diagonal().add_(ridge)
    weight = torch.cholesky_solve(x.T @ t, torch.linalg.cholesky(gram)).T
    return weight.to(features), (t_mean - weight @ x_mean).to(features)


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
