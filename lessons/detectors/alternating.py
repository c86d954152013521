"""How Faster R-CNN was first trained: four steps, in which RPN and detector take turns (Ren et al., section 3.2).

    1  RPN with a pre-trained backbone      3  RPN alone, on the backbone of step 2, which stays as it is
    2  head with another, on 1's proposals  4  head alone, on 3's proposals

So both end on one backbone, although neither of the first two steps knew of the other. Today all is trained jointly.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lessons.data.sample import Target
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.images import ImageBatch


class Step(NamedTuple):
    """One step: train `module(images, targets)`, a dict of losses, then ask for the next.

    Its parameters that require a gradient are those that the step is to change.
    """

    name: str
    module: "OneTask"


class OneTask(nn.Module):
    """A detector of which only some parts learn; the others stay in evaluation mode, their statistics included."""

    def __init__(self, model: FasterRCNN, learning: Sequence[str]) -> None:
        super().__init__()
        self.model, self.learning = model, tuple(learning)
        for name, part in model.named_children():
            part.requires_grad_(name in self.learning)

    def train(self, mode: bool = True) -> "OneTask":
        super().train(mode)
        for name, part in self.model.named_children():
            part.train(mode and name in self.learning)
        return self

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        batch, adapted = self.model.prepare(images, targets, self.training)
        return self.losses(self.model.backbone(batch.pixels), batch, adapted)

    def losses(self, features: list[Tensor], batch: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        """The losses of this task."""
        raise NotImplementedError


class ProposalTask(OneTask):
    """The two losses of the RPN."""

    def losses(self, features: list[Tensor], batch: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        return self.model.rpn(features, batch, targets)[1]


class HeadTask(OneTask):
    """The losses of the head, on the proposals of `proposer`, which is not trained: a model kept aside, or the same."""

    def __init__(self, model: FasterRCNN, learning: Sequence[str], proposer: FasterRCNN) -> None:
        super().__init__(model, learning)
        self.proposer = [proposer.eval()]  # in a list, so that it is no part of this module

    def losses(self, features: list[Tensor], batch: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        proposer = self.proposer[0]
        with torch.no_grad():
            known = features if proposer is self.model else proposer.backbone(batch.pixels)
            proposals, _ = proposer.rpn(known, batch)
        samples = self.model.box_head.sample(proposals, targets)
        return self.model.box_head.loss(features, samples) | self.model.more_losses(features, samples, targets)


def alternating_steps(model: FasterRCNN, pre_trained: Mapping[str, Tensor]) -> Iterator[Step]:
    """The four steps; the caller trains each before it asks for the next, with an optimiser of its own.

    pre_trained: the backbone's state dict, with which steps 1 and 2 both begin. Afterwards all parameters require a
    gradient again. Departs from the paper: proposals are made anew for each batch, not once and stored.
    """
    heads = [name for name, _ in model.named_children() if name not in ("backbone", "rpn")]
    pre_trained = {name: tensor.clone() for name, tensor in pre_trained.items()}  # it may be the model's own
    model.backbone.load_state_dict(pre_trained)
    yield Step("1: the RPN and a backbone", ProposalTask(model, ["backbone", "rpn"]))
    first = copy.deepcopy(model)
    model.backbone.load_state_dict(pre_trained)
    yield Step("2: the head and another backbone", HeadTask(model, ["backbone", *heads], first))
    yield Step("3: the RPN alone", ProposalTask(model, ["rpn"]))
    yield Step("4: the head alone", HeadTask(model, heads, model))
    model.requires_grad_(True)
