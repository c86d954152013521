"""DETR's loss on sets against every possible assignment, term by term, and what must hold for any set."""

import itertools
import math

import pytest
import torch
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.losses import detr_matching_cost, detr_set_loss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def queries(images=3, count=5, classes=4, objects=(2, 0, 3), seed=0, dtype=torch.float64):
    logits = torch.randn(images, count, classes + 1, generator=seeded(seed), dtype=torch.float64) * 2
    boxes = torch.rand(images, count, 4, generator=seeded(seed + 1), dtype=torch.float64) * 0.5 + 0.1
    targets = [{"labels": torch.randint(classes, (number,), generator=seeded(seed + image)),
                "boxes": (torch.rand(number, 4, generator=seeded(seed - image + 9)) * 0.5 + 0.1).to(dtype)}
               for image, number in enumerate(objects)]
    return logits.to(dtype), boxes.to(dtype), targets


def detr_by_loop(logits, boxes, targets, no_object=0.1):
    """Every assignment of each image is tried; then the three losses, term by term."""
    def parts(image, q, g):
        label, box = targets[image]["labels"][g], targets[image]["boxes"][g].to(boxes.dtype)
        p = logits[image, q].softmax(0)[label]
        a, b = (reference.box_convert(x[None], "cxcywh", "xyxy") for x in (boxes[image, q], box))
        return p, (boxes[image, q] - box).abs().sum(), reference.generalized_box_iou(a, b)[0, 0]

    total = {"loss_ce": 0, "loss_bbox": 0, "loss_giou": 0}
    weights, count = 0, max(sum(len(target["labels"]) for target in targets), 1)
    for image, target in enumerate(targets):
        ground = range(len(target["labels"]))
        table = {(q, g): parts(image, q, g) for q in range(boxes.shape[1]) for g in ground}
        cheapest = min(itertools.permutations(range(boxes.shape[1]), len(ground)),
                       key=lambda chosen: sum(-p + 5 * l1 - 2 * giou
                                              for p, l1, giou in (table[q, g] for g, q in enumerate(chosen))))
        for q in range(boxes.shape[1]):
            matched = q in cheapest
            label = target["labels"][cheapest.index(q)] if matched else -1
            weight = 1 if matched else no_object
            total["loss_ce"] = total["loss_ce"] - weight * logits[image, q].log_softmax(0)[label]
            weights += weight
        for g, q in enumerate(cheapest):
            total["loss_bbox"] = total["loss_bbox"] + table[q, g][1] / count
            total["loss_giou"] = total["loss_giou"] + (1 - table[q, g][2]) / count
    return {**total, "loss_ce": total["loss_ce"] / weights}


@pytest.mark.parametrize("objects", [(2, 0, 3), (5, 1, 4), (0, 0, 0)])
@pytest.mark.parametrize("seed", range(4))
def test_detr_equals_the_loop(objects, seed):
    logits, boxes, targets = queries(objects=objects, seed=seed)
    got, expected = detr_set_loss(logits, boxes, targets), detr_by_loop(logits, boxes, targets)
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize("no_object", [0.0, 0.1, 1.0])
def test_detr_gradients_equal_the_loops(no_object):
    logits, boxes, targets = queries(seed=3)
    logits.requires_grad_(), boxes.requires_grad_()
    mine, theirs = (torch.autograd.grad(sum(loss(logits, boxes, targets, no_object).values()), (logits, boxes))
                    for loss in (detr_set_loss, detr_by_loop))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 1e-5)])
def test_detr_in_other_precisions(dtype, rtol):
    logits, boxes, targets = queries(dtype=dtype)
    got = detr_set_loss(logits, boxes, targets)
    expected = detr_set_loss(logits.double(), boxes.double(), targets)
    for name, value in expected.items():
        assert got[name].dtype == torch.float32
        assert got[name].item() == pytest.approx(value.item(), rel=rtol)


def test_detr_cost_by_hand():
    """A query in the right place with the right class at probability 1/2 against one in the opposite corner."""
    logits = torch.tensor([[0.0, -60, 0], [-60, 60, -60]])
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])
    truth, labels = torch.tensor([[0.25, 0.25, 0.5, 0.5]]), torch.tensor([0])
    cost = detr_matching_cost(logits, boxes, labels, truth)
    torch.testing.assert_close(cost, torch.tensor([[-0.5 - 2], [5 * 1 + 2 * 0.5]]))  # GIoU is -1/2 in the corner
    assert not detr_matching_cost(logits.requires_grad_(), boxes, labels, truth).requires_grad
    torch.testing.assert_close(detr_matching_cost(logits, boxes, labels, truth, (0, 1, 0)), torch.tensor([[0.0], [1.0]]))


def test_detr_with_more_objects_than_queries_and_small_boxes():
    logits, boxes, targets = queries(count=2, objects=(4, 2, 3))
    got = detr_set_loss(logits, boxes, targets)
    assert all(value.isfinite() for value in got.values())
    tiny = torch.tensor([[[0.5, 0.5, 0.002, 0.002]]], dtype=torch.float64)  # 1e-7 would be a fortieth of its area
    same_box = [{"labels": torch.tensor([0]), "boxes": tiny[0]}]
    assert detr_set_loss(logits[:1, :1], tiny, same_box)["loss_giou"].item() == pytest.approx(0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 999), st.randoms(use_true_random=False))
def test_properties_of_detr(objects, seed, random):
    """The order of queries and of objects does not matter: it is a loss on sets."""
    logits, boxes, targets = queries(images=len(objects), objects=objects, seed=seed)
    before = detr_set_loss(logits, boxes, targets)
    order = random.sample(range(5), 5)
    for target in targets:
        turned = torch.tensor(random.sample(range(len(target["labels"])), len(target["labels"])), dtype=torch.int64)
        target["labels"], target["boxes"] = target["labels"][turned], target["boxes"][turned]
    after = detr_set_loss(logits[:, order], boxes[:, order], targets)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)
        assert value >= 0
    assert before["loss_giou"] <= 2


def test_bad_sets_are_named():
    logits, boxes, targets = queries()
    with pytest.raises(ValueError, match="for 2 targets"):
        detr_set_loss(logits, boxes, targets[:2])
    with pytest.raises(ValueError, match="for 0 targets"):
        detr_set_loss(logits[:0], boxes[:0], [])
    with pytest.raises(ValueError, match="no_object_weight -1"):
        detr_set_loss(logits, boxes, targets, -1)
    with pytest.raises(ValueError, match=r"boxes \(3, 4, 4\)"):
        detr_set_loss(logits, boxes[:, :4], targets)
    changes = [({"labels": torch.tensor([0, 4])}, r"labels \[4\] of torch.int64: want whole numbers from 0 to 3"),
               ({"labels": torch.tensor([0, -1])}, r"labels \[-1\]"),
               ({"labels": torch.zeros(2)}, "of torch.float32"),
               ({"labels": torch.tensor([0])}, r"\(1,\), \(2, 4\)"),
               ({"boxes": torch.tensor([[0.5, 0.5, 0.1, 0.1], [40.0, 30, 20, 20]])}, r"truth \[40.0, .*in parts"),
               ({"boxes": torch.full((2, 4), math.nan)}, r"truth \[nan")]
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            detr_set_loss(logits, boxes, [{**targets[0], **change}, *targets[1:]])
    with pytest.raises(ValueError, match="want finite numbers"):
        detr_set_loss(logits, -boxes, targets)
    with pytest.raises(ValueError, match="cost nan is not finite"):
        detr_set_loss(logits * math.nan, boxes, targets)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    logits, boxes, targets = queries()
    on_gpu = detr_set_loss(logits.cuda(), boxes.cuda(), [{k: v.cuda() for k, v in t.items()} for t in targets])
    torch.testing.assert_close(on_gpu, detr_set_loss(logits, boxes, targets), check_device=False)
