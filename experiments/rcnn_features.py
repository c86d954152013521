"""Which features should the SVMs see: of a random, a pre-trained or a fine-tuned CNN, and of which layer? (Table 2)

In the paper, on VOC 2007 without box regression: pool5, fc6, fc7 give 44.2, 46.2, 44.7 mAP when pre-trained and 47.3,
53.1, 54.2 when fine-tuned: most of the gain is in fc6 and fc7.
"""

from collections.abc import Sequence

import torch

from experiments.rcnn_training import Examined, Size, detector, examine, measure, scenes
from experiments.record import Numbers, wins
from lessons.backbones.alexnet import Features
from lessons.data.proposed import WithProposals
from lessons.detectors.rcnn import RCNN
from lessons.detectors.svm_detector import FEATURE_NORM, suppress
from lessons.detectors.svm_fitting import DescribedRegions, fit_svms
from lessons.recipes.rcnn import build, start_from_pre_trained

CLAIM = "SVMs on fine-tuned features beat those on pre-trained features, and these beat random features."
LAYERS = ("pool5", "fc6", "fc7")


def run(seed: int, short: bool = False) -> Numbers:
    """SVMs for each CNN and layer, without box regression; the short form looks at fc7 only."""
    size = Size(30, 0, 15) if short else Size(400, 500, 60)
    some = scenes("train", 30 if short else 150, seed)  # all layers of more scenes would fill the memory
    val = scenes("val", size.measured, seed)
    cnns = {"random": random_cnn(seed), "pre-trained": pre_trained_cnn(), "fine-tuned": detector(seed, size)}
    results = {}
    for name, model in cnns.items():
        features, regions = describe_layers(model, some)
        seen = examine(model, val)
        for layer in ("fc7",) if short else LAYERS:
            results[f"{name} {layer}"] = probe(features, regions, seen, layer)
    return results


def random_cnn(seed: int) -> RCNN:
    """A CNN that never saw a picture."""
    return build(seed=seed).eval()


def pre_trained_cnn() -> RCNN:
    """The lesson's CNN before fine-tuning."""
    model = build().eval()
    start_from_pre_trained(model)
    return model


@torch.no_grad()
def describe_layers(model: RCNN, data: WithProposals) -> tuple[list[Features], list[DescribedRegions]]:
    """Features of all layers of the training regions, true boxes first, and what labels them."""
    features, regions = [], []
    for image, target in (data[index] for index in range(len(data))):
        boxes, none = model.proposals(image, target), torch.zeros(0, 4)
        features.append(model.features(image, boxes))
        labels = torch.as_tensor(target["labels"])
        regions.append(DescribedRegions(none, model.overlaps(boxes, target), labels, none, none, none, labels[:0]))
    return features, regions


def probe(features: Sequence[Features], regions: Sequence[DescribedRegions], seen: Sequence[Examined], layer: str
          ) -> dict[str, float]:
    """AP of linear SVMs on one layer's features."""
    rows = [getattr(f, layer).flatten(1) for f in features]
    scale = FEATURE_NORM / torch.cat(rows).norm(dim=1).mean()
    weight, bias = fit_svms([row * scale for row in rows], regions)
    detections = []
    for region in seen:
        scores = getattr(region.features, layer).flatten(1) * scale @ weight.T + bias
        boxes = region.boxes[:, None].expand(-1, scores.shape[1], -1)
        detections.append(suppress(region.boxes, scores, boxes, (160, 160)))
    return measure(detections, seen)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The ordering of the three CNNs, and of the layers after fine-tuning."""
    said = {"fine-tuned beats pre-trained (fc7)": wins(per_seed, "fine-tuned fc7", "pre-trained fc7"),
            "pre-trained beats random (fc7)": wins(per_seed, "pre-trained fc7", "random fc7")}
    if "fine-tuned pool5" in per_seed[0]:
        said["fine-tuned fc7 beats fine-tuned pool5"] = wins(per_seed, "fine-tuned fc7", "fine-tuned pool5")
        said["fine-tuning helps fc7 more than pool5"] = sum(
            gain(numbers, "fc7") - gain(numbers, "pool5") for numbers in per_seed) > 0
    return said


def gain(numbers: Numbers, layer: str) -> float:
    """What fine-tuning adds to a layer's AP."""
    return numbers[f"fine-tuned {layer}"]["AP"] - numbers[f"pre-trained {layer}"]["AP"]
