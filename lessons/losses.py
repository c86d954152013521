"""Losses: what each detector pays for its mistakes.

First the ones that torchvision and torch have, for classes (focal), for pairs of boxes (the IoU family) and for numbers
(smooth L1); then masks (dice), CornerNet's heatmaps and embeddings, and DETR's loss on sets.

Logarithms of a sigmoid are computed as log-sigmoids, 1 - sigmoid(x) as sigmoid(-x): exact where p rounds to 0 or 1.
Bad targets, malformed boxes and tensors on two devices raise; NaN in a network's logits passes through into the loss,
as in torch.nn.functional, since mixed precision has to see it to skip that step. Half precision is computed in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.boxes import box_area, box_convert, generalized_box_iou
from lessons.devices import check_device
from lessons.matching import hungarian_match


def sigmoid_focal_loss(inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2,
                       reduction: str = "none") -> Tensor:
    """Cross-entropy that easy examples hardly enter: -alpha_t (1 - p_t)^gamma log p_t (Lin et al., ICCV 2017, eq. 5).

    inputs: logits of any shape. targets: of the same shape, in [0, 1], 1 for the class. p_t is the probability of what
    is right. alpha weighs class 1, 1 - alpha class 0; -1 weighs neither. reduction: none, mean or sum; RetinaNet sums
    and divides by the number of matched anchors. Returns the inputs' shape or a scalar; the mean of nothing is NaN.
    Departs from torchvision where its gradient is NaN: for gamma < 1 at logits so large that 1 - p_t rounds to 0, ours
    stays finite. No gradient flows to the targets.
    Raises ValueError for shapes that differ, a target or alpha outside [0, 1], a gamma not >= 0 and other reductions.
    """
    _check_targets(inputs, targets)
    if not (0 <= alpha <= 1 or alpha == -1) or not gamma >= 0:
        raise ValueError(f"alpha {alpha} with gamma {gamma}: want alpha in [0, 1] or -1, and gamma >= 0.")
    logits = _upcast(inputs)
    right = targets.detach().to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, right, reduction="none")  # to the bit where gamma is 0
    wrong = torch.lerp(logits.sigmoid(), (-logits).sigmoid(), right)  # 1 - p_t, exact where p rounds to 1
    loss = cross_entropy * wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma  # 0^(gamma - 1) has no number
    if alpha >= 0:
        loss = (alpha * right + (1 - alpha) * (1 - right)) * loss
    return _reduce(loss, reduction).to(torch.result_type(inputs, targets))


def smooth_l1_loss(input: Tensor, target: Tensor, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """0.5 d^2 / beta for differences |d| < beta and |d| - 0.5 beta beyond (Girshick, ICCV 2015, equation 3: beta 1).

    input, target: of the same shape. beta 0 is L1. reduction: none, mean or sum. Value and slope are continuous at
    beta; as beta falls to 0 it becomes L1, and not 0 as Huber's loss, which is beta times this one. Equal to
    torch.nn.functional.smooth_l1_loss; the mean of nothing is NaN.
    Raises ValueError for shapes that differ (nothing is broadcast), a beta not >= 0 and other reductions.
    """
    check_device(input=input, target=target)
    if input.shape != target.shape or not beta >= 0:
        raise ValueError(f"input {tuple(input.shape)}, target {tuple(target.shape)}, beta {beta}: want equal shapes "
                         "and beta >= 0.")
    distance = (_upcast(input) - _upcast(target)).abs()
    if beta > 0:
        distance = torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
    return _reduce(distance, reduction).to(torch.result_type(input, target))


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - GIoU of each pair of boxes, in [0, 2] (Rezatofighi et al., CVPR 2019, algorithm 1).

    boxes1, boxes2: (..., 4) xyxy, pair by pair, any unit -> (...), or a scalar; the mean of no pairs is 0. Unlike
    `generalized_box_iou` it adds `eps` to areas before it divides, so that boxes without area give numbers; where
    coordinates are fractions of an image, areas are so small that eps shows.
    Raises ValueError for shapes that differ, a box with x2 < x1, y2 < y1, NaN or infinity, and other reductions.
    """
    iou, union, around = _overlap(boxes1, boxes2, eps)
    enclosing = around[..., 0] * around[..., 1]
    return _reduce_pairs(1 - iou + (enclosing - union) / (enclosing + eps), reduction)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - DIoU of each pair: centres that differ cost (Zheng et al., AAAI 2020, equations 5 to 7).

    boxes1, boxes2: (..., 4) xyxy, pair by pair, any unit -> (...), or a scalar; the mean of no pairs is 0.
    Raises ValueError as `generalized_box_iou_loss`.
    """
    iou, _, around = _overlap(boxes1, boxes2, eps)
    return _reduce_pairs(1 - iou + _centre_penalty(boxes1, boxes2, around, eps), reduction)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - CIoU of each pair: DIoU's cost and one for another shape (Zheng et al., AAAI 2020, equations 8 to 11).

    boxes1, boxes2: (..., 4) xyxy, pair by pair -> (...), or a scalar; the mean of no pairs is 0. The weight of the
    shape is constant in the gradient, as in the paper. As in torchvision, `eps` enters that weight alone, the other two
    parts keep 1e-7, and a box without area gives NaN where its width / height is 0 / 0.
    Raises ValueError as `generalized_box_iou_loss`.
    """
    iou, _, around = _overlap(boxes1, boxes2, 1e-7)
    angle1, angle2 = ((x2 - x1).div(y2 - y1).atan() for x1, y1, x2, y2 in (_upcast(boxes1).unbind(-1),
                                                                             _upcast(boxes2).unbind(-1)))
    shape = 4 / torch.pi**2 * (angle2 - angle1) ** 2
    with torch.no_grad():
        weight = shape / (1 - iou + shape + eps)
    return _reduce_pairs(1 - iou + _centre_penalty(boxes1, boxes2, around, 1e-7) + weight * shape, reduction)


def dice_loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1) of each mask, p = sigmoid(logits): DETR's and MaskFormer's dice loss.

    logits, targets: (N, ...), targets in [0, 1] -> (N,), or a scalar; the mean of no masks is 0. The two ones make an
    empty mask, rightly predicted, cost nothing; MaskFormer and DETR divide the sum by the number of objects.
    Departs from V-Net (Milletari et al., 3DV 2016, section 3), which squares p and t below and adds no ones.
    Raises ValueError for shapes that differ or have no N, a target outside [0, 1] and other reductions.
    """
    _check_targets(logits, targets)
    if logits.ndim < 2:
        raise ValueError(f"logits of shape {tuple(logits.shape)}: want (N, ...).")
    p, t = _upcast(logits).sigmoid().flatten(1), _upcast(targets).flatten(1)
    return _reduce_pairs(1 - (2 * (p * t).sum(dim=1) + 1) / (p.sum(dim=1) + t.sum(dim=1) + 1), reduction)


def corner_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 2, beta: float = 4) -> Tensor:
    """CornerNet's focal loss on heatmaps, a scalar (Law & Deng, ECCV 2018, equation 1).

    logits: any shape, (B, K, H, W) there. targets: the same shape, in [0, 1], exactly 1 at a corner and falling off
    around it. A corner costs -(1 - p)^alpha log p, any other place -(1 - t)^beta p^alpha log(1 - p): little near a
    corner. Summed, and divided by the number of corners of the whole batch, at least 1.
    Departs from the authors' code, which cuts p at 1e-4 and 1 - 1e-4: there the gradient ends, here it does not.
    Raises ValueError for shapes that differ, a target outside [0, 1] and an alpha or beta not >= 0.
    """
    _check_targets(logits, targets)
    if not (alpha >= 0 and beta >= 0):
        raise ValueError(f"alpha {alpha} with beta {beta}: want numbers >= 0.")
    log_p, log_not_p = F.logsigmoid(_upcast(logits)), F.logsigmoid(-_upcast(logits))
    at_corner = (alpha * log_not_p).exp() * log_p
    elsewhere = (1 - _upcast(targets)) ** beta * (alpha * log_p).exp() * log_not_p
    is_corner = targets == 1
    return -torch.where(is_corner, at_corner, elsewhere).sum() / is_corner.sum().clamp(min=1)


def pull_push_loss(top_left: Tensor, bottom_right: Tensor, margin: float = 1.0) -> tuple[Tensor, Tensor]:
    """CornerNet's losses on the embeddings of one image's corners: two scalars (Law & Deng, equations 4 and 5).

    top_left, bottom_right: (G,), the embeddings at the two corners of each object. Pull draws both to their mean e_k:
    the sum of the squared differences over G. Push drives the means of two objects `margin` apart: the mean of
    max(0, margin - |e_k - e_j|) over ordered pairs. Push is 0 for fewer than two objects, both are for none. Means that
    are exactly equal cost margin and have no gradient. CornerNet weighs both by 0.1.
    Raises ValueError for shapes that are not (G,) twice and a margin not >= 0.
    """
    check_device(top_left=top_left, bottom_right=bottom_right)
    if top_left.ndim != 1 or top_left.shape != bottom_right.shape or not margin >= 0:
        raise ValueError(f"embeddings of shapes {tuple(top_left.shape)} and {tuple(bottom_right.shape)}, margin "
                         f"{margin}: want (G,) twice and a margin >= 0.")
    first, second, count = _upcast(top_left), _upcast(bottom_right), len(top_left)
    mean = (first + second) / 2
    pull = ((first - mean) ** 2 + (second - mean) ** 2).sum() / max(count, 1)
    too_near = (margin - (mean[:, None] - mean).abs()).clamp(min=0)  # (G, G)
    return pull, 2 * too_near.triu(diagonal=1).sum() / max(count * (count - 1), 1)


@torch.no_grad()
def detr_matching_cost(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor,
                       weights: tuple[float, float, float] = (1.0, 5.0, 2.0)) -> Tensor:
    """What matching each query of one image with each object costs, for `hungarian_match`: (Q, G), without gradient.

    DETR (Carion et al., ECCV 2020, section 3.1). logits: (Q, K + 1), the last column for "no object". boxes: (Q, 4) and
    truth: (G, 4), cxcywh in parts of the image. labels: (G,) int64, columns of the logits, 0 to K - 1. weights: of the
    class, -p (not -log p, so that it stays comparable with the boxes' costs), of the L1 distance and of -GIoU.
    Raises ValueError for shapes that do not fit, a label outside 0 to K - 1, truth outside [0, 1] (pixels, perhaps) and
    malformed boxes.
    """
    _check_set(logits, boxes, labels, truth)
    boxes, truth = _upcast(boxes), _upcast(truth)
    p = _upcast(logits).softmax(dim=-1)[:, labels]  # (Q, G)
    l1 = (boxes[:, None] - truth).abs().sum(dim=-1)
    giou = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(truth, "cxcywh", "xyxy"))
    return -weights[0] * p + weights[1] * l1 - weights[2] * giou


def detr_set_loss(logits: Tensor, boxes: Tensor, targets: Sequence[dict[str, Tensor]],
                  no_object_weight: float = 0.1, weights: tuple[float, float, float] = (1.0, 5.0, 2.0)
                  ) -> dict[str, Tensor]:
    """DETR's loss of one decoder layer's output: the scalars loss_ce, loss_bbox and loss_giou (section 3.1).

    logits: (B, Q, K + 1), the last column for "no object". boxes: (B, Q, 4), cxcywh in parts of the image. targets: of
    each image labels (G,) int64, 0 to K - 1, and boxes (G, 4) as above. Queries and objects are matched image by image
    at the least `detr_matching_cost`, which takes `weights`. loss_ce: cross-entropy over all queries, the unmatched
    ones' class being "no object" with no_object_weight, divided by the sum of the classes' weights. loss_bbox and
    loss_giou: L1 distance and 1 - GIoU of the matched boxes, divided by the number of objects in the batch, at least 1.
    None is weighted yet: DETR multiplies the three by `weights`, too, and adds them up over the decoder's layers, each
    matched anew.
    Departs from the authors' code, which averages the number of objects over processes.
    Raises ValueError as `detr_matching_cost`, and for a number of targets that is not B or a weight not >= 0.
    """
    check_device(logits=logits, boxes=boxes, targets=[one[key] for one in targets for key in ("labels", "boxes")])
    if not len(logits) == len(targets) > 0 or logits.shape[:-1] != boxes.shape[:-1] or not no_object_weight >= 0:
        raise ValueError(f"logits {tuple(logits.shape)} and boxes {tuple(boxes.shape)} for {len(targets)} targets, "
                         f"no_object_weight {no_object_weight}: want (B, Q, K + 1), (B, Q, 4), B > 0 and >= 0.")
    query, found, truth = _match_batch(logits, boxes, targets, weights)
    classes = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
    classes[query] = found
    weight = _upcast(logits).new_ones(logits.shape[2])
    weight[-1] = no_object_weight
    matched, count = _upcast(boxes)[query], max(sum(len(target["labels"]) for target in targets), 1)
    corners = box_convert(matched, "cxcywh", "xyxy"), box_convert(_upcast(truth), "cxcywh", "xyxy")
    return {"loss_ce": F.cross_entropy(_upcast(logits).transpose(1, 2), classes, weight),
            "loss_bbox": (matched - truth).abs().sum() / count,
            "loss_giou": generalized_box_iou_loss(*corners, reduction="sum", eps=0) / count}


def _match_batch(logits: Tensor, boxes: Tensor, targets: Sequence[dict[str, Tensor]],
                 weights: tuple[float, float, float]) -> tuple:
    """The matched queries of all images as (images, queries), and their objects' labels (M,) and boxes (M, 4)."""
    pairs = [hungarian_match(detr_matching_cost(logit, box, target["labels"], target["boxes"], weights))
             for logit, box, target in zip(logits, boxes, targets, strict=True)]
    images = torch.cat([torch.full_like(query, image) for image, (query, _) in enumerate(pairs)])
    labels, truth = (torch.cat([target[name][chosen] for target, (_, chosen) in zip(targets, pairs, strict=True)])
                     for name in ("labels", "boxes"))
    return (images, torch.cat([query for query, _ in pairs])), labels, truth


def _overlap(boxes1: Tensor, boxes2: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """IoU and union (...,) of each pair, and width and height (..., 2) of the smallest box around it."""
    check_device(boxes1=boxes1, boxes2=boxes2)
    if boxes1.shape != boxes2.shape:
        raise ValueError(f"boxes of shapes {tuple(boxes1.shape)} and {tuple(boxes2.shape)}: want the same.")
    boxes1, boxes2 = _upcast(boxes1), _upcast(boxes2)
    areas = box_area(boxes1) + box_area(boxes2)  # names a malformed box
    shared = torch.min(boxes1[..., 2:], boxes2[..., 2:]) - torch.max(boxes1[..., :2], boxes2[..., :2])
    intersection = torch.where((shared > 0).all(dim=-1), shared[..., 0] * shared[..., 1], 0)
    around = torch.max(boxes1[..., 2:], boxes2[..., 2:]) - torch.min(boxes1[..., :2], boxes2[..., :2])
    union = areas - intersection
    return intersection / (union + eps), union, around


def _centre_penalty(boxes1: Tensor, boxes2: Tensor, around: Tensor, eps: float) -> Tensor:
    """(distance of the centres / diagonal of the enclosing box) squared, (...,)."""
    twice = (_upcast(boxes1) - _upcast(boxes2)).unflatten(-1, (2, 2)).sum(dim=-2)  # the centres' distance, times 2
    return (twice**2).sum(dim=-1) / 4 / ((around**2).sum(dim=-1) + eps)


def _upcast(numbers: Tensor) -> Tensor:
    """Half precision and whole numbers become float32."""
    return numbers if numbers.dtype in (torch.float32, torch.float64) else numbers.float()


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction {reduction!r} is none of none, mean and sum.")
    return loss if reduction == "none" else getattr(loss, reduction)()


def _reduce_pairs(loss: Tensor, reduction: str) -> Tensor:
    """As `_reduce`, but the mean of nothing is 0: an image without objects costs nothing."""
    return _reduce(loss, "sum" if reduction == "mean" and not loss.numel() else reduction)


def _check_targets(logits: Tensor, targets: Tensor) -> None:
    check_device(logits=logits, targets=targets)
    if logits.shape != targets.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(targets.shape)}: want the "
                         "same.")
    right = (targets >= 0) & (targets <= 1)  # NaN compares as False
    if not right.all():
        raise ValueError(f"target {targets[~right][0].item()} is not in [0, 1].")


def _check_set(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> None:
    check_device(logits=logits, boxes=boxes, labels=labels, truth=truth)
    shapes = [tuple(tensor.shape) for tensor in (logits, boxes, labels, truth)]
    if logits.ndim != 2 or labels.ndim != 1 or shapes[1::2] != [(len(logits), 4), (len(labels), 4)]:
        raise ValueError(f"logits, boxes, labels and truth of shapes {shapes}: want (Q, K + 1), (Q, 4), (G,), (G, 4).")
    last = logits.shape[1] - 2
    wrong = (labels < 0) | (labels > last)
    if labels.is_floating_point() or wrong.any():
        raise ValueError(f"labels {labels[wrong].tolist()} of {labels.dtype}: want whole numbers from 0 to {last}.")
    outside = ~((truth >= 0) & (truth <= 1.001)).all(dim=1)  # a thousandth for rounding
    if outside.any():
        raise ValueError(f"truth {truth[outside][0].tolist()}: want cxcywh in parts of the image, in [0, 1].")
