"""Bad input to any op ends in a ValueError that shows what was bad, and never in an error from somewhere inside."""

import math
import re

import pytest
import torch
from op_calls import BOXES, LABELS, ROIS, SCORES, calls, op, random
from torch.utils._pytree import tree_flatten, tree_unflatten

CALLS = {name: (function, arguments) for name, function, arguments in calls()}
BAD_BOXES = ([9.0, 0.0, 5.0, 4.0], [0.0, 9.0, 5.0, 4.0], [math.nan, 0.0, 5.0, 4.0], [0.0, 0.0, math.inf, 4.0],
             [0.0, -math.inf, 5.0, 4.0])
BOXES_AT = {  # which of an op's tensors are boxes, or end in boxes
    **{f"boxes.{name}": (0, 1) for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")},
    **{f"losses.{name}_box_iou_loss": (0, 1) for name in ("generalized", "distance", "complete")},
    "coding.encode_boxes": (0, 1), "coding.decode_boxes": (1,), "coding.encode_ltrb": (0, 1), "coding.decode_ltrb": (1,),
    "nms.nms": (0,), "nms.batched_nms": (0,), "nms.soft_nms": (0,), "nms.matrix_nms": (0,),
    "matching.fcos_fits": (0,), "matching.fcos_targets": (0,), "roi.roi_pool": (1,), "roi.roi_align": (1,), "roi.multiscale_roi_align": (2,),
    "roi.multiscale_roi_pool": (2,), "roi.roi_spatial_pyramid_pool": (1,), "roi.rois_of": (1,), "position_sensitive.ps_roi_pool": (1,),
    "position_sensitive.ps_roi_align": (1,), "masks.mask_loss": (1,), "masks.project_masks": (1,),
    "masks.paste_masks": (1,), "keypoints.keypoint_loss": (1,), "keypoints.keypoints_to_heatmap": (1,),
    "keypoints.heatmaps_to_keypoints": (1,), "proposals.proposal_recall": (0, 1), "metrics.match_detections": (0, 2),
    "metrics.voc_average_precision": (0, 6), "error_breakdown.error_breakdown": (0, 6),
    "error_breakdown.kinds_of": (0, 3)}
WRONG = {"a dimension less": lambda tensor: tensor[0], "a dimension more": lambda tensor: tensor[None],
         "shorter": lambda tensor: tensor[:-1], "longer": lambda tensor: torch.cat([tensor, tensor[:1]]),
         "narrower": lambda tensor: tensor[..., :-1], "empty": lambda tensor: tensor[:0],
         "all -7": lambda tensor: torch.full_like(tensor, -7), "all 99": lambda tensor: torch.full_like(tensor, 99),
         "infinite": lambda tensor: tensor + math.inf if tensor.is_floating_point() else tensor,
         "NaN": lambda tensor: tensor * math.nan if tensor.is_floating_point() else tensor}


def changed(name, place, change):
    """The op's call with one tensor changed."""
    function, arguments = CALLS[name]
    leaves, form = tree_flatten(arguments)
    leaves[place] = change(leaves[place].clone())
    return function(*tree_unflatten(leaves, form))


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in BOXES_AT.items() for place in places])
def test_a_bad_box_is_shown(name, place):
    for bad in BAD_BOXES:
        def spoil(boxes, bad=bad):
            boxes[0, -4:] = torch.tensor(bad)
            return boxes

        with pytest.raises(ValueError, match=re.escape(f"box {bad}: want finite numbers with x1 <= x2 and y1 <= y2")):
            changed(name, place, spoil)


@pytest.mark.parametrize("name", CALLS)
def test_whatever_is_wrong_with_a_tensor_ends_in_a_clear_error_or_a_result(name):
    leaves = tree_flatten(CALLS[name][1])[0]
    errors = []
    for place, leaf in enumerate(leaves):
        for kind, change in WRONG.items() if isinstance(leaf, torch.Tensor) else ():
            try:
                changed(name, place, change)
            except ValueError as error:
                errors.append(f"{kind}: {error}")
    assert len(errors) >= 3
    assert [error for error in errors if not re.search(r"\d|nan|inf|None|bool|\(\)", error.partition(":")[2])] == []


ONE, PICTURE = torch.zeros(1), {"boxes": BOXES, "labels": LABELS, "scores": SCORES}
TRUTH = {"boxes": BOXES, "labels": LABELS, "iscrowd": torch.zeros(3)}
ONCE = [  # op, arguments, what the error shows
    ("boxes.box_iou", (torch.zeros(4), BOXES), r"shapes \(4,\) and \(3, 4\)"),
    ("boxes.box_convert", (torch.zeros(2, 5), "xyxy", "xywh"), r"\(2, 5\)"),
    ("boxes.box_area", (torch.zeros(2, 3),), r"\(2, 3\)"),
    ("boxes.clip_boxes_to_image", (torch.zeros(2, 5), (4, 4)), r"\(2, 5\)"),
    ("boxes.clip_boxes_to_image", (BOXES, (-4, 4)), r"size \(-4, 4\)"),
    ("boxes.remove_small_boxes", (torch.zeros(2, 5), 1), r"\(2, 5\)"),
    ("boxes.remove_small_boxes", (BOXES, math.nan), "min_size nan"),
    ("boxes.masks_to_boxes", (torch.zeros(4, 4),), r"\(4, 4\)"),
    ("rotated.rotated_iou", (torch.zeros(5), torch.zeros(1, 5)), r"shape \(5,\)"),
    ("anchors.anchor_grid", ((2, -1), 8, [16], [1.0]), r"\(2, -1\)"),
    ("anchors.pyramid_anchors", ([torch.zeros(1, 1, 0, 2)], (16, 16), [[16]], [1.0]), r"\(1, 1, 0, 2\)"),
    ("anchors.by_anchor", (torch.zeros(4, 2, 2), 4), r"\(4, 2, 2\)"),
    ("anchors.by_anchor", (torch.zeros(1, 4, 2, 2), 0), "0 numbers"),
    ("nms.nms", (BOXES, SCORES, -0.5), "iou_threshold -0.5"),
    ("nms.batched_nms", (BOXES, SCORES, LABELS, math.nan), "iou_threshold nan"),
    ("nms.soft_nms", (BOXES, SCORES, -1), "iou_threshold -1"),
    ("nms.matrix_nms", (BOXES, SCORES, 0), "sigma 0"),
    ("roi.roi_pool", (random(1, 1, 4, 4), ROIS + torch.tensor([3, 0, 0, 0, 0]), 2), "image number 3.0 is not in 0 ... 0"),
    ("roi.roi_align", (random(1, 1, 4, 4), ROIS - torch.tensor([1, 0, 0, 0, 0]), 2), "image number -1.0"),
    ("position_sensitive.ps_roi_pool", (random(1, 4, 4, 4), ROIS * math.nan, 2), "image number nan"),
    ("position_sensitive.ps_roi_align", (random(1, 4, 4, 4), ROIS, 2, 0), "spatial_scale 0"),
    ("roi.multiscale_roi_align", ([random(1, 1, 4, 4)], [torch.zeros(4)], 2, [1]), r"shape \(4,\)"),
    ("masks.mask_loss", (random(3, 3, 4, 4), [BOXES], [random(2, 9, 9)], [LABELS], [ONE.long().expand(3)]),
     r"labels of shapes \[\(3,\)\] for masks of shapes \[\(2, 9, 9\)\]"),
    ("masks.mask_probabilities", (random(1, 3, 4, 4), [LABELS[0]]), r"labels of shapes \[\(\)\]"),
    ("masks.project_masks", (random(2, 9, 9), BOXES, LABELS[:2], 4), r"matched_idxs of \(2,\)"),
    ("masks.check_matched", ([BOXES], [random(2)], [LABELS[0]], 3), r"matched indices of shape \(\)"),
    ("corners.decode_triplets", (*CALLS["corners.decode_triplets"][1], 0), "top_k 0"),
    ("metrics.match_detections", (BOXES, SCORES * math.nan, BOXES), "scores .*nan"),
    ("metrics.match_detections", (BOXES, SCORES, BOXES, -0.5), "iou_threshold -0.5"),
    ("metrics.match_detections", (BOXES, SCORES, BOXES, 0.5, ONE), r"ignore of shape \(1,\) for 3 objects"),
    ("metrics.voc_average_precision", ([PICTURE | {"labels": LABELS[:2]}], [TRUTH]), r"labels and scores .*\(2,\)"),
    ("error_breakdown.error_breakdown", ([PICTURE], [TRUTH | {"iscrowd": ONE}]), r"labels and iscrowd .*\(1,\)"),
    ("proposals.proposal_recall", ([BOXES], [BOXES], [5, -1]), r"counts \[5, -1\]"),
    ("proposals.proposal_recall", ([BOXES], [BOXES], [5], math.nan), "iou_threshold nan"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), ONCE, ids=[f"{row[0]}-{row[2]}" for row in ONCE])
def test_a_bad_argument_is_shown(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        op(name)(*arguments)


def test_a_table_of_segments_and_positions_of_a_wrong_shape_are_shown():
    picture = {"panoptic": torch.ones(2, 2, dtype=torch.int64), "segments": torch.tensor([1, 1])}
    with pytest.raises(ValueError, match=r"segments of shape \(2,\)"):
        CALLS["panoptic_quality.PanopticQuality"][0]([picture], [picture])
    layer, (x, *_) = CALLS["attention.TransformerEncoderLayer"]
    with pytest.raises(ValueError, match=r"positions of shape \(1, 4, 7\) for features of shape \(1, 4, 8\)"):
        layer(x, pos=x[..., :7])
