"""Fast R-CNN: torchvision's heads on given proposals, both poolings, the sampling of the paper, truncated SVD."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_same_detections
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from benchmarks.alive import photographs, targets_for
from lessons.backbones.resnet import LastStage, small_resnet
from lessons.boxes import box_iou
from lessons.costs import count_multiply_adds
from lessons.detectors.fast_rcnn import FastRCNN, FastRCNNHead, compress_linear
from lessons.detectors.mask_rcnn import MaskHead
from lessons.images import ImagePreparation
from lessons.roi import multiscale_roi_align, multiscale_roi_pool

CLASSES = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count, side=128.0, seed=0):
    corner = torch.rand(count, 2, generator=seeded(seed), dtype=torch.float64) * side * 0.6
    return torch.cat([corner, corner + 6 + torch.rand(count, 2, generator=seeded(seed + 1)) * side * 0.35], 1)


def small_detector(**options) -> FastRCNN:
    torch.manual_seed(0)
    backbone = LastStage(small_resnet((1, 2, 1)))
    head = FastRCNNHead(backbone.out_channels, CLASSES, backbone.strides, hidden=16, side=3)
    return FastRCNN(backbone, head, ImagePreparation((64,), 128), **options)


# --- the head against torchvision's, on given proposals ----------------------------------------------------------


@pytest.fixture
def pair():
    """torchvision's RoIHeads and our head with its weights, on two levels, in double precision."""
    torch.manual_seed(0)
    box = TwoMLPHead(6 * 49, 12)
    predictor = FastRCNNPredictor(12, CLASSES)
    theirs = RoIHeads(MultiScaleRoIAlign(["0", "1"], 7, 2), box, predictor, 0.5, 0.5, 24, 0.25, None, 0.05, 0.5, 20).double()
    mine = FastRCNNHead(6, CLASSES, (8, 16), hidden=12).double()
    mine.load_state_dict({**box.state_dict(), **predictor.state_dict()})
    mine.batch_size, mine.max_detections = 24, 20
    # with only two levels torchvision's first is the third, as ours
    return mine, theirs


@pytest.fixture
def features():
    return [torch.randn(2, 6, 128 // stride, 128 // stride, generator=seeded(3), dtype=torch.float64) for stride in (8, 16)]


def as_dict(features):
    return {str(i): feature for i, feature in enumerate(features)}


def test_one_step_equals_torchvision(pair, features):
    mine, theirs = pair
    images = photographs([(128, 128)] * 2)
    targets = targets_for(images, num_classes=CLASSES, counts=[3, 2])
    proposals = [random_boxes(60, seed=i) for i in range(2)]
    torch.manual_seed(5)
    _, expected = theirs.train()(as_dict(features), [p.clone() for p in proposals], [(128, 128)] * 2, targets)
    torch.manual_seed(5)
    found = mine.loss(features, mine.sample(proposals, targets))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-12)
    sum(expected.values()).backward()
    sum(found.values()).backward()
    torch.testing.assert_close(mine.fc6.weight.grad, theirs.box_head.fc6.weight.grad, rtol=0, atol=1e-12)
    assert mine.fc6.weight.grad.any()


def test_detections_equal_torchvision(pair, features):
    mine, theirs = pair
    with torch.no_grad():
        for head in (mine, theirs.box_predictor):
            head.cls_score.weight *= 12
            head.bbox_pred.weight *= 4
        proposals = [random_boxes(50, seed=i) for i in range(2)]
        expected, _ = theirs.eval()(as_dict(features), proposals, [(128, 128), (100, 120)])
        found = mine.detect(features, proposals, [(128, 128), (100, 120)])
    assert_same_detections(found, expected, pixels=1e-9, score=1e-12)
    assert all(len(d["boxes"]) == 20 for d in found)


# --- sampling, pooling -------------------------------------------------------------------------------------------


def test_background_comes_from_the_band_of_the_paper():
    head = FastRCNNHead(4, CLASSES, (8,), hidden=4)
    target = {"boxes": torch.tensor([[10.0, 10, 50, 50]]), "labels": torch.tensor([2])}
    boxes = random_boxes(400, seed=4).float()
    iou = box_iou(boxes, target["boxes"])[:, 0]
    counts = {}
    for start in (0.0, 0.1, 0.3):
        head.background_from = start
        samples = head.sample([boxes], [target])
        background = box_iou(samples.proposals[0][samples.labels[0] == 0], target["boxes"])[:, 0]
        counts[start] = len(background)
        assert ((background >= start) & (background < 0.5)).all()
        assert len(background) == min(int(((iou >= start) & (iou < 0.5)).sum()), 512 - int((samples.labels[0] > 0).sum()))
    assert counts[0.0] > counts[0.1] > counts[0.3] > 0


def test_without_objects_all_proposals_stay_background():
    """No IoU reaches the band; a picture without objects still has something to teach, and the loss is finite."""
    head = FastRCNNHead(4, CLASSES, (8,), hidden=4)
    head.background_from = 0.1
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    samples = head.sample([random_boxes(30).float()], [empty])
    assert samples.labels[0].tolist() == [0] * 30
    losses = head.loss([torch.randn(1, 4, 16, 16, generator=seeded())], samples)
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_box_reg"] == 0


def test_pooling_can_be_exchanged(features):
    """RoIPool on one map is torchvision's; on two maps each box is pooled where RoIAlign would take it from."""
    head = FastRCNNHead(6, CLASSES, (8,), hidden=4, side=3)
    boxes = [random_boxes(20), random_boxes(10, seed=9)]
    aligned = head.pool(features, boxes)
    torch.testing.assert_close(aligned, multiscale_roi_align(features[:1], boxes, 3, (8,)))
    head.pooling = multiscale_roi_pool
    pooled = head.pool(features, boxes)
    assert torch.equal(pooled, roi_pool(features[0], boxes, 3, 1 / 8))
    assert (pooled - aligned).abs().max() > 0.1
    head.strides, head.canonical_size = (8, 16), 128
    both = head.pool(features, boxes, 5)
    small = torch.cat(boxes)[:, 2:].sub(torch.cat(boxes)[:, :2]).prod(1).sqrt() < 128
    assert small.all(), "level 4 begins at 128 pixels"
    assert torch.equal(both, roi_pool(features[0], boxes, 5, 1 / 8))
    large = [torch.tensor([[0.0, 0, 128, 128]], dtype=torch.float64)] * 2
    assert torch.equal(head.pool(features, large), roi_pool(features[1], large, 3, 1 / 16))
    assert FastRCNNHead(6, CLASSES, (8,), hidden=4).pooling is multiscale_roi_align


def test_other_heads_pool_by_it_too(features):
    head = FastRCNNHead(6, CLASSES, (8,), hidden=4)
    head.pooling = multiscale_roi_pool
    boxes = [random_boxes(4), random_boxes(3)]
    regions = head.pool(features, boxes, MaskHead.side)
    assert regions.shape == (7, 6, 14, 14)
    assert torch.equal(regions, roi_pool(features[0], boxes, 14, 1 / 8))


# --- the detector ------------------------------------------------------------------------------------------------


def test_training_gives_two_losses_and_gradients_everywhere():
    model = small_detector().train()
    images = photographs([(64, 80), (90, 64)], torch.float32)
    targets = [{**t, "proposals": random_boxes(30, 60, seed=i).float()} for i, t in
               enumerate(targets_for(images, num_classes=CLASSES, counts=[2, 3]))]
    losses = model(images, targets)
    assert losses.keys() == {"loss_classifier", "loss_box_reg"}
    assert losses["loss_classifier"].item() == pytest.approx(math.log(CLASSES), abs=0.7)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    with pytest.raises(ValueError, match="training needs targets"):
        model(images)


def test_proposals_come_from_the_target_the_argument_or_the_search():
    searched = []

    def propose(image):
        searched.append(image.shape)
        return random_boxes(90, 60, seed=2).float()

    model = small_detector(max_proposals=40, propose=propose).eval()
    image, = photographs([(64, 64)], torch.float32)
    boxes = random_boxes(90, 60, seed=2).float()
    first = model([image])
    assert searched == [(3, 64, 64)]
    assert_same_detections(model([image], proposals=[boxes[:40]]), first)
    assert_same_detections(model([image], [{"proposals": boxes[:40]}]), first)
    assert len(searched) == 1
    other = model([image], proposals=[boxes[40:]])[0]["boxes"]
    assert other.shape != first[0]["boxes"].shape or not torch.equal(other, first[0]["boxes"])


def test_proposals_are_in_the_pixels_of_the_given_picture():
    """The same picture at twice the size with boxes twice as large: prepared alike, detected alike."""
    model = small_detector().eval()
    image, = photographs([(64, 64)], torch.float32)
    boxes = random_boxes(30, 60).float()
    large = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    small = model([image], proposals=[boxes])[0]
    twice = model([large], proposals=[boxes * 2])[0]
    assert len(small["boxes"]) > 10
    torch.testing.assert_close(twice["boxes"], small["boxes"] * 2, rtol=1e-4, atol=1e-2)
    assert (small["boxes"] <= 64).all()


def test_no_proposals_no_detections():
    model = small_detector(propose=lambda image: torch.zeros(0, 4)).eval()
    found, = model(photographs([(64, 64)], torch.float32))
    assert found["boxes"].shape == (0, 4)


# --- truncated SVD -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_the_error_of_truncated_svd_is_what_was_left_out(inputs, outputs, bias, seed):
    """The spectral norm of what is missing is the next singular value; at full rank nothing is missing."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(inputs, outputs, bias=bias).double()
    singular = torch.linalg.svdvals(layer.weight)
    for rank in range(1, min(inputs, outputs) + 1):
        thin = compress_linear(layer, rank)
        missing = layer.weight - thin[1].weight @ thin[0].weight
        left_out = singular[rank] if rank < len(singular) else torch.zeros(())
        torch.testing.assert_close(torch.linalg.matrix_norm(missing, 2), left_out.to(missing), rtol=1e-6, atol=1e-10)
    x = torch.randn(4, inputs, dtype=torch.float64)
    torch.testing.assert_close(thin(x), layer(x))
    assert (thin[1].bias is None) == (not bias)
    assert thin[0].bias is None


def test_truncated_svd_saves_multiply_adds_and_changes_little():
    """Weights that are nearly of low rank, as those of trained layers: cheap, and outputs nearly the same."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(300, 80)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(80, 10) @ torch.randn(10, 300) + 0.01 * torch.randn(80, 300))
    thin, x = compress_linear(layer, 10), torch.randn(7, 300)
    assert count_multiply_adds(layer, x) == 7 * 300 * 80
    assert count_multiply_adds(thin, x) == 7 * 10 * (300 + 80)
    assert (thin(x) - layer(x)).norm() < 0.02 * layer(x).norm()
    assert (compress_linear(layer, 5)(x) - layer(x)).norm() > 0.1 * layer(x).norm()
    assert all(parameter.requires_grad for parameter in thin.parameters())


@pytest.mark.parametrize("rank", [0, -1, 81])
def test_impossible_ranks(rank):
    with pytest.raises(ValueError, match=rf"rank {rank} of weights \(80, 300\): want 1 to 80"):
        compress_linear(torch.nn.Linear(300, 80), rank)
