"""NMS against torchvision's compiled op, a loop, and what must hold for any boxes."""

import math

import pytest
import torch
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.boxes import box_iou
from lessons.nms import BLOCK, FEW, FIRST_BLOCK, batched_nms, matrix_nms, nms, soft_nms


def clustered(count, seed=0, objects=20, dtype=torch.float32):
    """A detector's candidates: many boxes around few objects."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(objects, 2, generator=generator) * 400
    base = torch.cat([corner, corner + 30 + torch.rand(objects, 2, generator=generator) * 90], dim=1)
    boxes = base[torch.randint(objects, (count,), generator=generator)]
    boxes = boxes + torch.randn(count, 4, generator=generator) * 6
    boxes = torch.cat([torch.min(boxes[:, :2], boxes[:, 2:]), torch.max(boxes[:, :2], boxes[:, 2:])], dim=1)
    return boxes.to(dtype), torch.rand(count, generator=generator).to(dtype)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, FIRST_BLOCK - 1, FIRST_BLOCK, FIRST_BLOCK + 1, BLOCK + 1, 1500])
def test_equal_to_torchvision(count, threshold):
    boxes, scores = clustered(count, seed=count)
    assert torch.equal(nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions(dtype):
    boxes, scores = clustered(300, dtype=dtype)
    expected = reference.nms(boxes.double(), scores.double(), 0.5)
    assert torch.equal(nms(boxes, scores, 0.5).sort().values, expected.sort().values)


def test_ties_keep_the_first():
    boxes, scores = clustered(800, seed=5)
    scores = (scores * 6).round() / 6
    assert torch.equal(nms(boxes, scores, 0.5), reference.nms(boxes, scores, 0.5))
    same = torch.tensor([[0.0, 0, 10, 10]]).repeat(5, 1)
    assert nms(same, torch.ones(5), 0.5).tolist() == [0]


def test_only_kept_boxes_suppress():
    """B is deleted by A, so it cannot delete C, also over a chain longer than a block."""
    three = torch.tensor([[10.0, 10, 60, 60], [16, 14, 66, 64], [27, 18, 77, 68]])
    assert nms(three, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]
    starts = torch.arange(600.0) * 3
    chain = torch.stack([starts, torch.zeros(600), starts + 10, torch.full((600,), 10.0)], dim=1)  # IoU 7/13
    assert torch.equal(nms(chain, torch.linspace(1, 0, 600), 0.5), torch.arange(0, 600, 2))


def test_the_threshold_itself_does_not_suppress():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU exactly 0.5
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("part", "whole"), [(3, 10), (7, 10), (1, 3), (2, 3), (6, 10), (9, 10), (35, 100), (55, 100)])
def test_thresholds_that_are_no_binary_numbers(part, whole, dtype):
    """The IoU is part / whole, rounded; torchvision compares it with the threshold in double precision."""
    boxes = torch.tensor([[0.0, 0, whole, whole], [0, 0, whole, part]], dtype=dtype)
    scores = torch.tensor([0.9, 0.8], dtype=dtype)
    for threshold in (part / whole, math.nextafter(part / whole, 0), math.nextafter(part / whole, 1)):
        assert torch.equal(nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))


def test_boxes_without_area_stay():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert torch.equal(nms(boxes, scores, 0.5), reference.nms(boxes, scores, 0.5))


def test_many_boxes_need_little_memory():
    """100,000 boxes: a table of all pairs would hold 40 GB."""
    boxes, scores = clustered(100_000, objects=50)
    assert 50 <= len(nms(boxes, scores, 0.5)) < 20_000


BOX = st.tuples(*[st.integers(-40, 40)] * 2, *[st.integers(1, 40)] * 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(BOX, max_size=30), st.floats(0, 1), st.randoms(use_true_random=False))
def test_properties(rows, threshold, random):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64).reshape(-1, 4)
    scores = torch.tensor(random.sample(range(100), len(rows)), dtype=torch.float64)
    kept = nms(boxes, scores, threshold)
    assert (scores[kept].diff() < 0).all()
    among = box_iou(boxes[kept], boxes[kept]).fill_diagonal_(0)
    assert (among <= threshold).all()
    gone = torch.ones(len(boxes), dtype=torch.bool)
    gone[kept] = False
    better = (box_iou(boxes[gone], boxes[kept]) > threshold) & (scores[kept] > scores[gone][:, None])
    assert better.any(1).all()  # each deleted box has a kept, better one over it
    assert torch.equal(nms(boxes[kept], scores[kept], threshold), torch.arange(len(kept)))
    order = torch.tensor(random.sample(range(len(rows)), len(rows)), dtype=torch.long)
    assert torch.equal(order[nms(boxes[order], scores[order], threshold)], kept)


@pytest.mark.parametrize("count", [0, 1, 300, FEW, FEW + 1, 1500, 6000])
def test_batched_equals_torchvision_where_coordinates_are_positive(count):
    boxes, scores = clustered(count)
    boxes = boxes + 50
    group = torch.randint(4, (count,), generator=torch.Generator().manual_seed(1))
    for ranks in (scores, (scores * 6).round()):  # the second with many ties
        assert torch.equal(batched_nms(boxes, ranks, group, 0.5), reference.batched_nms(boxes, ranks, group, 0.5))


@pytest.mark.parametrize("count", [200, 2 * FEW])
def test_batched_keeps_groups_apart_also_with_negative_coordinates(count):
    boxes, scores = clustered(count, seed=2)
    boxes = boxes - 600
    group = torch.randint(3, (count,), generator=torch.Generator().manual_seed(1)) * 10**9 - 5
    alone = [torch.where(group == g)[0][nms(boxes[group == g], scores[group == g], 0.5)] for g in group.unique()]
    kept = batched_nms(boxes, scores, group, 0.5)
    assert torch.equal(kept.sort().values, torch.cat(alone).sort().values)
    assert (scores[kept].diff() <= 0).all()


def soft_by_loop(boxes, scores, threshold, sigma, lowest, method):
    """Bodla et al., figure 2, in plain Python."""
    scores, left, kept, decayed = scores.tolist(), list(range(len(boxes))), [], []
    iou = box_iou(boxes, boxes).tolist()
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        if scores[best] < lowest:
            break
        kept.append(best)
        decayed.append(scores[best])
        for i in left:
            overlap = iou[best][i]
            scores[i] *= {"gaussian": math.exp(-(overlap**2) / sigma), "linear": 1 - overlap * (overlap > threshold),
                          "hard": float(overlap <= threshold)}[method]
    return kept, decayed


@pytest.mark.parametrize("method", ["linear", "gaussian", "hard"])
@pytest.mark.parametrize("count", [0, 1, 80])
def test_soft_nms_equals_the_loop(method, count):
    boxes, scores = clustered(count, dtype=torch.float64)
    kept, decayed = soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    expected = soft_by_loop(boxes, scores, 0.3, 0.5, 0.05, method)
    assert kept.tolist() == expected[0]
    torch.testing.assert_close(decayed, torch.tensor(expected[1], dtype=torch.float64))


def test_hard_soft_nms_is_nms():
    boxes, scores = clustered(200)
    assert torch.equal(soft_nms(boxes, scores, 0.4, method="hard")[0], nms(boxes, scores, 0.4))


def matrix_by_loop(boxes, scores, sigma, method):
    """SOLOv2, equations 4 and 5, pair by pair."""
    f = {"gaussian": lambda o: math.exp(-o * o / sigma), "linear": lambda o: 1 - o}[method]
    order = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
    iou = box_iou(boxes, boxes).tolist()
    decayed = {}
    for place, j in enumerate(order):
        ratios = []
        for rank, i in enumerate(order[:place]):
            own = max((iou[k][i] for k in order[:rank]), default=0.0)
            ratios.append(f(iou[i][j]) / f(own) if f(own) > 0 else math.inf)
        decayed[j] = float(scores[j]) * min([1.0, *ratios])
    return decayed


@pytest.mark.parametrize("method", ["gaussian", "linear"])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_matrix_nms_equals_the_loop(method, count):
    boxes, scores = clustered(count, dtype=torch.float64, objects=6)
    boxes[40:44] = boxes[3:4]  # copies: an IoU of exactly 1
    kept, decayed = matrix_nms(boxes, scores, 0.5, 0.05, method)
    expected = {i: score for i, score in matrix_by_loop(boxes, scores, 0.5, method).items() if score >= 0.05}
    assert sorted(kept.tolist()) == sorted(expected)
    torch.testing.assert_close(decayed, torch.tensor([expected[int(i)] for i in kept], dtype=torch.float64))
    assert (decayed.diff() <= 0).all()


def test_matrix_nms_of_two_boxes_is_soft_nms():
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]]), torch.tensor([0.9, 0.8])
    for method in ("gaussian", "linear"):
        soft = soft_nms(boxes, scores, 0.0, 0.5, 0.0, method)
        torch.testing.assert_close(matrix_nms(boxes, scores, 0.5, 0.0, method), soft)


def test_bad_input_is_named():
    boxes, scores = clustered(4)
    with pytest.raises(ValueError, match=r"\(4, 4\) and scores of shape \(3,\)"):
        nms(boxes, scores[:3], 0.5)
    with pytest.raises(ValueError, match="iou_threshold -0.1"):
        nms(boxes, scores, -0.1)
    with pytest.raises(ValueError, match="iou_threshold nan"):
        nms(boxes, scores, math.nan)
    with pytest.raises(ValueError, match="score 2 is NaN"):
        nms(boxes, torch.tensor([0.1, 0.2, math.nan, 0.3]), 0.5)
    with pytest.raises(ValueError, match="want finite numbers"):
        nms(boxes[:, [2, 3, 0, 1]], scores, 0.5)
    with pytest.raises(ValueError, match="idxs of shape"):
        batched_nms(boxes, scores, torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="'median'"):
        soft_nms(boxes, scores, method="median")
    with pytest.raises(ValueError, match="'hard' with sigma 0.5: want linear or gaussian"):
        matrix_nms(boxes, scores, method="hard")
    with pytest.raises(ValueError, match="sigma nan"):
        matrix_nms(boxes, scores, sigma=math.nan)


@pytest.mark.parametrize("count", [300, FEW + 100])
def test_boxes_and_scores_of_a_network_that_is_being_trained(count):
    boxes, scores = clustered(count)
    expected, group = nms(boxes, scores, 0.5), torch.arange(count) % 3
    in_groups = batched_nms(boxes, scores, group, 0.5)
    boxes.requires_grad_()
    scores.requires_grad_()
    assert torch.equal(nms(boxes, scores, 0.5), expected)
    assert torch.equal(nms(boxes, scores, 0.5), reference.nms(boxes, scores, 0.5))
    assert torch.equal(batched_nms(boxes, scores, group, 0.5), in_groups)
    for found in (soft_nms(boxes, scores), matrix_nms(boxes, scores)):
        found[1].sum().backward()
        assert scores.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(0,), (0, 4), (0, 5)])
def test_empty_boxes_need_no_groups_as_in_torchvision(shape):
    empty = torch.empty(shape, dtype=torch.int64)
    for found in (batched_nms(empty, None, None, None), reference.batched_nms(empty, None, None, None)):
        assert (found.shape, found.dtype) == ((0,), torch.int64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    boxes, scores = clustered(2000)
    assert torch.equal(nms(boxes.cuda(), scores.cuda(), 0.5).cpu(), nms(boxes, scores, 0.5))


@pytest.mark.parametrize("sizes", [[1] * 1100, [100] * 15, [101] * 15, [1500, 1, 700] + [3] * 300, [2500]])
def test_large_and_small_groups_are_thinned_out_each_by_itself(sizes):
    """More boxes than one pass takes: small groups share one, large ones have their own."""
    generator = torch.Generator().manual_seed(len(sizes))
    idxs = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    idxs = 7 * idxs[torch.randperm(len(idxs), generator=generator)] - 5
    corners = 60 * torch.rand(len(idxs), 2, generator=generator) - 30
    boxes = torch.cat([corners, corners + 40 * torch.rand(len(idxs), 2, generator=generator)], dim=1)
    scores = torch.rand(len(idxs), generator=generator)
    found = batched_nms(boxes, scores, idxs, 0.5)
    kept = torch.cat([members[reference.nms(boxes[members], scores[members], 0.5)]
                      for members in (torch.where(idxs == one)[0] for one in idxs.unique())])
    assert torch.equal(found, kept[scores[kept].argsort(descending=True)])
