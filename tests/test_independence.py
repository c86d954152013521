"""Nothing here leans on torchvision's ops: all of ours run where those raise, and nearly all without torchvision.

Only the measures of whole data sets need it, since the samples they take come from lessons.data, which reads pictures
with it.
Run as a program, this file breaks torchvision in one of the two ways, makes one small call of every public op and
prints the public functions that were never entered. The test runs it in a process of its own, since what it breaks
stays broken.
"""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
OPS = ["devices", "rotated", "boxes", "coding", "anchors", "nms", "matching", "roi", "position_sensitive", "masks",
       "keypoints", "losses", "proposals", "corners", "heatmaps", "attention", "backbones.resnet", "backbones.fpn",
       "backbones.hourglass"]
MEASURES = ["agreement", "coco_metrics", "metrics", "panoptic_quality", "error_breakdown"]
COMPILED = ["nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"]
BOXES = torch.tensor([[0.0, 0, 8, 8], [1, 1, 9, 8], [4, 2, 12, 14]])
SCORES = torch.tensor([0.9, 0.8, 0.7])
LABELS = torch.tensor([1, 1, 2])
ROIS = torch.tensor([[0, 0.0, 0, 8, 8], [0, 4, 2, 12, 14]])


def refuse(*_, **__):
    raise AssertionError("an op of torchvision was called")


def make_torchvision_raise():
    """Every function and class of torchvision's ops and detectors, under every name, and the compiled ops below."""
    import torchvision

    calls = [value for module in list(sys.modules.values()) if module.__name__.startswith("torchvision.ops")
             for value in vars(module).values() if callable(value) and value.__module__.startswith("torchvision")]
    for module in [module for name, module in sys.modules.items() if name.startswith("torchvision")]:
        for name, value in list(vars(module).items()):
            if any(value is call for call in calls):
                setattr(module, name, refuse)
    for name in COMPILED:
        setattr(torch.ops.torchvision, name, refuse)
    for call in (torchvision.ops.nms, torchvision.ops.RoIAlign, torchvision.ops.boxes.box_iou, torch.ops.torchvision.nms):
        with pytest.raises(AssertionError, match="an op of torchvision was called"):
            call()


def boxes_and_places():
    from lessons import anchors, boxes, coding, matching, nms, proposals

    for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
        getattr(boxes, name)(BOXES, BOXES)
    boxes.box_convert(BOXES, "xyxy", "cxcywh")
    turned = boxes.box_convert(torch.tensor([[5.0, 5, 4, 2, 30]]), "cxcywhr", "xyxyxyxy")
    boxes.box_iou(turned, turned, "xyxyxyxy")
    boxes.box_area(BOXES)
    boxes.clip_boxes_to_image(BOXES, (10, 10))
    boxes.remove_small_boxes(BOXES, 1)
    boxes.masks_to_boxes(torch.ones(2, 4, 4))
    coding.decode_boxes(coding.encode_boxes(BOXES, BOXES.flip(0)), BOXES)
    coding.decode_ltrb(coding.encode_ltrb(BOXES, BOXES.flip(0)), BOXES)
    anchors.anchor_grid((2, 2), 8, [16], [1.0])
    anchors.pyramid_anchors([torch.zeros(1, 1, 2, 2)], (16, 16), [[16]], [1.0])
    anchors.by_anchor(torch.zeros(1, 4, 2, 2), 4)
    nms.nms(BOXES, SCORES, 0.5)
    nms.batched_nms(BOXES, SCORES, LABELS, 0.5)
    nms.soft_nms(BOXES, SCORES)
    nms.matrix_nms(BOXES, SCORES)
    matching.match_boxes(boxes.box_iou(BOXES, BOXES), 0.7, 0.3, allow_low_quality=True)
    matching.sample_balanced(torch.tensor([1, 0, 0, -1]), 2, 0.5)
    matching.hungarian_match(torch.rand(3, 2))
    strides = torch.tensor([8.0, 8, 16])
    matching.fcos_targets(BOXES, BOXES[:, 2:], strides, matching.fcos_ranges(strides))
    image = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    proposals.selective_search(image, "single")
    proposals.selective_search_hierarchy(image).labels(0)
    proposals.proposal_recall([proposals.sliding_windows((24, 24), [8])], [BOXES], [10])


def regions():
    from lessons import keypoints, masks, position_sensitive, roi
    from lessons.backbones import fpn, hourglass, resnet

    features = torch.rand(1, 4, 16, 16, requires_grad=True)
    pooled = [pool(features, ROIS, 2, 1.0) for pool in (roi.roi_pool, roi.roi_align, position_sensitive.ps_roi_pool,
                                                        position_sensitive.ps_roi_align)]
    pooled += [roi.multiscale_roi_align([features], [BOXES], 2, [1]), roi.multiscale_roi_pool([features], [BOXES], 2, [1]),
               roi.spatial_pyramid_pool(features, [1, 2]), roi.roi_spatial_pyramid_pool(features, ROIS, [1, 2], 1.0)]
    sum(x.sum() for x in pooled).backward()
    truth, zeros = [torch.ones(1, 16, 16)], torch.zeros(3, dtype=torch.int64)
    masks.mask_loss(torch.rand(3, 3, 4, 4), [BOXES], truth, [LABELS[:1]], [zeros])
    masks.paste_masks(masks.mask_probabilities(torch.rand(3, 3, 4, 4), [LABELS])[0], BOXES, (16, 16))
    keypoints.keypoint_loss(torch.rand(3, 2, 4, 4), [BOXES], [torch.full((1, 2, 3), 5.0)], [zeros])
    keypoints.heatmaps_to_keypoints(torch.rand(3, 2, 4, 4), BOXES)
    resnet.LastStage(resnet.small_resnet((1, 2)))(torch.rand(1, 3, 32, 32))
    norm = resnet.FrozenBatchNorm2d(4)
    norm.load_state_dict(norm.state_dict())
    norm(features)
    for block in (resnet.BasicBlock, resnet.Bottleneck):
        pyramid = fpn.ResNetFPN(resnet.ResNet(block, [1, 1, 1, 1]), 8, 3, fpn.LastLevelP6P7(8, 8))
        pyramid(torch.rand(1, 3, 64, 64))
    fpn.FeaturePyramidNetwork([4], 8, fpn.LastLevelMaxPool())({"0": features})
    hourglass.Hourglass((4, 6), (1, 1), 2)(torch.rand(2, 3, 32, 32))
    resnet.resnet50()


def losses_and_networks():
    from lessons import attention, corners, heatmaps, losses

    for name in ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss", "smooth_l1_loss"):
        getattr(losses, name)(BOXES, BOXES)
    for name in ("sigmoid_focal_loss", "dice_loss", "corner_focal_loss"):
        getattr(losses, name)(torch.rand(2, 3), torch.ones(2, 3))
    losses.pull_push_loss(torch.rand(2), torch.rand(2))
    target = {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    losses.detr_set_loss(torch.rand(1, 3, 4), torch.full((1, 3, 4), 0.5), [target])
    corners.corner_pool(torch.rand(1, 1, 4, 4), "left")
    corners.cascade_corner_pool(torch.rand(1, 1, 4, 4), "top_left")
    corners.center_pool(torch.rand(1, 1, 4, 4))
    maps = corners.KeypointMaps(torch.rand(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8))
    corners.decode_triplets(maps, maps, maps)
    heatmaps.keypoint_heat(torch.tensor([[2, 3]]), LABELS[:1], heatmaps.gaussian_radius(torch.ones(1, 2)), (2, 8, 8))
    mask, x = torch.zeros(1, 2, 2, dtype=torch.bool), torch.rand(1, 4, 8)
    place = attention.sine_position_encoding(mask, 8).flatten(2).transpose(1, 2)
    memory = attention.TransformerEncoder(attention.TransformerEncoderLayer(8, 2, 16), 1)(x, pos=place)[0]
    attention.TransformerDecoder(attention.TransformerDecoderLayer(8, 2, 16), 1)(x, memory, pos=place)


def measures():
    from lessons import coco_metrics, error_breakdown, metrics, panoptic_quality

    truth = {"boxes": BOXES, "labels": LABELS, "iscrowd": torch.zeros(3, dtype=torch.int64), "image_id": 1,
             "area": torch.full((3,), 50.0), "masks": torch.ones(3, 16, 16), "keypoints": torch.ones(3, 17, 3)}
    found = {"scores": SCORES, **truth}
    for kind in ("boxes", "masks", "keypoints"):
        metric = coco_metrics.CocoMetrics(kind)
        metric.update([found], [truth])
        metric.compute()
        metric.per_class()
        metric.precision_at_recalls(1)
    metrics.average_precision(SCORES, LABELS == 1, 2)
    metrics.voc_average_precision([found], [truth])
    error_breakdown.error_breakdown([found], [truth])
    quality = panoptic_quality.PanopticQuality()
    segments = {"panoptic": torch.ones(4, 4, dtype=torch.int64), "segments": torch.tensor([[1, 1]])}
    quality.update([segments], [segments])
    quality.compute()


def public_functions(modules):
    """The code of every public function and of every public class's public methods and forward, by its full name."""
    for module in (importlib.import_module(f"lessons.{name}") for name in modules):
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            members = vars(value).items() if inspect.isclass(value) else [("", value)]
            for member, function in members:
                code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
                if code and not member.startswith("_") and code.co_filename == module.__file__:
                    yield f"{module.__name__}.{name}.{member}".rstrip("."), code


def main(way):
    if way == "absent":
        sys.modules["torchvision"] = None  # any import of it fails
        modules, parts = OPS, (boxes_and_places, regions, losses_and_networks)
    else:
        make_torchvision_raise()
        modules, parts = OPS + MEASURES, (boxes_and_places, regions, losses_and_networks, measures)
    wanted, entered = dict(public_functions(modules)), set()
    sys.setprofile(lambda frame, event, _: entered.add(frame.f_code) if event == "call" else None)
    for part in parts:
        part()
    sys.setprofile(None)
    print(len(wanted), "public functions; never entered:", *(name for name, code in wanted.items() if code not in entered))


@pytest.mark.parametrize("way", ["raising", "absent"])
def test_every_op_runs_without_torchvisions(way):
    found = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, cwd=ROOT,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert found.returncode == 0, found.stderr
    count, missing = found.stdout.split(" public functions; never entered:")
    assert missing.split() == []
    assert int(count) > 80


if __name__ == "__main__":
    main(sys.argv[1])
