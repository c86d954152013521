"""What the experiments on DETR share: the finished detector, its queries' answers, and a short training that goes on.

A DETR from nothing needs thousands of steps before it finds anything, which no experiment here can repeat nine times.
Those that train take the lesson's finished detector, change one part and give the rest the same number of steps to
adapt; a control goes on unchanged. That tells how much hangs on the part, not how far one comes without it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from experiments.proposal_training import Size, training_scenes
from lessons import zoo
from lessons.data.sample import Sample
from lessons.detection_training import Plan, fit
from lessons.detectors.detr import DETR, SetPrediction, in_parts
from lessons.images import ImageBatch, shape
from lessons.losses import detr_matching_cost
from lessons.matching import hungarian_match
from lessons.recipes import detr

PRE_TRAINED = zoo.CHECKPOINTS / "detr.safetensors"
FULL, SHORT = Size(400, 100, 100), Size(8, 1, 4)  # steps of 8 scenes
RATE = 2e-4  # less than half of the lesson's: what is finished shall not be shaken more than need be
Answers = tuple[SetPrediction, ImageBatch, Sequence[Sample]]


def finished() -> DETR:
    """The lesson's detector, which goes on as its training ended, with the weights that the losses had at last."""
    model = zoo.load("detr", "lesson")
    assert isinstance(model, DETR)
    detr.weigh(model, detr.FULL.steps - 1)
    return model


def size_of(short: bool) -> Size:
    """The amounts of a run in the notebook (short) or of the stored experiment."""
    return SHORT if short else FULL


def trained_on(model: DETR, size: Size, seed: int) -> DETR:
    """The model after `size.steps` further steps of 8 scenes, with a warm-up and a rate that falls to 0."""
    plan = Plan(size.images, size.steps, size.measured, learning_rate=RATE, body_rate=0.3, clip_norm=1.0)
    fit(model, training_scenes(size.images, seed), plan, seed, device="cpu", progress=False)
    return model.eval()  # type: ignore[return-value]


@torch.no_grad()
def answers(model: DETR, samples: Sequence[Sample], need_weights: bool = False) -> Iterator[Answers]:
    """What all queries say after every decoder layer, eight pictures at a time, with the batch and its samples."""
    for start in range(0, len(samples), 8):
        some = samples[start : start + 8]
        batch, _ = model.prepare([image for image, _ in some])
        yield model.predict(batch, need_weights), batch, some


def assigned(model: DETR, samples: Sequence[Sample]) -> Tensor:
    """The query (M,) that each of the M objects of all samples is matched with after the last decoder layer."""
    queries = []
    for prediction, _, some in answers(model, samples):
        for logits, boxes, (image, target) in zip(prediction.logits[-1], prediction.boxes[-1], some, strict=True):
            cost = detr_matching_cost(logits, boxes, target["labels"], in_parts(target["boxes"], shape(image)),
                                      model.loss_weights)
            query, found = hungarian_match(cost)
            queries.append(query[found.argsort()])
    return torch.cat(queries)
