"""SPPnet: features against brute force, one pass for all regions, scales, what is trained and what stays."""

import math

import pytest
import torch

from benchmarks.alive import photographs
from lessons.backbones.resnet import LastStage, small_resnet
from lessons.data.scenes import compose_scene
from lessons.detectors.sppnet import SPPNet, in_batch, nearest_scale
from lessons.detectors.svm_fitting import describe_regions, set_feature_norms, train_box_regressors, train_svms
from lessons.images import ImagePreparation


def random_boxes(count, side=90.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side * 0.6
    return torch.cat([corner, corner + 3 + torch.rand(count, 2, generator=generator) * side * 0.35], 1)


def small_model(sizes=(96,), **options) -> SPPNet:
    torch.manual_seed(0)
    backbone = LastStage(small_resnet((1, 2, 1)))
    return SPPNet(backbone, 7, [ImagePreparation((size,), 4 * size) for size in sizes], hidden=16, **options)


def pyramid_by_loops(feature, box, levels, stride):
    """One box, one level, one bin, one channel at a time (appendix A)."""
    x1, y1, x2, y2 = (value / stride for value in box.tolist())
    values = []
    for n in levels:
        cells = []
        for low, high in ((y1, y2), (x1, x2)):
            first, last = math.floor(low) + 1, math.ceil(high) - 1
            if last < first:  # no whole cell between the edges
                first = last = math.floor((low + high) / 2 + 0.5)
            size = last - first + 1
            cells.append([range(first + math.floor(i * size / n), first + math.ceil((i + 1) * size / n)) for i in range(n)])
        rows, columns = cells
        values += [max((feature[c, y, x].item() for y in row for x in column if y < feature.shape[1] and x < feature.shape[2]),
                       default=0.0) for c in range(len(feature)) for row in rows for column in columns]
    return torch.tensor(values)


@pytest.mark.parametrize("levels", [(4, 2, 1), (6, 3, 2, 1), (1,)])
def test_features_equal_brute_force(levels):
    model = small_model(levels=levels).eval()
    image, = photographs([(96, 128)], torch.float32)
    boxes = torch.cat([random_boxes(12), torch.tensor([[40.0, 40, 42, 41], [0, 0, 128, 96]])])
    batch, _ = model.prepare[0]([image])
    with torch.no_grad():
        feature = model.backbone(batch.pixels)[0][0]
        found = model.features(image, boxes)
    for row, box in zip(found.pool5, boxes, strict=True):
        torch.testing.assert_close(row, pyramid_by_loops(feature, box, levels, 8))
    torch.testing.assert_close(found.fc7, torch.relu(model.fc7(torch.relu(model.fc6(found.pool5)))))
    assert found.pool5.shape == (14, 144 * sum(n * n for n in levels))


def test_one_pass_whatever_the_number_of_boxes(monkeypatch):
    model = small_model(sizes=(96, 160)).eval()
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    for count in (1, 50):
        model.features(torch.rand(3, 96, 96), random_boxes(count))
    assert len(passes) == 2 * 2, "one for each scale"


def test_regions_of_several_images_keep_their_order():
    model = small_model(sizes=(96, 192)).eval()
    images = photographs([(96, 128), (128, 96), (96, 96)], torch.float32)
    boxes = [random_boxes(count, seed=count) for count in (5, 0, 8)]
    together = model.pool(images, boxes)
    apart = torch.cat([model.pool([image], [own]) for image, own in zip(images, boxes, strict=True)])
    # the padding of a batch touches cells by the edges of its smaller images
    same = (together - apart).abs().flatten(1).amax(1) < 1e-4
    assert same.float().mean() > 0.5
    alike = photographs([(96, 96)] * 2, torch.float32)
    torch.testing.assert_close(model.pool(alike, boxes[:1] * 2), torch.cat([model.pool([i], boxes[:1]) for i in alike]))


def test_the_scale_at_which_a_box_is_nearest_to_the_window():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 40, 40], [0, 0, 70, 70], [0, 0, 20, 80]])
    scales = torch.stack([boxes, boxes * 2, boxes * 3])
    wanted = [min(range(3), key=lambda s: abs(((s + 1) ** 2) * w * h - 64**2)) for w, h in (boxes[:, 2:]).tolist()]
    assert nearest_scale(scales, 64).tolist() == wanted == [2, 1, 0, 1]
    assert nearest_scale(boxes[None], 64).tolist() == [0] * 4


def test_boxes_of_each_scale_are_pooled_there():
    """With two scales a small box has the features of the enlarged image, a large one those of the small image."""
    both, small, large = (small_model(sizes).eval() for sizes in ((96, 192), (96,), (192,)))
    image, = photographs([(96, 96)], torch.float32)
    boxes = torch.tensor([[10.0, 10, 34, 40], [2, 4, 90, 92]])
    pooled = both.pool([image], [boxes])
    torch.testing.assert_close(pooled[0], large.pool([image], [boxes])[0])
    torch.testing.assert_close(pooled[1], small.pool([image], [boxes])[1])
    batch, _ = both.prepare[1]([image, image])
    assert in_batch([boxes[:1], boxes[1:]], batch).tolist() == [[0, 20, 20, 68, 80], [1, 4, 8, 180, 184]]


def test_fine_tuning_changes_the_fully_connected_layers_only():
    model = small_model(max_proposals=40).train()
    assert not model.backbone.training
    images, targets = zip(*[compose_scene("train", index, size=96) for index in range(2)], strict=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss = model(images, targets)["loss_classifier"]
    assert loss.item() == pytest.approx(math.log(7), abs=0.7)
    loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"fc{i}.{kind}" for i in (6, 7, 8) for kind in ("weight", "bias")}
    with pytest.raises(ValueError, match="in training SPPNet needs targets"):
        model(images)


def test_the_whole_detector():
    """SVMs fitted to random features still tell their training objects from background."""
    model = small_model(max_proposals=60).eval()
    samples = [compose_scene("train", index, size=96) for index in range(6)]
    regions = [describe_regions(model, image, target) for image, target in samples]
    set_feature_norms(model, regions)
    train_svms(model, regions)
    train_box_regressors(model, regions)
    own, background = [], []
    for image, target in samples:
        found = model([image])[0]
        assert ((found["labels"] >= 1) & (found["labels"] <= 6)).all()
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= 96).all()
        boxes, scores = model.candidates(image)
        truth = model.regions(image, target["boxes"])[1]
        own.append(truth[torch.arange(len(truth)), target["labels"] - 1])
        background.append(scores[model.overlaps(boxes, target).amax(1) < 0.3].flatten())
    assert torch.cat(own).mean() > torch.cat(background).mean() + 0.01
    copy = small_model(max_proposals=60).eval()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy([samples[0][0]])[0]["boxes"], model([samples[0][0]])[0]["boxes"])
    blind = small_model(propose=lambda image: torch.zeros(0, 4)).eval()
    assert blind([samples[0][0]])[0]["boxes"].shape == (0, 4)
