"""Alternating training of Faster R-CNN: each step changes what it should and nothing else."""

import pytest
import torch

from benchmarks.alive import photographs, targets_for
from lessons.detectors.alternating import HeadTask, alternating_steps
from lessons.recipes.faster_rcnn import build

LEARNING = [{"backbone", "rpn"}, {"backbone", "box_head"}, {"rpn"}, {"box_head"}]
LOSSES = [{"loss_objectness", "loss_rpn_box_reg"}, {"loss_classifier", "loss_box_reg"}] * 2


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, after):
    """The parts of a model of which something differs, weights or statistics."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def train_one_step(module, images, targets):
    module.train()
    # a parameter without a gradient must not even be decayed
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, weight_decay=0.1)
    losses = module(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return losses


@pytest.fixture
def data():
    images = photographs([(96, 96), (96, 96)], torch.float32)
    return images, targets_for(images, num_classes=7, counts=[3, 2])


def test_each_step_changes_exactly_its_parts(data):
    torch.manual_seed(0)
    model = build(side=96)
    pre_trained = {name: tensor + 0 for name, tensor in build(seed=1).backbone.state_dict().items()}
    for number, step in enumerate(alternating_steps(model, pre_trained)):
        before = state(model)
        if number < 2:
            assert all(torch.equal(model.backbone.state_dict()[name], tensor) for name, tensor in pre_trained.items())
        losses = train_one_step(step.module, *data)
        assert losses.keys() == LOSSES[number]
        assert changed(before, state(model)) == LEARNING[number], step.name
        for name, part in model.named_children():
            some = {parameter.requires_grad for parameter in part.parameters()}
            assert some == {name in LEARNING[number]}
    assert number == 3
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_head_learns_from_proposals_of_the_first_step(data):
    """Step 2 sees what step 1 has made, backbone and RPN, although the model's backbone begins anew."""
    model = build(side=96)
    steps = alternating_steps(model, model.backbone.state_dict())
    train_one_step(next(steps).module, *data)
    learnt = state(model)
    second = next(steps).module
    assert isinstance(second, HeadTask)
    assert changed(learnt, state(second.proposer[0])) == set()
    assert changed(learnt, state(model)) == {"backbone"}
    kept = state(second.proposer[0])
    train_one_step(second, *data)
    assert changed(kept, state(second.proposer[0])) == set()
    assert not any(name.startswith("proposer") for name in second.state_dict())


def test_proposals_are_frozen(data):
    """No gradient reaches the RPN through the head's loss, even where all parameters ask for one."""
    model = build(side=96)
    *_, last = alternating_steps(model, model.backbone.state_dict())
    model.requires_grad_(True)
    sum(last.module.train()(*data).values()).backward()
    assert all(parameter.grad is None for parameter in model.rpn.parameters())
    assert all(parameter.grad is not None for parameter in model.box_head.parameters())
