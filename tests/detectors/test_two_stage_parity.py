"""Faster, Mask and Keypoint R-CNN with ResNet-50 and a pyramid: torchvision's weights in, torchvision's results out."""

import hashlib

import pytest
import torch
from parity import assert_same_inside_and_out, assert_same_step, with_old_names

from benchmarks.alive import photographs, reference, targets_for
from lessons import published, zoo
from lessons.checkpoints import CheckpointError

NAMES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
CLASSES = {"keypointrcnn_resnet50_fpn": 2}
SINGLE = ("loss_objectness",)  # torchvision's labels of anchors are float32, and so is this loss
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """torchvision's model and ours with its weights, in double precision, for small pictures and all scores."""
    theirs = reference(request.param).double()
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
    found = assert_same_inside_and_out(mine, theirs, photographs())
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tracked", [False, True])
def test_old_names(name, tracked):
    """The published files have names of an older generation, no num_batches_tracked and batch norm of epsilon 0."""
    theirs = reference(name)
    state = theirs.state_dict()
    old = with_old_names(state, tracked)
    assert len(old.keys() - state.keys()) >= 18
    assert theirs.load_state_dict(old, strict=tracked) is not None
    model = zoo.load(name, old)
    ordinary = zoo.load(name, state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, ordinary.state_dict()[key]), key
    assert {module.eps for module in model.modules() if hasattr(module, "eps")} == {1e-5 if tracked else 0.0}
    assert {module.eps for module in ordinary.modules() if hasattr(module, "eps")} == {1e-5}


def test_what_does_not_fit_is_named():
    state = reference("fasterrcnn_resnet50_fpn", num_classes=5).state_dict()
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


def test_a_published_file_is_fetched_once_verified_and_loaded(monkeypatch, tmp_path):
    """The whole way of weights="published", from a folder in place of the host: only the address is another."""
    theirs = reference("fasterrcnn_resnet50_fpn")
    host = tmp_path / "host"
    host.mkdir()
    state = {key: value for key, value in theirs.state_dict().items() if "num_batches_tracked" not in key}
    torch.save(state, host / "unnamed.pth")
    start = hashlib.sha256((host / "unnamed.pth").read_bytes()).hexdigest()[:8]
    there = (host / "unnamed.pth").rename(host / f"coco-{start}.pth")
    monkeypatch.setattr(published, "HOST", host.as_uri() + "/")
    monkeypatch.setitem(published.FILES, "fasterrcnn_resnet50_fpn", there.name)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "kept"))
    model = zoo.load("fasterrcnn_resnet50_fpn", "published")
    torch.testing.assert_close(model.box_head.cls_score.weight, theirs.roi_heads.box_predictor.cls_score.weight)
    assert {module.eps for module in model.modules() if hasattr(module, "eps")} == {0.0}

    there.write_bytes(b"gone")  # what is kept is not fetched again
    zoo.load("fasterrcnn_resnet50_fpn", "published")
    (tmp_path / "kept" / "checkpoints" / there.name).unlink()
    with pytest.raises(CheckpointError, match=f"{start}.pth could not be fetched .*hash"):
        zoo.load("fasterrcnn_resnet50_fpn", "published")
    assert not list((tmp_path / "kept" / "checkpoints").iterdir()), "nothing damaged is kept"
