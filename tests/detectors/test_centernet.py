"""CornerNet and CenterNet: modules against loops, targets and losses by hand, perfect maps, learning, odd cases."""

import math
import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lessons.backbones.hourglass import Hourglass
from lessons.corners import KeypointMaps
from lessons.detectors.centernet import CenterNet, CornerNet, at, cells_of
from lessons.detectors.corner_head import (
    PRIOR,
    CascadeCornerPooling,
    CentrePooling,
    CornerPooling,
    KeypointHead,
    NoPooling,
    centernet_head,
    cornernet_head,
)
from lessons.heatmaps import gaussian_radius
from lessons.images import ImageBatch, ImagePreparation
from lessons.nms import soft_nms
from lessons.order import seeded

CLASSES = 4  # with the background


def build(kind=CenterNet, stacks=1, side=32, widths=(8, 12)):
    """A detector of one or more tiny hourglasses."""
    with seeded(0):
        backbone = Hourglass(widths, (1, 1), stacks)
        head = centernet_head if kind is CenterNet else cornernet_head
        heads = [head(widths[0], CLASSES, hidden=8) for _ in range(stacks)]
        return kind(backbone, heads, ImagePreparation((side,), 4 * side))


def picture(height=64, width=96, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, labels):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


TWO = target([[4.0, 6, 30, 41], [20, 10, 64, 64]], [1, 3])


# --- pooling modules ---------------------------------------------------------------------------------------------


def pooled_by_loop(x, direction):
    """The running maximum towards one edge, cell by cell."""
    result = x.clone()
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            ahead = {"top": x[..., i:, j], "bottom": x[..., :i + 1, j], "left": x[..., i, j:], "right": x[..., i, :j + 1]}
            result[..., i, j] = ahead[direction].amax(-1)
    return result


def block(x, layers):
    """Convolution, batch normalisation in evaluation, ReLU, from their weights."""
    convolution, norm = layers[0], layers[1]
    y = F.conv2d(x, convolution.weight, padding=convolution.kernel_size[0] // 2)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return F.relu((y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None])


def randomised(module):
    """Weights, and statistics of batch normalisation, that all matter."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.bias.data, part.running_mean, part.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (tensor is not part.bias.data) * 0.5)
    return module.double().eval()


@pytest.mark.parametrize("corner", ["top_left", "bottom_right"])
@torch.no_grad()
def test_pooling_modules_equal_the_loop(corner):
    """The network of figure 7 (CornerNet) and figure 5 (CenterNet), written out with a loop for each pooling."""
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vertical, horizontal = {"top_left": ("top", "left"), "bottom_right": ("bottom", "right")}[corner]
    simple = randomised(CornerPooling(5, 3, corner))
    expected = pooled_by_loop(block(x, simple.first), vertical) + pooled_by_loop(block(x, simple.second), horizontal)
    torch.testing.assert_close(simple(x), expected)

    cascade = randomised(CascadeCornerPooling(5, 3, corner))
    from_inside = block(x, cascade.first) + pooled_by_loop(block(x, cascade.first_inside), horizontal)
    expected = pooled_by_loop(F.conv2d(from_inside, cascade.first_look.weight, padding=1), vertical)
    from_inside = block(x, cascade.second) + pooled_by_loop(block(x, cascade.second_inside), vertical)
    expected += pooled_by_loop(F.conv2d(from_inside, cascade.second_look.weight, padding=1), horizontal)
    torch.testing.assert_close(cascade(x), expected)

    centre = randomised(CentrePooling(5, 3))
    columns, rows = block(x, centre.first), block(x, centre.second)
    expected = torch.stack([torch.stack([columns[..., :, j].amax(-1) + rows[..., i, :].amax(-1) for j in range(7)], -1)
                            for i in range(6)], -2)
    torch.testing.assert_close(centre(x), expected)
    plain = randomised(NoPooling(5, 3))
    torch.testing.assert_close(plain(x), block(x, plain.first) + block(x, plain.second))


@pytest.mark.parametrize(("kind", "inside"), [(CornerPooling, False), (CascadeCornerPooling, True)])
def test_what_a_corner_sees(kind, inside):
    """Its row and its column ahead, none behind; with a cascade also what lies inside. Convolutions blur by two cells."""
    module = randomised(kind(4, 4, "top_left"))
    x = torch.rand(40, 4, 14, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[:, :, 4, 4].sum(), x)
    felt = gradient.abs().sum(dim=(0, 1)) > 0
    assert felt[4, 8:].any()
    assert felt[8:, 4].any()
    assert not felt[:2].any()
    assert not felt[:, :2].any()
    assert felt[8:, 8:].any().item() is inside


@torch.no_grad()
def test_a_branch_is_a_residual_block_around_the_pooling():
    head = randomised(centernet_head(6, CLASSES, hidden=4))
    x = torch.randn(2, 6, 5, 8, dtype=torch.float64)
    for kind, branch in head.items():
        maps = branch(x)
        merged = branch.merge[1](F.conv2d(branch.pooling(x), branch.merge[0].weight, padding=1))
        y = block(F.relu(merged + branch.shortcut[1](F.conv2d(x, branch.shortcut[0].weight))), branch.last)
        for values, network in ((maps.heat, branch.heat), (maps.offsets, branch.offsets)):
            hidden = F.relu(F.conv2d(y, network[0].weight, network[0].bias, padding=1))
            torch.testing.assert_close(values, F.conv2d(hidden, network[2].weight, network[2].bias))
        assert [tuple(m.shape) for m in maps[:2]] == [(2, CLASSES - 1, 5, 8), (2, 2, 5, 8)]
        assert (maps.tags is None) == (kind == "centre")
    assert {kind: type(branch.pooling) for kind, branch in head.items()} == {
        "top_left": CascadeCornerPooling, "bottom_right": CascadeCornerPooling, "centre": CentrePooling}
    assert {type(branch.pooling) for branch in cornernet_head(6, CLASSES, 4).values()} == {CornerPooling}


def test_the_first_heat_is_the_prior():
    maps = centernet_head(6, CLASSES, 4)(torch.zeros(1, 6, 4, 4))
    for one in maps.values():
        torch.testing.assert_close(one.heat.sigmoid(), torch.full_like(one.heat, PRIOR), rtol=0.2, atol=0)


# --- what is learnt ----------------------------------------------------------------------------------------------


def perfect(model, targets, size, wrong=-200.0):
    """Maps, logits for heat, that say exactly what the targets do; object n has the tag 2n."""
    height, width = size[0] // model.stride, size[1] // model.stride
    maps = {kind: KeypointMaps(torch.full((len(targets), CLASSES - 1, height, width), wrong), torch.zeros(len(targets), 2, height, width),
                               None if kind == "centre" else torch.zeros(len(targets), 1, height, width)) for kind in model.kinds}
    for image, one in enumerate(targets):
        for n, (box, label) in enumerate(zip(one["boxes"].tolist(), one["labels"].tolist(), strict=True)):
            x1, y1, x2, y2 = (side / model.stride for side in box)
            for kind, (x, y) in (("top_left", (x1, y1)), ("bottom_right", (x2, y2)), ("centre", ((x1 + x2) / 2, (y1 + y2) / 2))):
                if kind in model.kinds:
                    i, j = min(int(y), height - 1), min(int(x), width - 1)
                    maps[kind].heat[image, label - 1, i, j] = -wrong
                    maps[kind].offsets[image, :, i, j] = torch.tensor([x - j, y - i])
                    if kind != "centre":
                        maps[kind].tags[image, 0, i, j] = 2 * n
    return maps


def heated(maps):
    return {kind: one._replace(heat=one.heat.sigmoid()) for kind, one in maps.items()}


def heat_by_loop(model, one, kind, shape):
    """The target for heat of one picture, cell by cell."""
    heat = torch.zeros(shape)
    for box, label in zip(one["boxes"].tolist(), one["labels"].tolist(), strict=True):
        x1, y1, x2, y2 = (side / model.stride for side in box)
        x, y = {"top_left": (x1, y1), "bottom_right": (x2, y2), "centre": ((x1 + x2) / 2, (y1 + y2) / 2)}[kind]
        row, column = min(math.floor(y), shape[1] - 1), min(math.floor(x), shape[2] - 1)
        width, height = math.ceil(x2 - x1), math.ceil(y2 - y1)
        radius = math.floor(gaussian_radius(torch.tensor([[width, height]], dtype=torch.float64), model.min_iou).item())
        for i in range(shape[1]):
            for j in range(shape[2]):
                if abs(i - row) <= radius and abs(j - column) <= radius:
                    value = math.exp(-18 * ((i - row) ** 2 + (j - column) ** 2) / (2 * radius + 1) ** 2)
                    heat[label - 1, i, j] = max(heat[label - 1, i, j].item(), value)
    return heat


MANY = target([[8.0 * i, 5 * i, 8 * i + 40, 5 * i + 30] for i in range(7)], [2] * 7)
BORDER = target([[0.0, 0, 96, 64], [0, 0, 4, 4], [95.5, 63, 96, 64], [3.9, 4.1, 7.9, 8.1]], [1, 2, 3, 1])
NOTHING = target([], [])


@pytest.mark.parametrize("kind", [CornerNet, CenterNet])
def test_targets_equal_the_loop(kind):
    model, targets = build(kind), [TWO, MANY, BORDER, NOTHING]
    logits = torch.zeros(4, CLASSES - 1, 16, 24)
    for name, places in model.keypoints(targets).items():
        heat = model.wanted_heat([cells_of(place, logits) for place in places], targets, logits)
        expected = torch.stack([heat_by_loop(model, one, name, (CLASSES - 1, 16, 24)) for one in targets])
        torch.testing.assert_close(heat, expected)
    assert tuple(model.keypoints(targets)) == model.kinds


def test_cells_and_what_maps_say_there():
    maps = torch.arange(2 * 3 * 4.0).view(2, 3, 4)
    cells = cells_of(torch.tensor([[0.0, 0], [3.99, 2.5], [4, 3], [9, 0]]), maps)
    assert cells.tolist() == [[0, 0], [3, 2], [3, 2], [3, 0]]
    assert at(maps, cells).tolist() == [[0, 12], [11, 23], [11, 23], [3, 15]]
    assert at(maps, cells[:0]).shape == (0, 2)


@pytest.mark.parametrize("kind", [CornerNet, CenterNet])
@pytest.mark.parametrize("targets", [[TWO], [MANY, TWO, NOTHING], [BORDER]])
def test_perfect_maps_cost_nothing_and_give_the_objects_back(kind, targets):
    model = build(kind)
    maps = perfect(model, targets, (64, 96))
    losses = model.losses([maps], targets)
    assert set(losses) == {"heat", "offset", "pull", "push"}
    if targets[0] is not BORDER:  # where several corners share a cell, and so a tag
        assert max(losses.values()) < 1e-6
    found = model.detect(heated(maps), ImageBatch(torch.zeros(len(targets), 3, 64, 96), [(64, 96)] * len(targets), [(128, 192)] * len(targets)))
    for one, detections in zip(targets, found, strict=True):
        if one is BORDER:
            continue
        right = {(label, *(2 * side for side in box)) for box, label in zip(one["boxes"].tolist(), one["labels"].tolist(), strict=True)}
        sure = detections["scores"] > 0.3  # soft-NMS lowers the scores of those that overlap
        assert {(label, *box) for box, label in zip(detections["boxes"][sure].tolist(), detections["labels"][sure].tolist(), strict=True)} <= right
        assert len(detections["scores"]) == len(one["labels"])


def test_losses_by_hand():
    """One object in maps of 2 x 2 cells, logits 0 but for one, every number worked out."""
    model = build(CornerNet)
    heat = torch.zeros(1, CLASSES - 1, 2, 2)
    heat[0, 0, 0, 0] = math.log(3)  # 0.75 at the true corner
    offsets, tags = torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
    tags[0, 0, 0, 0], tags[0, 0, 1, 1] = 1.0, 3.0
    maps = {"top_left": KeypointMaps(heat, offsets, tags), "bottom_right": KeypointMaps(torch.zeros_like(heat), offsets + 0.5, tags)}
    losses = model.losses([maps], [target([[1.0, 2, 6, 7]], [1])])
    # 1.25 cells a side: ceil 2 x 2, radius (2 - (0.3 * 4) ** 0.5) / 2 = 0.45, so bumps of one cell
    half = 0.25 * math.log(2)
    heat_loss = (0.25**2 * -math.log(0.75) + 11 * half) + (half + 11 * half)
    assert losses["heat"].item() == pytest.approx(heat_loss, rel=1e-5)
    # offsets (0.25, 0.5) against 0 and (0.5, 0.75) against 0.5, smooth L1
    assert losses["offset"].item() == pytest.approx((0.25**2 + 0.5**2) / 2 + 0.25**2 / 2, rel=1e-5)
    assert losses["pull"].item() == pytest.approx(0.1 * 2, rel=1e-5)  # 1 and 3 to their mean, squared
    assert losses["push"].item() == 0
    model.pull_weight, model.offset_weight = 1.0, 0.0
    assert model.losses([maps], [target([[1.0, 2, 6, 7]], [1])])["pull"].item() == pytest.approx(2, rel=1e-5)
    assert model.losses([maps], [target([[1.0, 2, 6, 7]], [1])])["offset"].item() == 0


def test_losses_are_means_over_pictures_and_heads():
    model, generator = build(CenterNet, stacks=2), torch.Generator().manual_seed(0)

    def random_maps(count):
        return {kind: KeypointMaps(*(torch.randn(count, channels, 16, 24, generator=generator) for channels in (CLASSES - 1, 2)),
                                   None if kind == "centre" else torch.randn(count, 1, 16, 24, generator=generator)) for kind in model.kinds}

    def only(maps, image):
        return {kind: KeypointMaps(*(None if part is None else part[image:image + 1] for part in one)) for kind, one in maps.items()}

    first, second, targets = random_maps(2), random_maps(2), [TWO, MANY]
    both = model.losses([first, second], targets)
    for name, value in both.items():
        single = [model.losses([maps], targets)[name].item() for maps in (first, second)]
        assert value.item() == pytest.approx(statistics.fmean(single), rel=1e-5)
    whole, parts = model.losses([first], targets), [model.losses([only(first, i)], targets[i:i + 1]) for i in (0, 1)]
    for name in ("pull", "push"):
        assert whole[name].item() == pytest.approx(statistics.fmean(part[name].item() for part in parts), rel=1e-5)
    for name in ("heat", "offset"):  # by the number of objects in the batch: 2 and 7
        assert whole[name].item() == pytest.approx((2 * parts[0][name].item() + 7 * parts[1][name].item()) / 9, rel=1e-4)


# --- the whole detector ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "stacks"), [(CornerNet, 1), (CenterNet, 1), (CenterNet, 2)])
def test_gradients_reach_every_weight(kind, stacks):
    model = build(kind, stacks).train()
    losses = model([picture(), picture(40, 57, 1)], [TWO, NOTHING])
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_pictures_without_objects():
    model = build().train()
    losses = model([picture(), picture()], [NOTHING, NOTHING])
    assert losses["heat"] > 0
    assert [losses[name].item() for name in ("offset", "pull", "push")] == [0, 0, 0]
    sum(losses.values()).backward()
    with torch.no_grad():
        for branch in model.heads[0].values():
            branch.heat[2].bias.fill_(-200)  # nothing anywhere
        (found,) = model.eval()([picture()])
    assert {key: tuple(value.shape) for key, value in found.items()} == {"boxes": (0, 4), "labels": (0,), "scores": (0,)}


@pytest.mark.parametrize("kind", [CornerNet, CenterNet])
def test_detections_lie_in_pictures_of_any_size(kind):
    model, sizes = build(kind).eval(), [(64, 96), (33, 97), (50, 50)]
    with torch.no_grad():
        for branch in model.heads[0].values():
            nn.init.normal_(branch.heat[2].weight, std=3.0)
        found = model([picture(*size, seed) for seed, size in enumerate(sizes)])
    assert sum(len(one["boxes"]) for one in found) > 20
    for (height, width), one in zip(sizes, found, strict=True):
        assert len(one["boxes"]) <= model.max_detections
        assert one["boxes"].numel() == 0 or (one["boxes"].amin() >= 0 and (one["boxes"].amax(0)[2:] <= torch.tensor([width, height]) + 1e-3).all())
        assert (one["scores"].diff() <= 0).all()
        assert ((one["labels"] >= 1) & (one["labels"] < CLASSES)).all()
        assert one["labels"].dtype == torch.int64


def test_soft_nms_lowers_scores_in_each_class():
    model = build()
    found = {"boxes": torch.tensor([[1.0, 1, 9, 9], [1, 1, 9, 8], [2, 1, 9, 9], [12, 3, 15, 15.5]]), "labels": torch.tensor([0, 0, 1, 0]),
             "scores": torch.tensor([0.9, 0.8, 0.7, 0.6])}
    result = model.suppress(found, (64, 64))
    own = torch.tensor([0, 1, 3])
    kept, scores = soft_nms(found["boxes"][own] * 4, found["scores"][own], sigma=0.5, method="gaussian")
    wanted = sorted([*zip(scores.tolist(), own[kept].tolist(), strict=True), (found["scores"][2].item(), 2)], reverse=True)
    assert result["scores"].tolist() == pytest.approx([score for score, _ in wanted])
    assert torch.equal(result["boxes"], found["boxes"][[i for _, i in wanted]] * 4)
    assert result["labels"].tolist() == [found["labels"][i].item() + 1 for _, i in wanted]
    assert result["scores"][-1] < 0.4  # the second box, under the first
    outside = model.suppress(found | {"boxes": found["boxes"] + torch.tensor([16.0, 0, 16, 0])}, (64, 64))
    assert {key: len(value) for key, value in outside.items()} == {"boxes": 0, "scores": 0, "labels": 0}
    model.max_detections = 2
    assert len(model.suppress(found, (64, 64))["scores"]) == 2


def test_centres_reject_what_corners_alone_accept():
    """CornerNet and CenterNet on the same perfect maps, tags all alike: pairs across objects are for centres to refuse."""
    both = target([[4.0, 8, 20, 28], [40, 8, 56, 28]], [1, 1])
    batch = ImageBatch(torch.zeros(1, 3, 64, 96), [(64, 96)], [(64, 96)])
    counts = {}
    for kind in (CornerNet, CenterNet):
        model = build(kind)
        maps = perfect(model, [both], (64, 96))
        maps = {name: one if one.tags is None else one._replace(tags=one.tags * 0) for name, one in maps.items()}
        counts[kind] = len(model.detect(heated(maps), batch)[0]["boxes"])
    assert counts == {CornerNet: 3, CenterNet: 2}


def test_large_boxes_need_their_centre_in_a_fifth():
    model, one = build(), target([[0.0, 0, 60, 60]], [1])
    maps, batch = perfect(model, [one], (64, 96)), ImageBatch(torch.zeros(1, 3, 64, 96), [(64, 96)], [(64, 96)])
    moved = maps | {"centre": maps["centre"]._replace(heat=maps["centre"].heat.roll(1, dims=3))}  # 8 of 15 cells
    assert len(model.detect(heated(moved), batch)[0]["boxes"]) == 1
    moved = maps | {"centre": maps["centre"]._replace(heat=maps["centre"].heat.roll(2, dims=3))}  # 9: thirds go to 10, fifths to 9
    assert len(model.detect(heated(moved), batch)[0]["boxes"]) == 1
    model.large = 50.0
    assert len(model.detect(heated(moved), batch)[0]["boxes"]) == 0


@pytest.mark.slow
def test_one_picture_can_be_learnt_by_heart():
    image = torch.zeros(3, 64, 64)
    one = target([[8.0, 8, 30, 24], [34, 30, 60, 58]], [1, 2])
    for (x1, y1, x2, y2), colour in zip(one["boxes"].int().tolist(), (0, 1), strict=True):
        image[colour, y1:y2, x1:x2] = 1
    model = build(side=64, widths=(16, 24)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with torch.random.fork_rng():
        for _ in range(120):
            losses = model([image, image], [one, one])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    with torch.no_grad():
        found = model.eval()([image])[0]
    for box, label in zip(one["boxes"], one["labels"], strict=True):
        best = (found["boxes"] - box).abs().amax(1) + 99 * (found["labels"] != label)
        assert best.min() < 2
        assert found["scores"][best.argmin()] > 0.5


def test_wrong_calls_are_named():
    model = build().train()
    with pytest.raises(ValueError, match="training needs targets"):
        model([picture()])
    with pytest.raises(ValueError, match="x1 < x2"):
        model([picture()], [target([[5.0, 5, 5, 9]], [1])])
    head = centernet_head(8, CLASSES, 8)
    with pytest.raises(ValueError, match="CornerNet wants top_left, bottom_right"):
        CornerNet(Hourglass((8, 12), (1, 1), 1), [head], ImagePreparation((32,), 64))
    with pytest.raises(ValueError, match="a head for top_left: CenterNet wants"):
        CenterNet(Hourglass((8, 12), (1, 1), 1), [KeypointHead({"top_left": NoPooling(8, 4)}, 8, CLASSES, 8)], ImagePreparation((32,), 64))
