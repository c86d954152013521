"""What the centre-ness is good for: the shipped detector, its boxes put in order with it and without (FCOS, table 4).

The paper: 33.5 AP without, 37.1 with, and 33.5 with a centre-ness computed from the predicted box. Nothing is trained
here; a seed draws other validation scenes. `rank correlation` is Spearman's, of score and IoU with the nearest object
of the class, over all points that are sure of a class by more than 0.05 and whose boxes touch such an object.
"""

from collections.abc import Callable, Sequence

import torch
from scipy.stats import spearmanr
from torch import Tensor

from experiments.faster_rcnn_proposals import scenes
from experiments.record import Numbers, wins
from lessons import zoo
from lessons.boxes import box_iou
from lessons.data.sample import Sample
from lessons.detectors.fcos import FCOS, centreness_of
from lessons.metrics import CocoMetrics

CLAIM = "Centre-ness raises AP, most where boxes are judged strictly, because scores then tell how good a box is."
PRE_TRAINED = zoo.CHECKPOINTS / "fcos.safetensors"


def by_class_alone(outputs: Sequence[Tensor]) -> Tensor:
    """The class's probability."""
    return outputs[0].sigmoid()


def with_computed(outputs: Sequence[Tensor]) -> Tensor:
    """With the centre-ness of the point in the box that it predicts, in place of the learnt one."""
    central = centreness_of(outputs[1]).nan_to_num()  # a box without width or height has none
    return (outputs[0].sigmoid() * central[:, None]).sqrt()


def orders(model: FCOS) -> dict[str, Callable[[Sequence[Tensor]], Tensor]]:
    """Ways to score (N, K) one picture's level from logits (N, K), distances (N, 4) and centre-ness (N, 1)."""
    return {"class alone": by_class_alone, "with centre-ness": model.scored,
            "centre-ness of the predicted box": with_computed}


def run(seed: int, short: bool = False) -> Numbers:
    """AP, AP50, AP75 and the rank correlation of score and IoU, for each order."""
    model = zoo.load("fcos", "lesson")
    assert isinstance(model, FCOS)
    samples = list(scenes(8 if short else 100, seed))
    found = {}
    for name, scored in orders(model).items():
        model.scored = scored  # type: ignore[method-assign]
        found[name] = {**average_precision(model, samples), "rank correlation": rank_correlation(model, samples)}
    return found


@torch.no_grad()
def average_precision(model: FCOS, samples: Sequence[Sample]) -> dict[str, float]:
    """COCO's numbers of the model as it scores now."""
    metrics = CocoMetrics()
    for image, target in samples:
        metrics.update(model([image]), [target])
    found = metrics.compute()
    return {key: round(found[key], 4) for key in ("AP", "AP50", "AP75")}


def rank_correlation(model: FCOS, samples: Sequence[Sample], least: float = 0.05) -> float:
    """Spearman's correlation of the score and the IoU of all boxes before NMS, over all pictures together."""
    pairs = torch.cat([scores_and_overlaps(model, image, target, least) for image, target in samples])
    return round(float(spearmanr(pairs[:, 0].numpy(), pairs[:, 1].numpy()).statistic), 4)


@torch.no_grad()
def scores_and_overlaps(model: FCOS, image: Tensor, target: dict, least: float = 0.05) -> Tensor:
    """(P, 2) score and IoU with the nearest object of the same class, of points that know a class and touch one.

    image: (3, H, W) of the size at which the model looks at it. least: probability of the class from which a point
    knows it.
    """
    batch, _ = model.prepare([image])
    features = model.backbone(batch.pixels)
    outputs = [torch.cat(levels, dim=1)[0] for levels in model.head(features)]
    known = outputs[0].sigmoid().max(dim=1)
    kept = torch.where(known.values > least)[0]
    boxes = model.decoded(outputs[1][kept], torch.cat(model.anchors(features, batch))[kept])
    label = known.indices[kept]
    same = target["labels"][:, None] == label
    overlap = (box_iou(target["boxes"], boxes) * same).amax(dim=0)
    score = model.scored([one[kept] for one in outputs]).gather(1, label[:, None])[:, 0]
    return torch.stack([score, overlap], dim=1)[overlap > 0]


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Centre-ness against the class alone, by strictness, and the computed one."""
    gains = [{key: n["with centre-ness"][key] - n["class alone"][key] for key in ("AP50", "AP75")} for n in per_seed]
    return {"centre-ness raises AP": wins(per_seed, "with centre-ness", "class alone"),
            "it raises AP75": wins(per_seed, "with centre-ness", "class alone", "AP75"),
            "it raises AP75 more than AP50": sum(gain["AP75"] - gain["AP50"] for gain in gains) > 0,
            "scores follow the IoU better": wins(per_seed, "with centre-ness", "class alone", "rank correlation"),
            "the learnt one beats the computed one": wins(per_seed, "with centre-ness",
                                                          "centre-ness of the predicted box")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
