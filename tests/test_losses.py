"""Losses against torchvision, torch, loops over the papers' equations, and what must hold for any input.

DETR's loss on sets has its own file, test_set_loss.py.
"""

import itertools
import math

import pytest
import torch
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lessons import losses as ours
from lessons.losses import corner_focal_loss, dice_loss, pull_push_loss, sigmoid_focal_loss, smooth_l1_loss

PAIRS = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")
REDUCTIONS = ("none", "mean", "sum")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tolerance(dtype):
    return {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]


def same(got, expected, dtype):
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=tolerance(dtype) * 5, atol=tolerance(dtype), equal_nan=True)


def gradients(loss, *inputs):
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    result = loss(*inputs)
    return torch.autograd.grad((result * torch.linspace(1, 2, result.numel()).view_as(result).to(result)).sum(), inputs)


def classified(*shape, dtype=torch.float64, soft=False):
    logits = torch.randn(*shape, generator=seeded(), dtype=torch.float64) * 5
    targets = torch.rand(*shape, generator=seeded(1), dtype=torch.float64)
    return logits.to(dtype), (targets if soft else (targets < 0.3).double()).to(dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 2), (0.0, 0), (1.0, 1.5), (0.5, 0.5), (0.25, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(40, 3), (0, 3), (2, 3, 4)])
def test_focal_equals_torchvision(shape, soft, dtype, alpha, gamma, reduction):
    logits, targets = classified(*shape, dtype=dtype, soft=soft)
    arguments = alpha, gamma, reduction
    got = sigmoid_focal_loss(logits, targets, *arguments)
    same(got, reference.sigmoid_focal_loss(logits, targets, *arguments), dtype)
    if got.numel() and got.isfinite().all():
        (mine,) = gradients(lambda x: sigmoid_focal_loss(x, targets, *arguments), logits)
        (theirs,) = gradients(lambda x: reference.sigmoid_focal_loss(x, targets, *arguments), logits.double())
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance(dtype) * 10, atol=tolerance(dtype) * 10)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_without_a_focus_is_cross_entropy_to_the_bit(dtype, soft):
    logits, targets = classified(500, dtype=dtype, soft=soft)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.equal(sigmoid_focal_loss(logits, targets, -1, 0), cross_entropy)
    assert (sigmoid_focal_loss(logits, targets, -1, 2) <= cross_entropy).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_focal_in_half_precision(dtype):
    logits, targets = classified(50, 4, dtype=dtype)
    expected = reference.sigmoid_focal_loss(logits.double(), targets.double())
    got = sigmoid_focal_loss(logits, targets)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-7)
    assert sigmoid_focal_loss(logits, targets.float()).dtype == torch.float32


def test_focal_takes_whole_numbers_and_strides():
    logits, targets = classified(20, 3)
    expected = reference.sigmoid_focal_loss(logits, targets)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets.long()), expected)
    torch.testing.assert_close(sigmoid_focal_loss(logits.T, targets.bool().T), expected.T)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.99, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_has_a_finite_gradient_where_torchvisions_is_nan(gamma, dtype):
    logits, targets = torch.tensor([100.0, -100, 100, -100], dtype=dtype), torch.tensor([1.0, 0, 0, 1], dtype=dtype)
    (theirs,) = gradients(lambda x: reference.sigmoid_focal_loss(x, targets, -1, gamma), logits)
    assert theirs[:2].isnan().all() == (gamma < 1)
    (mine,) = gradients(lambda x: sigmoid_focal_loss(x, targets, -1, gamma), logits)
    torch.testing.assert_close(mine, torch.tensor([0, 0, 1 + 2 / 3, -2], dtype=dtype), atol=2e-4, rtol=0)
    (farther,) = gradients(lambda x: sigmoid_focal_loss(x, targets, -1, gamma), logits * 100)
    assert farther.isfinite().all()


@pytest.mark.parametrize("alpha", [-1, 0.25])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_focal_gradcheck(alpha, gamma):
    for soft in (False, True):
        logits, targets = classified(6, 2, soft=soft)
        assert torch.autograd.gradcheck(lambda x, t=targets: sigmoid_focal_loss(x, t, alpha, gamma),
                                        logits.requires_grad_())


def test_focal_by_hand():
    """The paper's figure 1: at p_t = 0.9 and gamma = 2 an example costs 100 times less than its cross-entropy."""
    logit = torch.tensor([math.log(9), -math.log(9)])
    loss = sigmoid_focal_loss(logit, torch.tensor([1.0, 0.0]), alpha=0.25)
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.75]) * 0.01 * -math.log(0.9))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-60, 60), st.floats(0, 1)), min_size=1, max_size=20), st.floats(0, 5))
def test_properties_of_focal(rows, gamma):
    logits, targets = torch.tensor(rows, dtype=torch.float64).unbind(1)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=-1, gamma=0), cross_entropy)
    loss = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma)
    assert ((loss >= 0) & (loss <= cross_entropy + 1e-12)).all()
    torch.testing.assert_close(sigmoid_focal_loss(-logits, 1 - targets, -1, gamma), loss, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("beta", [0, 1e-3, 0.11, 1.0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(50, 4), (0, 4), ()])
def test_smooth_l1_equals_torch(shape, dtype, beta, reduction):
    a, b = (torch.randn(shape, generator=seeded(seed)).to(dtype) for seed in (0, 1))
    if a.ndim and len(a):
        a[:5], a[5:10] = b[:5], b[5:10] + beta  # differences of exactly 0 and beta
    got = smooth_l1_loss(a, b, beta, reduction)
    same(got, F.smooth_l1_loss(a, b, beta=beta, reduction=reduction), dtype)
    if a.numel():
        mine = gradients(lambda x, y: smooth_l1_loss(x, y, beta, reduction), a, b)
        theirs = gradients(lambda x, y: F.smooth_l1_loss(x, y, beta=beta, reduction=reduction), a, b)
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_smooth_l1_in_half_precision(dtype):
    a, b = (torch.randn(50, generator=seeded(seed)).to(dtype) for seed in (0, 1))
    got = smooth_l1_loss(a, b, 0.5, "none")
    assert got.dtype == dtype
    expected = F.smooth_l1_loss(a.double(), b.double(), beta=0.5, reduction="none")
    torch.testing.assert_close(got.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 10), st.floats(-20, 20))
def test_properties_of_smooth_l1(beta, difference):
    def loss(d):
        return smooth_l1_loss(torch.tensor(d, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64), beta).item()

    below, above = math.nextafter(beta, 0), math.nextafter(beta, math.inf)
    assert loss(below) == pytest.approx(loss(above), abs=1e-12) == pytest.approx(beta / 2)
    assert loss(difference) == loss(-difference)
    assert abs(difference) - beta / 2 - 1e-12 <= loss(difference) <= abs(difference)
    huber = F.huber_loss(torch.tensor(difference).double(), torch.zeros(()).double(), delta=beta).item()
    assert beta * loss(difference) == pytest.approx(huber)


def box_pairs(*shape, dtype=torch.float64, seed=0):
    """Pairs that overlap, lie apart, touch along an edge, are equal, and hold one another."""
    corner = torch.rand(2, *shape, 2, generator=seeded(seed), dtype=torch.float64) * 60
    a, b = torch.cat([corner, corner + torch.rand(2, *shape, 2, generator=seeded(seed + 1)) * 50 + 1], dim=-1)
    if len(shape) == 1 and shape[0] >= 8:
        b[0], b[1] = a[0], a[1] + torch.tensor([2.0, 2, -0.5, -0.5])
        a[1, 2:] += 4  # so that b[1] stays a box
        b[2] = torch.stack([a[2, 2], a[2, 1], a[2, 2] + 5, a[2, 3]])
        b[3] = torch.cat([a[3, 2:], a[3, 2:] + 3])
    return a.to(dtype), b.to(dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(40,), (0,), (), (2, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_equal_torchvision(name, dtype, shape, reduction):
    a, b = box_pairs(*shape, dtype=dtype)
    loss, expected = getattr(ours, name), getattr(reference, name)
    for eps in (1e-7, 1e-2):
        got, wanted = loss(a, b, reduction, eps), expected(a, b, reduction, eps)
        assert got.dtype == wanted.dtype
        atol = 1e-12 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(got, wanted, rtol=10 * atol, atol=atol)
        if dtype in (torch.float32, torch.float64):
            mine = gradients(lambda x, y: loss(x, y, reduction, eps), a, b)  # noqa: B023
            theirs = gradients(lambda x, y: expected(x, y, reduction, eps), a, b)  # noqa: B023
            torch.testing.assert_close(mine, theirs, rtol=10 * atol, atol=atol)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_gradcheck(name):
    a, b = (boxes[4:].requires_grad_() for boxes in box_pairs(12, seed=4))
    if name != "complete_box_iou_loss":  # its weight is constant in the gradient on purpose
        assert torch.autograd.gradcheck(getattr(ours, name), (a, b))


@pytest.mark.parametrize("name", PAIRS)
def test_boxes_without_area_and_of_whole_numbers(name):
    boxes = torch.tensor([[5, 5, 5, 5], [5, 5, 9, 5], [0, 0, 10, 10], [5, 5, 5, 9]])
    a, b = boxes.repeat(4, 1), boxes.repeat_interleave(4, dim=0)
    for dtype in (torch.float32, torch.int64):
        got = getattr(ours, name)(a.to(dtype), b.to(dtype))
        torch.testing.assert_close(got, getattr(reference, name)(a.to(dtype), b.to(dtype)), equal_nan=True)


def test_pairs_not_contiguous():
    a, b = box_pairs(10)
    for name in PAIRS:
        torch.testing.assert_close(getattr(ours, name)(a.T.contiguous().T.flip(0), b.flip(0)), getattr(reference, name)(a, b).flip(0))


SIDES = st.tuples(*[st.integers(-50, 50)] * 2, *[st.integers(1, 60)] * 2)
BOX = SIDES.map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(BOX, BOX), min_size=1, max_size=10), st.integers(-99, 99), st.sampled_from([0.25, 2.0, 8.0]))
def test_properties_of_pairs(pairs, shift, scale):
    a, b = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    giou, diou, ciou = (getattr(ours, name)(a, b) for name in PAIRS)
    assert ((giou >= -1e-12) & (giou <= 2)).all()
    assert ((diou >= 0) & (diou <= 2)).all()
    assert (ciou >= diou).all()
    for name, loss in zip(PAIRS, (giou, diou, ciou), strict=True):
        torch.testing.assert_close(getattr(ours, name)(b, a), loss)
        torch.testing.assert_close(getattr(ours, name)(a * scale + shift, b * scale + shift), loss, rtol=1e-5, atol=1e-5)  # eps
        assert (getattr(ours, name)(a, a).abs() < 1e-6).all()


def test_dice_by_loop():
    logits, targets = classified(5, 6, 7)
    expected = []
    for mask, truth in zip(logits, targets, strict=True):
        p, t = [1 / (1 + math.exp(-x)) for x in mask.flatten().tolist()], truth.flatten().tolist()
        expected.append(1 - (2 * sum(a * b for a, b in zip(p, t, strict=True)) + 1) / (sum(p) + sum(t) + 1))
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(dice_loss(logits, targets, "none"), expected)
    torch.testing.assert_close(dice_loss(logits, targets), expected.mean())
    torch.testing.assert_close(dice_loss(logits, targets, "sum"), expected.sum())
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, targets), logits.requires_grad_())
    half = dice_loss(logits.half(), targets.half())
    torch.testing.assert_close(half, expected.mean().float(), atol=1e-3, rtol=0)


def test_dice_at_its_ends():
    full, nothing = torch.full((1, 8, 8), 60.0), torch.full((1, 8, 8), -60.0)
    assert dice_loss(full, torch.ones(1, 8, 8)).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(nothing, torch.zeros(1, 8, 8)).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(nothing, torch.ones(1, 8, 8)).item() == pytest.approx(1 - 1 / 65)
    assert dice_loss(torch.zeros(0, 8, 8), torch.zeros(0, 8, 8)).item() == 0


def heatmaps(corners=3, dtype=torch.float64):
    logits = torch.randn(2, 3, 6, 5, generator=seeded(), dtype=torch.float64) * 3
    targets = torch.rand(2, 3, 6, 5, generator=seeded(1), dtype=torch.float64) * 0.999
    targets.view(-1)[torch.randperm(180, generator=seeded(2))[:corners]] = 1
    return logits.to(dtype), targets.to(dtype)


@pytest.mark.parametrize("corners", [0, 1, 3])
@pytest.mark.parametrize(("alpha", "beta"), [(2, 4), (1, 0), (0, 1)])
def test_corner_focal_by_loop(corners, alpha, beta):
    logits, targets = heatmaps(corners)
    total = 0.0
    for x, t in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        total += (1 - p) ** alpha * math.log(p) if t == 1 else (1 - t) ** beta * p**alpha * math.log(1 - p)
    got = corner_focal_loss(logits, targets, alpha, beta)
    assert got.item() == pytest.approx(-total / max(corners, 1), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: corner_focal_loss(x, targets, alpha, beta), logits.requires_grad_())


def test_corner_focal_far_out_and_in_half_precision():
    logits, targets = heatmaps()
    saturated = (logits.float() * 1000).requires_grad_()
    loss = corner_focal_loss(saturated, targets.float())
    loss.backward()
    assert loss.isfinite()
    assert saturated.grad.isfinite().all()
    assert saturated.grad.abs().max() > 0.1
    for dtype in (torch.float16, torch.bfloat16):
        rounded, target = logits.to(dtype), targets.half().to(dtype)
        expected = corner_focal_loss(rounded.double(), target.double())
        torch.testing.assert_close(corner_focal_loss(rounded, target).double(), expected, rtol=1e-5, atol=0)


def test_corner_focal_on_hard_targets_is_focal_loss():
    logits, targets = classified(2, 3, 8, 8)
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2, reduction="sum") / targets.sum()
    torch.testing.assert_close(corner_focal_loss(logits, targets), expected)


@pytest.mark.parametrize("count", [0, 1, 2, 6])
@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
def test_pull_push_by_loop(count, margin):
    first, second = (torch.randn(count, generator=seeded(seed), dtype=torch.float64) for seed in (count, 9))
    mean = [(a + b) / 2 for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    pull = sum((a - m) ** 2 + (b - m) ** 2 for a, b, m in zip(first.tolist(), second.tolist(), mean, strict=True))
    push = sum(max(0, margin - abs(a - b)) for a, b in itertools.permutations(mean, 2))
    got = pull_push_loss(first, second, margin)
    assert got[0].item() == pytest.approx(pull / max(count, 1))
    assert got[1].item() == pytest.approx(push / max(count * (count - 1), 1))
    if count:
        inputs = first.requires_grad_(), second.requires_grad_()
        assert torch.autograd.gradcheck(lambda a, b: pull_push_loss(a, b, margin), inputs)


def test_pull_push_at_rest():
    """Corners that agree within an object and differ by the margin between objects cost nothing."""
    grouped = torch.tensor([0.0, 1.0, 2.5])
    assert [loss.item() for loss in pull_push_loss(grouped, grouped)] == [0, 0]
    pull, push = pull_push_loss(torch.zeros(3), torch.zeros(3))
    assert (pull.item(), push.item()) == (0, 1)


@pytest.mark.parametrize("name", PAIRS)
def test_malformed_boxes_are_named(name):
    loss, good = getattr(ours, name), torch.tensor([[0.0, 0, 5, 5]])
    for bad in ([5.0, 0, 2, 5], [0, 5, 5, 2], [math.nan, 0, 1, 1], [0, 0, math.inf, 1]):
        for pair in ((good, torch.tensor([bad])), (torch.tensor([bad]), good)):
            with pytest.raises(ValueError, match=r"box \[.*want finite numbers"):
                loss(*pair)
    with pytest.raises(ValueError, match=r"boxes of shapes \(1, 4\) and \(2, 4\)"):
        loss(good, good.repeat(2, 1))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        loss(good[:, :3], good[:, :3])
    with pytest.raises(ValueError, match="'median'"):
        loss(good, good, reduction="median")


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, dice_loss, corner_focal_loss])
def test_bad_targets_are_named_and_bad_logits_pass_through(loss):
    logits = torch.zeros(2, 3)
    for bad in (-0.1, 1.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"target .* is not in \[0, 1\]"):
            loss(logits, torch.full((2, 3), bad))
    with pytest.raises(ValueError, match=r"\(2, 3\) and targets of shape \(3,\)"):
        loss(logits, torch.zeros(3))
    assert loss(torch.full((2, 3), math.nan), torch.zeros(2, 3)).isnan().any()  # for mixed precision's scaler to see


def test_bad_arguments_are_named():
    zeros = torch.zeros(2, 3)
    for alpha, gamma in ((1.5, 2), (-0.5, 2), (math.nan, 2), (0.25, -1), (0.25, math.nan)):
        with pytest.raises(ValueError, match=f"alpha {alpha} with gamma {gamma}"):
            sigmoid_focal_loss(zeros, zeros, alpha, gamma)
    with pytest.raises(ValueError, match="'max'"):
        sigmoid_focal_loss(zeros, zeros, reduction="max")
    for beta in (-1, math.nan):
        with pytest.raises(ValueError, match=f"beta {beta}"):
            smooth_l1_loss(zeros, zeros, beta)
    with pytest.raises(ValueError, match=r"input \(2, 3\), target \(3,\)"):
        smooth_l1_loss(zeros, zeros[0])
    with pytest.raises(ValueError, match=r"logits of shape \(3,\)"):
        dice_loss(zeros[0], zeros[0])
    with pytest.raises(ValueError, match="alpha -1 with beta 4"):
        corner_focal_loss(zeros, zeros, alpha=-1)
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        pull_push_loss(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="margin nan"):
        pull_push_loss(torch.zeros(3), torch.zeros(3), math.nan)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    for name in PAIRS:
        a, b = box_pairs(30)
        torch.testing.assert_close(getattr(ours, name)(a.cuda(), b.cuda()).cpu(), getattr(ours, name)(a, b))
    for loss, inputs in ((sigmoid_focal_loss, classified(40, 3)), (smooth_l1_loss, classified(40, 3)),
                         (dice_loss, classified(4, 5, 6)), (corner_focal_loss, heatmaps()),
                         (pull_push_loss, classified(2, 9)[0])):
        on_gpu, on_cpu = loss(*(value.cuda() for value in inputs)), loss(*inputs)
        torch.testing.assert_close(on_gpu, on_cpu, check_device=False)
