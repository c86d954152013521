"""What the centre-ness is good for: the shipped detector, its boxes put in order with it and without (FCOS, table 4).

The paper: 33.5 AP without, 37.1 with, and 33.5 with a centre-ness computed from the predicted box. Nothing is trained
here; a seed draws other validation scenes. `rank correlation` is Spearman's, of score and IoU with the nearest object
of the class, over all points that are sure of a class by more than 0.05 and whose boxes touch such an object; `at
trained points`, of those that answer for an object, the only ones whose centre-ness was trained; `at others`, of the
rest. `best box` is the mean IoU of each object's box of the highest score, which NMS keeps.
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


def by_centreness_alone(outputs: Sequence[Tensor]) -> Tensor:
    """The centre-ness, for every class."""
    return outputs[2].sigmoid().expand_as(outputs[0])


def with_computed(outputs: Sequence[Tensor]) -> Tensor:
    """With the centre-ness of the point in the box that it predicts, in place of the learnt one."""
    central = centreness_of(outputs[1]).nan_to_num()  # a box without width or height has none
    return (outputs[0].sigmoid() * central[:, None]).sqrt()


def orders(model: FCOS) -> dict[str, Callable[[Sequence[Tensor]], Tensor]]:
    """Ways to score (N, K) one picture's level from logits (N, K), distances (N, 4) and centre-ness (N, 1)."""
    return {"class alone": by_class_alone, "with centre-ness": model.scored,
            "centre-ness of the predicted box": with_computed, "centre-ness alone": by_centreness_alone}


def run(seed: int, short: bool = False) -> Numbers:
    """AP, AP50, AP75 and the rank correlation of score and IoU, for each order."""
    model = zoo.load("fcos", "lesson")
    assert isinstance(model, FCOS)
    samples = list(scenes(8 if short else 100, seed))
    found = {}
    for name, scored in orders(model).items():
        model.scored = scored  # type: ignore[method-assign]
        found[name] = {**average_precision(model, samples), **agreement_of(model, samples)}
    return found


@torch.no_grad()
def average_precision(model: FCOS, samples: Sequence[Sample]) -> dict[str, float]:
    """COCO's numbers of the model as it scores now."""
    metrics = CocoMetrics()
    for image, target in samples:
        metrics.update(model([image]), [target])
    found = metrics.compute()
    return {key: round(found[key], 4) for key in ("AP", "AP50", "AP75")}


def agreement_of(model: FCOS, samples: Sequence[Sample], least: float = 0.05) -> dict[str, float]:
    """How well scores follow the IoU of boxes before NMS, over all pictures together; see the top of this file."""
    pictures = [scores_and_overlaps(model, image, target, least) for image, target in samples]
    best = torch.stack([own[own[:, 0].argmax(), 1] for one in pictures for own in _by_object(one)])
    points = torch.cat(pictures)
    trained = points[:, 3] == 1
    return {"rank correlation": _rank_correlation(points), "at trained points": _rank_correlation(points[trained]),
            "at others": _rank_correlation(points[~trained]), "best box": round(best.mean().item(), 4)}


def _by_object(points: Tensor) -> list[Tensor]:
    return [points[points[:, 2] == number] for number in points[:, 2].unique()]


def _rank_correlation(points: Tensor) -> float:
    return round(float(spearmanr(points[:, 0].numpy(), points[:, 1].numpy()).statistic), 4)


@torch.no_grad()
def scores_and_overlaps(model: FCOS, image: Tensor, target: dict, least: float = 0.05) -> Tensor:
    """(P, 4) of points that know a class and touch an object of it: score, IoU, the object, whether it is trained.

    image: (3, H, W) of the size at which the model looks at it. least: probability of the class from which a point
    knows it. The IoU is that with the nearest object of the class; a point is trained if it answers for any object.
    """
    batch, _ = model.prepare([image])
    features = model.backbone(batch.pixels)
    outputs, anchors = [torch.cat(levels, dim=1)[0] for levels in model.head(features)], model.anchors(features, batch)
    known = outputs[0].sigmoid().max(dim=1)
    kept = torch.where(known.values > least)[0]
    boxes, label = model.decoded(outputs[1][kept], torch.cat(anchors)[kept]), known.indices[kept]
    nearest = (box_iou(target["boxes"], boxes) * (target["labels"][:, None] == label)).max(dim=0)
    score = model.scored([one[kept] for one in outputs]).gather(1, label[:, None])[:, 0]
    trained = model.assign(anchors, target["boxes"])[kept] >= 0
    return torch.stack([score, nearest.values, nearest.indices, trained], dim=1)[nearest.values > 0]


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Centre-ness against the class alone, by strictness, and the computed one."""
    gains = [{key: n["with centre-ness"][key] - n["class alone"][key] for key in ("AP50", "AP75")} for n in per_seed]
    return {"centre-ness raises AP": wins(per_seed, "with centre-ness", "class alone"),
            "it raises AP75": wins(per_seed, "with centre-ness", "class alone", "AP75"),
            "it raises AP75 more than AP50": sum(gain["AP75"] - gain["AP50"] for gain in gains) > 0,
            "scores follow the IoU better": wins(per_seed, "with centre-ness", "class alone", "rank correlation"),
            "the box that NMS keeps is better": wins(per_seed, "with centre-ness", "class alone", "best box"),
            "where it is trained, centre-ness follows the IoU better than elsewhere": all(
                n["centre-ness alone"]["at trained points"] > n["centre-ness alone"]["at others"] for n in per_seed),
            "the learnt one beats the computed one": wins(per_seed, "with centre-ness",
                                                          "centre-ness of the predicted box")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
