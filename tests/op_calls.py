"""One small call of each op that takes several tensors, by its name: what the tests that go over all of them share."""

import importlib

import torch

BOXES = torch.tensor([[0.0, 0, 8, 8], [1, 1, 9, 8], [4, 2, 12, 14]])
SCORES, LABELS = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 2])
ROIS = torch.cat([torch.zeros(3, 1), BOXES], dim=1)
NONE_IS_CROWD = torch.zeros(3, dtype=torch.int64)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def op(name):
    """The function or the class `module.name` of lessons."""
    module, _, member = name.partition(".")
    return getattr(importlib.import_module(f"lessons.{module}"), member)


def transformer(name, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return op(f"attention.{name}")(*arguments).eval()


def panoptic_quality(predictions, targets):
    quality = op("panoptic_quality.PanopticQuality")()
    quality.update(predictions, targets)
    return quality.compute()


def calls():
    """(name, what to call, its arguments), for each op that reckons with several tensors together."""
    pairs = {f"boxes.{name}": (BOXES, BOXES.flip(0)) for name in
             ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")}
    pairs |= {f"coding.{name}": (BOXES, BOXES.flip(0)) for name in
              ("encode_boxes", "decode_boxes", "encode_ltrb", "decode_ltrb")}
    pairs |= {f"losses.{name}": (BOXES, BOXES.flip(0)) for name in
              ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss", "smooth_l1_loss")}
    pairs |= {f"losses.{name}": (random(2, 3), torch.ones(2, 3)) for name in
              ("sigmoid_focal_loss", "dice_loss", "corner_focal_loss")}
    pairs |= {f"roi.{name}": (random(1, 4, 16, 16), ROIS, 2) for name in ("roi_pool", "roi_align")}
    pairs |= {f"position_sensitive.{name}": (random(1, 4, 16, 16), ROIS, 2) for name in ("ps_roi_pool", "ps_roi_align")}
    pairs |= {f"nms.{name}": (BOXES, SCORES) for name in ("soft_nms", "matrix_nms")}
    found = [*((name, op(name), arguments) for name, arguments in (pairs | places() | regions()).items()), *networks_and_classes()]
    return sorted(found, key=lambda call: call[0])


def places():
    turned = torch.tensor([[5.0, 5, 4, 2, 30], [6, 5, 3, 3, 0]])
    strides, set_boxes = torch.tensor([8.0, 8, 16]), torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.3, 0.1, 0.2]])
    image = {"boxes": BOXES, "labels": LABELS}
    detection, truth = image | {"scores": SCORES}, image | {"iscrowd": NONE_IS_CROWD}
    return {
        "rotated.rotated_iou": (turned, turned.flip(0)),
        "nms.nms": (BOXES, SCORES, 0.5),
        "nms.batched_nms": (BOXES, SCORES, LABELS, 0.5),
        "matching.fcos_fits": (BOXES, BOXES[:, 2:], strides, torch.tensor([[0.0, 64], [0, 64], [64, 999]])),
        "matching.fcos_targets": (BOXES, BOXES[:, 2:], strides, torch.tensor([[0.0, 64], [0, 64], [64, 999]])),
        "heatmaps.keypoint_heat": (torch.tensor([[2, 3], [4, 1], [7, 0]]), LABELS, SCORES + 1, (3, 8, 8)),
        "losses.pull_push_loss": (random(2), random(2, seed=1)),
        "losses.detr_matching_cost": (random(3, 4), random(3, 4) / 2, torch.tensor([0, 2]), set_boxes),
        "losses.detr_set_loss": (random(1, 3, 4), random(1, 3, 4), [{"labels": LABELS[:2], "boxes": set_boxes}]),
        "proposals.proposal_recall": ([BOXES], [BOXES.flip(0)], [1, 10]),
        "metrics.precision_recall": (SCORES, LABELS == 1, 2),
        "metrics.average_precision": (SCORES, LABELS == 1, 2),
        "metrics.match_detections": (BOXES, SCORES, BOXES.flip(0), 0.5, NONE_IS_CROWD),
        "metrics.check_images": ([detection, detection], [truth, truth]),
        "metrics.voc_average_precision": ([detection, detection], [truth, truth]),
        "error_breakdown.error_breakdown": ([detection, detection], [truth, truth]),
        "error_breakdown.kinds_of": (detection, truth),
    }


def regions():
    features, truth, index = random(1, 4, 16, 16), [random(2, 16, 16).round()], [torch.tensor([0, 1, 1])]
    points = torch.cat([random(2, 2, 2) * 8, torch.ones(2, 2, 1)], dim=2)
    return {
        "roi.multiscale_roi_align": ([features, random(1, 4, 8, 8)], [BOXES], 2, [1, 2], 2, 8, 1),
        "roi.multiscale_roi_pool": ([features, random(1, 4, 8, 8)], [BOXES], 2, [1, 2], 8, 1),
        "roi.roi_spatial_pyramid_pool": (features, ROIS, [1, 2], 1.0),
        "roi.rois_of": (features, [BOXES], 1.0),
        "masks.mask_loss": (random(3, 3, 4, 4), [BOXES], truth, [LABELS[:2]], index),
        "masks.project_masks": (truth[0], BOXES, index[0], 4),
        "masks.mask_probabilities": (random(3, 3, 4, 4), [LABELS]),
        "masks.paste_masks": (random(3, 1, 4, 4), BOXES, (16, 16)),
        "masks.check_matched": ([BOXES], truth, index, 3),
        "keypoints.keypoint_loss": (random(3, 2, 4, 4), [BOXES], [points], index),
        "keypoints.keypoints_to_heatmap": (points[index[0]], BOXES, 4),
        "keypoints.heatmaps_to_keypoints": (random(3, 2, 4, 4), BOXES),
    }


def networks_and_classes():
    segments = {"panoptic": torch.ones(4, 4, dtype=torch.int64), "segments": torch.tensor([[1, 1]])}
    yield "panoptic_quality.PanopticQuality", panoptic_quality, ([segments], [segments])
    heat, nothing, tags = random(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8)
    corners = op("corners.KeypointMaps")(heat, nothing, tags)
    others = op("corners.KeypointMaps")(heat.flip(2), nothing, tags)
    peaks = op("corners.Peaks")(SCORES, LABELS, BOXES[:, :2] + 4, SCORES)
    yield "corners.centre_scores", op("corners.centre_scores"), (BOXES, LABELS, peaks)
    yield "corners.decode_corners", op("corners.decode_corners"), (corners, others)
    yield "corners.decode_triplets", op("corners.decode_triplets"), (corners, others, corners)
    x, place, unseen, allowed = random(1, 4, 8), random(1, 4, 8, seed=1), torch.zeros(1, 4) > 0, torch.zeros(4, 4)
    yield "attention.MultiHeadAttention", transformer("MultiHeadAttention", 8, 2), (x, x, x, unseen, allowed)
    for kind, inputs in (("Encoder", (x, allowed, unseen, place)),
                         ("Decoder", (x, x, allowed, allowed, unseen, unseen, place, place))):
        layer = transformer(f"Transformer{kind}Layer", 8, 2, 16)
        yield f"attention.Transformer{kind}Layer", layer, inputs
        yield f"attention.Transformer{kind}", transformer(f"Transformer{kind}", layer, 1), inputs
