"""Faster, Mask and Keypoint R-CNN with ResNet-50 and a pyramid: torchvision's weights in, torchvision's results out."""

import pytest
import torch
from parity import assert_same_detections, assert_same_step, intermediate, photographs, reference, targets_for

from lessons import zoo
from lessons.checkpoints import CheckpointError

LAST = {"rpn.head.cls_logits": 6, "rpn.head.bbox_pred": 4, "roi_heads.box_predictor.cls_score": 6,
        "roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 4}
NAMES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
CLASSES = {"keypointrcnn_resnet50_fpn": 2}
SINGLE = ("loss_objectness",)  # torchvision's labels of anchors are float32, and so is this loss
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """torchvision's model and ours with its weights, in double precision, for small pictures and all scores."""
    theirs = reference(request.param, LAST).double()
    mine = zoo.load(request.param, theirs.state_dict()).double()
    assert settings(mine) == reference_settings(theirs)
    theirs.transform.min_size, theirs.roi_heads.score_thresh = (128,), 0.0
    mine.prepare.min_sizes, mine.box_head.score_threshold = (128,), 0.0
    # fewer regions, for the sake of time
    theirs.rpn._post_nms_top_n = {"training": 200, "testing": 200}
    mine.rpn.after_nms = {True: 200, False: 200}
    theirs.roi_heads.fg_bg_sampler.batch_size_per_image = mine.box_head.batch_size = 48
    if request.param != "fasterrcnn_resnet50_fpn":
        theirs.roi_heads.detections_per_img = mine.box_head.max_detections = 12
    return request.param, mine, theirs.eval()


def settings(model):
    """Every number of ours that a comparison on few small pictures might not notice."""
    rpn, head, prepare = model.rpn, model.box_head, model.prepare
    return {"rpn": (rpn.high, rpn.low, rpn.batch_size, rpn.positive_fraction, rpn.before_nms[True], rpn.before_nms[False],
                    rpn.after_nms[True], rpn.after_nms[False], rpn.nms_threshold, rpn.min_side, rpn.sizes, rpn.aspect_ratios),
            "head": (head.high, head.low, head.batch_size, head.positive_fraction, head.weights, head.score_threshold,
                     head.nms_threshold, head.max_detections, head.side, head.canonical_size),
            "images": (prepare.min_sizes, prepare.max_size, prepare.mean, prepare.std, prepare.divisor)}


def reference_settings(model):
    rpn, head, transform = model.rpn, model.roi_heads, model.transform
    return {"rpn": (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold,
                    rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction,
                    rpn._pre_nms_top_n["training"], rpn._pre_nms_top_n["testing"], rpn._post_nms_top_n["training"],
                    rpn._post_nms_top_n["testing"], rpn.nms_thresh, rpn.min_size, rpn.anchor_generator.sizes,
                    rpn.anchor_generator.aspect_ratios[0]),
            "head": (head.proposal_matcher.high_threshold, head.proposal_matcher.low_threshold,
                     head.fg_bg_sampler.batch_size_per_image, head.fg_bg_sampler.positive_fraction, head.box_coder.weights,
                     head.score_thresh, head.nms_thresh, head.detections_per_img, head.box_roi_pool.output_size[0],
                     head.box_roi_pool.canonical_scale),
            "images": (tuple(transform.min_size), transform.max_size, tuple(transform.image_mean),
                       tuple(transform.image_std), transform.size_divisible)}


def test_every_detection(pair):
    name, mine, theirs = pair
    images = photographs()
    inside = {"backbone.body.layer4": "backbone.body.layer4", "backbone.fpn": "backbone.fpn", "rpn.cls_logits": "rpn.head.cls_logits",
              "rpn.bbox_pred": "rpn.head.bbox_pred", "box_head.cls_score": "roi_heads.box_predictor.cls_score",
              "box_head.bbox_pred": "roi_heads.box_predictor.bbox_pred", "mask_head": "roi_heads.mask_predictor",
              "keypoint_head": "roi_heads.keypoint_predictor"}
    inside = {ours: other for ours, other in inside.items() if ours.split(".")[0] in dict(mine.named_children())}
    seen, expected = intermediate(mine, inside), intermediate(theirs, inside.values())
    with torch.no_grad():
        found, wanted = mine(images), theirs(images)
    for ours, other in inside.items():
        for a, b in zip(seen[ours], expected[other], strict=True):
            pairs = zip(a.values(), b.values(), strict=True) if isinstance(a, dict) else [(a, b)]
            for one, two in pairs:
                torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
    assert_same_detections(found, wanted)
    assert min(len(d["boxes"]) for d in found) == mine.box_head.max_detections
    scores = torch.cat([d["scores"] for d in found])
    assert scores.std() > 0.02
    if name == "fasterrcnn_resnet50_fpn":
        assert len(torch.cat([d["labels"] for d in found]).unique()) >= 5


def test_one_step_of_training(pair):
    """The same anchors and regions are drawn from the same seed; losses and every gradient agree."""
    name, *models = pair
    images = photographs([(150, 203), (211, 140), (97, 160)], seed=1)
    assert_same_step(models, images, targets_for(images, num_classes=CLASSES.get(name, 91)), SINGLE)


def test_a_batch_without_objects(pair):
    _, mine, theirs = pair
    images = photographs([(150, 203)], seed=2)
    results = []
    for model in (mine, theirs):
        torch.manual_seed(3)
        with torch.no_grad():
            results.append(model.train()(images, targets_for(images, counts=[0])))
        model.eval()
    for key, value in results[1].items():
        if value.isfinite() and key not in ("loss_mask", "loss_keypoint"):
            torch.testing.assert_close(results[0][key], value, rtol=0, atol=1e-6 if key in SINGLE else 1e-9,
                                       check_dtype=False)
    assert all(value.isfinite() for value in results[0].values())


def test_single_precision():
    theirs = reference("fasterrcnn_resnet50_fpn", LAST).eval()
    mine = zoo.load("fasterrcnn_resnet50_fpn", theirs.state_dict())
    images = torch.stack(photographs([(160, 224)] * 2, torch.float32))
    with torch.no_grad():
        for a, b in zip(mine.backbone(images), theirs.backbone(images).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


OLD = {"rpn.head.conv.0.0.": "rpn.head.conv.", "backbone.fpn.inner_blocks.0.0.": "backbone.fpn.inner_blocks.0.",
       **{f"roi_heads.mask_head.{i}.0.": f"roi_heads.mask_head.mask_fcn{i + 1}." for i in range(4)}}


@pytest.mark.parametrize("name", NAMES)
def test_old_names_and_frozen_batch_norm(name):
    """The published files: names of an older generation, no num_batches_tracked, epsilon 0."""
    state = reference(name, LAST).state_dict()
    old = {}
    for key, tensor in state.items():
        for new, before in OLD.items():
            key = key.replace(new, before)
        if not key.endswith("num_batches_tracked"):
            old[key] = tensor
    model = zoo.load(name, old)
    ordinary = zoo.load(name, state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, ordinary.state_dict()[key]), key
    assert {module.eps for module in model.modules() if hasattr(module, "eps")} == {0.0}
    assert {module.eps for module in ordinary.modules() if hasattr(module, "eps")} == {1e-5}


def test_what_does_not_fit_is_named():
    state = reference("fasterrcnn_resnet50_fpn", LAST, num_classes=5).state_dict()
    assert zoo.load("fasterrcnn_resnet50_fpn", state).box_head.num_classes == 5
    with pytest.raises(CheckpointError, match="does not fit MaskRCNN: missing: mask_head"):
        zoo.load("maskrcnn_resnet50_fpn", state)
    with pytest.raises(CheckpointError, match="unexpected: surplus"):
        zoo.load("fasterrcnn_resnet50_fpn", {**state, "surplus": torch.zeros(1)})


def test_without_a_network_the_published_weights_say_what_to_do(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(CheckpointError, match=r"coco-258fb6c6\.pth could not be fetched \(no route\).* give the path"):
        zoo.load("fasterrcnn_resnet50_fpn", "published")
