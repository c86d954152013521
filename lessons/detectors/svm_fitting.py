"""How the SVMs and box regressors of R-CNN and SPPnet are fitted to the CNN features of training images.

Sections and appendices are those of R-CNN (Girshick et al., CVPR 2014); SPPnet (He et al., ECCV 2014) follows it.
N counts proposals, K classes without the background, G true boxes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lessons.boxes import box_iou
from lessons.coding import encode_boxes
from lessons.data.sample import Target
from lessons.detectors.svm_detector import FEATURE_NORM, SVMDetector

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


@torch.no_grad()
def describe_regions(model: SVMDetector, image: Tensor, target: Target) -> DescribedRegions:
    """CNN features of a training image's true boxes and proposals, with what the labels are made of."""
    boxes, truth = model.proposals(image, target), torch.as_tensor(target["boxes"])
    labels = torch.as_tensor(target["labels"])
    features = model.features(image, boxes)
    best, nearest = box_iou(boxes, truth).max(1) if len(truth) else (boxes.new_zeros(len(boxes)),) * 2
    near = (best > NEAR).nonzero()[:, 0]
    nearest = nearest[near].long()
    return DescribedRegions(features.fc7, model.overlaps(boxes, target), labels, features.pool5.flatten(1)[near],
                            boxes[near], truth[nearest], labels[nearest])


def set_feature_norms(model: SVMDetector, regions: Sequence[DescribedRegions]) -> None:
    """Measures the mean length of pool5 and fc7 features, by which they are scaled from then on."""
    for i, layer in enumerate(("pool5", "fc7")):
        norms = torch.cat([getattr(region, layer).norm(dim=1) for region in regions])
        model.feature_norms[i] = norms.mean().clamp(min=1e-6) if len(norms) else 1.0


def train_svms(model: SVMDetector, regions: Sequence[DescribedRegions]) -> None:
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


def train_box_regressors(model: SVMDetector, regions: Sequence[DescribedRegions]) -> None:
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
