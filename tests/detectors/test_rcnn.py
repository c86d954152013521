"""R-CNN: warping against a plain loop, labels, sampling, SVMs, ridge regression, suppression, the detector."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.backbones.alexnet import SmallAlexNet
from lessons.boxes import box_iou
from lessons.coding import encode_boxes
from lessons.data.scenes import compose_scene
from lessons.detectors.rcnn import RCNN, enlarge_for_context, warp_crops
from lessons.detectors.svm_detector import class_overlaps, fine_tuning_labels, sample_fine_tuning_batch, suppress
from lessons.detectors.svm_fitting import (
    describe_regions,
    fit_box_regression,
    fit_svm,
    mine_hard_negatives,
    set_feature_norms,
    svm_examples,
    train_box_regressors,
    train_svms,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, size: float = 60.0, seed: int = 0) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=seeded(seed)) * size * 0.7
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=seeded(seed + 1)) * size * 0.3], 1)


def small_model(**options) -> RCNN:
    torch.manual_seed(0)
    return RCNN(SmallAlexNet(7, crop_size=32, hidden=16), **options)


# --- warping -----------------------------------------------------------------------------------------------------


def warp_by_loops(image, box, size, padding, fill):
    """One output pixel at a time: where does it lie in the image, and what do the four pixels around hold?"""
    scale = size / (size - 2 * padding)
    x1, y1, x2, y2 = box
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * scale, (y2 - y1) * scale
    out = np.zeros((3, size, size))
    for row in range(size):
        for column in range(size):
            x = cx - w / 2 + (column + 0.5) * w / size - 0.5  # pixel i has its centre at i + 0.5
            y = cy - h / 2 + (row + 0.5) * h / size - 0.5
            for iy in (math.floor(y), math.floor(y) + 1):
                for ix in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(x - ix)) * (1 - abs(y - iy))
                    inside = 0 <= iy < image.shape[1] and 0 <= ix < image.shape[2]
                    out[:, row, column] += weight * (image[:, iy, ix] if inside else fill)
    return out


@pytest.mark.parametrize("padding", [0, 2])
def test_warping_equals_a_loop_over_pixels(padding):
    image = torch.rand(3, 23, 31, generator=seeded(), dtype=torch.float64)
    boxes = torch.tensor([[2.0, 3, 9, 20], [0, 0, 31, 23], [-6, -4, 8, 12.5], [25.3, 18.2, 40, 30], [5, 5, 5.5, 5.25],
                          [-50, -50, -40, -40]], dtype=torch.float64)
    crops = warp_crops(image, boxes, 10, padding)
    for box, crop in zip(boxes.tolist(), crops, strict=True):
        want = warp_by_loops(image.numpy(), box, 10, padding, image.mean((1, 2)).numpy())
        torch.testing.assert_close(crop, torch.from_numpy(want))


def test_warping_a_box_of_the_crop_s_size_copies_it():
    image = torch.rand(3, 20, 20, generator=seeded())
    crop = warp_crops(image, torch.tensor([[4.0, 7, 12, 15]]), 8)[0]
    torch.testing.assert_close(crop, image[:, 7:15, 4:12])


def test_outside_is_the_mean_or_the_given_colour():
    image = torch.rand(3, 16, 16, generator=seeded())
    away = torch.tensor([[100.0, 100, 120, 140]])
    torch.testing.assert_close(warp_crops(image, away, 4)[0], image.mean((1, 2))[:, None, None].expand(3, 4, 4))
    colour = torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(warp_crops(image, away, 4, fill=colour)[0, :, 0, 0], colour)


def test_context_is_measured_in_the_warped_frame():
    """A white box on black: in the crop it ends exactly `padding` pixels from each side, whatever its size."""
    for box in ([10, 10, 50, 50], [20, 12, 44, 52], [3, 24, 59, 44]):
        image = torch.zeros(3, 64, 64, dtype=torch.float64)
        image[:, box[1]:box[3], box[0]:box[2]] = 1
        crop = warp_crops(image, torch.tensor([box], dtype=torch.float64), 64, 4, torch.zeros(3))[0, 0]
        assert crop[32].sum() == pytest.approx(56, abs=1)  # 64 - 2 * 4
        assert crop[:, 32].sum() == pytest.approx(56, abs=1)
        assert crop[32, :2].max() == crop[32, -2:].max() == 0


def test_the_papers_context_factor():
    grown = enlarge_for_context(torch.tensor([[0.0, 0, 100, 50]]), 227, 16)[0]
    assert (grown[2] - grown[0]).item() == pytest.approx(100 * 227 / 195)
    assert (grown[3] - grown[1]).item() == pytest.approx(50 * 227 / 195)
    assert (grown[:2] + grown[2:]).tolist() == pytest.approx([100, 50], abs=1e-4)
    for padding in (-1, 114):
        with pytest.raises(ValueError, match=f"padding of {padding}"):
            enlarge_for_context(torch.zeros(1, 4), 227, padding)


def test_warping_is_scale_equivariant():
    """Image and box at twice the size give the same crop (up to sampling): why R-CNN needs no image pyramid."""
    y, x = torch.meshgrid(torch.linspace(0, 6, 80), torch.linspace(0, 5, 80), indexing="ij")
    large = torch.stack([y.sin(), x.cos(), (x * y / 9).sin()]) / 2 + 0.5
    small = torch.nn.functional.avg_pool2d(large, 2)
    box = torch.tensor([[16.0, 12, 60, 70]])
    difference = warp_crops(large, box, 16) - warp_crops(small, box / 2, 16)
    assert difference.abs().max() < 0.01
    assert (warp_crops(large, box, 16) - warp_crops(large, box / 2, 16)).abs().max() > 0.3


def test_warping_passes_gradients_to_image_and_boxes():
    image = torch.rand(3, 9, 9, generator=seeded(), dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[1.3, 2.1, 6.7, 7.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, b: warp_crops(i, b, 4, 1), (image, boxes))


def test_warping_nothing_and_bad_boxes():
    image = torch.rand(3, 9, 9)
    assert warp_crops(image, torch.zeros(0, 4), 8).shape == (0, 3, 8, 8)
    for bad in ([3.0, 1, 3, 5], [1.0, 5, 4, 2], [0.0, 0, float("nan"), 4]):
        with pytest.raises(ValueError, match="no area"):
            warp_crops(image, torch.tensor([[0.0, 0, 5, 5], bad]), 8)


# --- labels and samples ------------------------------------------------------------------------------------------


def test_overlaps_and_labels_by_hand():
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [40, 40, 60, 60]])
    labels = torch.tensor([2, 1, 2])
    proposals = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [40, 40, 60, 49], [80, 80, 90, 90]])
    overlaps = class_overlaps(proposals, objects, labels, 3)
    want = torch.tensor([[0.8, 1.0, 0], [5 / 8, 0.5, 0], [0, 0.45, 0], [0, 0, 0]])
    torch.testing.assert_close(overlaps, want)
    assert fine_tuning_labels(overlaps).tolist() == [2, 1, 0, 0]
    assert fine_tuning_labels(overlaps, 0.4).tolist() == [2, 1, 2, 0]
    assert fine_tuning_labels(torch.tensor([[0.5, 0.1]])).tolist() == [1], "0.5 itself is positive"


def test_overlaps_without_objects_or_proposals():
    none, nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert class_overlaps(random_boxes(4), none, nothing, 3).tolist() == [[0.0] * 3] * 4
    assert class_overlaps(none, random_boxes(2), torch.tensor([1, 2]), 3).shape == (0, 3)
    assert fine_tuning_labels(torch.zeros(4, 3)).tolist() == [0] * 4


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_overlaps_equal_a_loop(seed):
    proposals, objects = random_boxes(12, seed=seed), random_boxes(5, seed=seed + 7)
    labels = torch.randint(1, 4, (5,), generator=seeded(seed))
    overlaps = class_overlaps(proposals, objects, labels, 3)
    for i in range(12):
        for k in range(3):
            of_class = [box_iou(proposals[i:i + 1], objects[j:j + 1]).item() for j in range(5) if labels[j] == k + 1]
            assert overlaps[i, k].item() == pytest.approx(max(of_class, default=0.0))


def test_batches_hold_32_objects_and_96_backgrounds():
    labels = torch.zeros(1000, dtype=torch.int64)
    labels[::10] = torch.randint(1, 7, (100,), generator=seeded())
    chosen = sample_fine_tuning_batch(labels, generator=seeded())
    assert (labels[chosen] > 0).sum() == 32
    assert (labels[chosen] == 0).sum() == 96
    assert len(chosen.unique()) == 128, "without replacement where there are enough"
    assert torch.equal(chosen, sample_fine_tuning_batch(labels, generator=seeded()))


def test_batches_where_a_kind_is_rare_or_missing():
    labels = torch.zeros(50, dtype=torch.int64)
    labels[7] = 3
    chosen = sample_fine_tuning_batch(labels, generator=seeded())
    assert (chosen == 7).sum() == 32
    assert len(chosen) == 128
    for only in (0, 2):
        chosen = sample_fine_tuning_batch(torch.full((5,), only), 3, 9, seeded())
        assert len(chosen) == 12
        assert chosen.max() < 5
    with pytest.raises(ValueError, match="no proposal"):
        sample_fine_tuning_batch(torch.zeros(0, dtype=torch.int64))


# --- SVMs and ridge regression -----------------------------------------------------------------------------------


def clouds(count: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn(2 * count, 8, generator=seeded(seed))
    shift = torch.zeros(8)
    shift[0] = 3
    return noise[:count] + shift, noise[count:] - shift


def test_svm_separates_and_is_the_same_every_time():
    positives, negatives = clouds()
    weight, bias = fit_svm(positives, negatives, c=1.0)
    assert weight.shape == (8,)
    assert (positives @ weight + bias > 0).float().mean() > 0.98
    assert (negatives @ weight + bias < 0).float().mean() > 0.98
    again = fit_svm(positives, negatives, c=1.0)
    assert torch.equal(weight, again[0])
    assert torch.equal(bias, again[1])


def test_svm_minimises_its_objective():
    """No random step from the solution lowers |w|^2 / 2 + b^2 / 200 + C sum of weighted squared hinges."""
    positives, negatives = clouds(40)

    def objective(w, b):
        hinge = (1 - (positives @ w + b)).clamp(min=0).square().sum() * 2
        hinge = hinge + (1 + (negatives @ w + b)).clamp(min=0).square().sum()
        return 0.5 * w.square().sum() + 0.5 * (b / 10) ** 2 + 0.01 * hinge

    weight, bias = (t.double() for t in fit_svm(positives, negatives, c=0.01))
    positives, negatives = positives.double(), negatives.double()
    best = objective(weight, bias)
    for seed in range(50):
        step = torch.randn(9, generator=seeded(seed), dtype=torch.float64) * 0.02
        assert objective(weight + step[:8], bias + step[8]) > best - 1e-6


def test_svm_needs_both_kinds():
    positives, negatives = clouds(3)
    with pytest.raises(ValueError, match="3 positives and 0 negatives"):
        fit_svm(positives, negatives[:0])
    with pytest.raises(ValueError, match="0 positives and 3 negatives"):
        fit_svm(positives[:0], negatives)


def test_mining_finds_the_hard_negatives():
    """A few negatives near the positives hide in the last portion: mining must pull the boundary back."""
    positives, negatives = clouds(400)
    hard = positives[:60] - torch.tensor([2.5] + [0.0] * 7)
    lazy_weight, lazy_bias = fit_svm(positives, negatives[:100], c=1.0)
    weight, bias = mine_hard_negatives(positives, [negatives[:100], negatives[100:], hard], c=1.0)
    lazy = (hard @ lazy_weight + lazy_bias > 0).float().mean()
    mined = (hard @ weight + bias > 0).float().mean()
    assert lazy > 0.3
    assert mined < lazy / 2
    everything = fit_svm(positives, torch.cat([negatives, hard]), c=1.0)
    torch.testing.assert_close(weight, everything[0], atol=0.1, rtol=0.1)


def test_ridge_solves_its_equation():
    features = torch.randn(50, 6, generator=seeded(), dtype=torch.float64)
    proposals = random_boxes(50).double()
    objects = (proposals + torch.rand(50, 4, generator=seeded(5)) * torch.tensor([-1.0, -1, 1, 1])).double()
    weight, bias = fit_box_regression(features, proposals, objects, ridge=3.0)
    from sklearn.linear_model import Ridge

    reference = Ridge(alpha=3.0).fit(features.numpy(), encode_boxes(objects, proposals).numpy())
    torch.testing.assert_close(weight, torch.from_numpy(reference.coef_))
    torch.testing.assert_close(bias, torch.from_numpy(reference.intercept_))


def test_whitened_targets_change_nothing():
    """R-CNN's code whitens the targets; as the solution is linear in them, the predictions stay the same."""
    features = torch.randn(80, 5, generator=seeded(), dtype=torch.float64)
    targets = torch.randn(80, 4, generator=seeded(1), dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64,
                                                                                       generator=seeded(2))
    centred = targets - targets.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / 80)
    whiten, back = vectors @ (values.rsqrt().diag() @ vectors.T), vectors @ (values.sqrt().diag() @ vectors.T)

    def solve(t):
        return torch.linalg.solve(features.T @ features + 10 * torch.eye(5, dtype=torch.float64), features.T @ t)

    torch.testing.assert_close(features @ solve(centred @ whiten) @ back, features @ solve(centred))


def test_ridge_learns_a_shift_and_shrinks_with_lambda():
    proposals = random_boxes(300, 100)
    objects = proposals + torch.tensor([0.1, -0.2, 0.1, -0.2]) * (proposals[:, 2:] - proposals[:, :2]).repeat(1, 2)
    features = torch.randn(300, 4, generator=seeded())
    weight, bias = fit_box_regression(features, proposals, objects)
    assert bias.tolist() == pytest.approx([0.1, -0.2, 0, 0], abs=1e-4)
    assert weight.abs().max() < 1e-5
    targets = features[:, :1] * 0.1
    objects = proposals + targets * (proposals[:, 2:] - proposals[:, :2]).repeat(1, 2) * torch.tensor([1.0, 0, 1, 0])
    slope = [fit_box_regression(features, proposals, objects, ridge)[0][0, 0].item() for ridge in (0.1, 1000.0, 1e6)]
    assert slope[0] == pytest.approx(0.1, abs=1e-3)
    assert slope[0] > slope[1] > slope[2] > 0


def test_ridge_without_pairs_leaves_boxes_alone():
    weight, bias = fit_box_regression(torch.zeros(0, 6), torch.zeros(0, 4), torch.zeros(0, 4))
    assert not weight.any()
    assert not bias.any()


# --- the last steps ----------------------------------------------------------------------------------------------


def test_suppression_is_per_class_and_boxes_are_regressed_after_it():
    boxes = torch.tensor([[10.0, 10, 30, 30], [11, 10, 30, 30], [60, 60, 80, 80]])
    scores = torch.tensor([[2.0, 0.5], [1.0, 0.7], [-0.5, -1.5]])
    regressed = torch.stack([boxes + 1, boxes + 30], 1)
    found = suppress(boxes, scores, regressed, (90, 90))
    assert found["labels"].tolist() == [1, 2, 1]
    assert found["scores"].tolist() == pytest.approx([2.0, 0.7, -0.5])
    assert found["boxes"].tolist() == [[11, 11, 31, 31], [41, 40, 60, 60], [61, 61, 81, 81]]
    assert len(suppress(boxes, scores, regressed, (90, 90), iou_threshold=1.0)["scores"]) == 5
    assert len(suppress(boxes, scores, regressed, (90, 90), max_detections=1)["scores"]) == 1


def test_suppression_clips_and_drops_what_left_the_image():
    boxes = torch.tensor([[10.0, 10, 30, 30], [60, 60, 80, 80]])
    regressed = torch.tensor([[[-5.0, -5, 200, 20]], [[100, 100, 120, 120]]])
    found = suppress(boxes, torch.tensor([[1.0], [2.0]]), regressed, (50, 90))
    assert found["boxes"].tolist() == [[0, 0, 90, 20]]
    assert found["labels"].tolist() == [1]
    empty = suppress(torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0, 3, 4), (50, 90))
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].dtype == torch.int64


# --- the detector ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> RCNN:
    """A tiny R-CNN whose SVMs and regressors are fitted to random CNN features of a few scenes."""
    model = small_model(max_proposals=60).eval()
    samples = [compose_scene("train", index, size=96) for index in range(6)]
    regions = [describe_regions(model, image, target) for image, target in samples]
    set_feature_norms(model, regions)
    train_svms(model, regions)
    train_box_regressors(model, regions)
    return model


def test_training_returns_a_loss_with_gradients_everywhere():
    model = small_model(max_proposals=40).train()
    images, targets = zip(*[compose_scene("train", index, size=96) for index in range(2)], strict=True)
    loss = model(images, targets)["loss_classifier"]
    loss.backward()
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(math.log(7), abs=0.7)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    with pytest.raises(ValueError, match="needs targets"):
        model(images)


def test_crops_and_labels_of_a_fine_tuning_batch_belong_together():
    """Images of one grey level per label: the crop's colour must tell its label."""
    model = small_model()
    images, targets = [], []
    for label in (1, 4):
        image = torch.zeros(3, 64, 64)
        image[:, 16:48, 16:48] = label / 10
        images.append(image)
        targets.append({"boxes": torch.tensor([[16.0, 16, 48, 48]]), "labels": torch.tensor([label]),
                        "proposals": torch.tensor([[15.0, 16, 48, 48], [0, 0, 14, 64], [50, 0, 64, 64.0]])})
    crops, labels = model.fine_tuning_batch(images, targets)
    centre = crops[:, 0, 16, 16] + model.mean[0]
    assert sorted(set(labels.tolist())) == [0, 1, 4]
    torch.testing.assert_close(centre, labels / 10.0, atol=1e-5, rtol=0)
    assert (labels > 0).sum() == 32


def test_given_proposals_spare_the_search():
    def never(image):
        raise AssertionError("the proposals were given")

    model = small_model(propose=never).train()
    image, target = compose_scene("train", 0, size=96)
    model([image], [target | {"proposals": torch.tensor([[5.0, 5, 50, 60], [0, 0, 90, 90]])}])
    with pytest.raises(AssertionError, match="given"):
        model([image], [target])


def test_detections_have_the_agreed_form(trained):
    images = [compose_scene("val", index, size=96)[0] for index in range(2)]
    for found in trained(images):
        assert found["boxes"].shape == (len(found["scores"]), 4)
        assert found["labels"].dtype == torch.int64
        assert ((found["labels"] >= 1) & (found["labels"] <= 6)).all()
        assert (found["scores"].diff() <= 0).all()
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= 96).all()
        assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()
        assert not found["boxes"].requires_grad
    assert trained([]) == []


def test_detection_is_deterministic_and_saved_whole(trained):
    image = compose_scene("val", 3, size=96)[0]
    copy = small_model(max_proposals=60).eval()
    assert copy.load_state_dict(trained.state_dict()).missing_keys == []
    first, second = trained([image])[0], copy([image])[0]
    assert len(first["scores"]) > 0
    for key in first:
        assert torch.equal(first[key], second[key])


def test_svms_separate_their_training_scenes(trained):
    """True boxes score higher for their own class than background does, even on random features."""
    own, background = [], []
    for index in range(6):
        image, target = compose_scene("train", index, size=96)
        boxes, scores = trained.candidates(image)
        overlaps = trained.overlaps(boxes, target)
        truth = trained.regions(image, target["boxes"])[1]
        own.append(truth[torch.arange(len(truth)), target["labels"] - 1])
        background.append(scores[overlaps.amax(1) < 0.3].flatten())
    assert torch.cat(own).mean() > torch.cat(background).mean() + 0.01


def test_svm_examples_follow_the_definitions(trained):
    samples = [compose_scene("train", index, size=96) for index in range(3)]
    regions = [describe_regions(trained, image, target) for image, target in samples]
    for k in range(6):
        positives, negatives = svm_examples([region.fc7 for region in regions], regions, k)
        assert len(positives) == sum((target["labels"] == k + 1).sum() for _, target in samples)
        assert [len(part) for part in negatives] == [int((r.overlaps[:, k] < 0.3).sum()) for r in regions]
    for region in regions:
        iou = box_iou(region.near, region.objects)
        assert (iou.diagonal() > 0.6).all()
        assert (iou.diagonal() >= iou.amax(1) - 1e-6).all(), "each is paired with the object it covers best"


def test_images_without_objects_or_proposals(trained):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    image = compose_scene("val", 1, size=96)[0]
    region = describe_regions(trained, image, empty)
    assert len(region.near) == len(region.labels) == 0
    assert (region.overlaps == 0).all()
    blind = small_model(propose=lambda image: torch.zeros(0, 4)).eval()
    assert blind([image])[0]["boxes"].shape == (0, 4)
    regions = [describe_regions(blind, image, empty)]
    set_feature_norms(blind, regions)
    train_svms(blind, regions)
    train_box_regressors(blind, regions)
    assert blind.feature_norms.isfinite().all()
    assert (blind.svm_bias == -1).all()


def test_the_backbone():
    net = SmallAlexNet(7).eval()
    features = net.features(torch.rand(2, 3, 64, 64))
    assert features.pool5.shape == (2, 96, 4, 4)
    assert features.fc6.shape == features.fc7.shape == (2, 384)
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    assert all((layer >= 0).all() for layer in features)
    with pytest.raises(ValueError, match="50"):
        SmallAlexNet(7, crop_size=50)
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\)"):
        net(torch.rand(2, 3, 32, 32))
