"""Is a pyramid of several levels better than one? (He et al., TPAMI 2015, section 3.1.2)

The paper compares classifiers with a pyramid against the same with one level, whose number of weights is larger or
smaller, and finds the pyramid ahead: it is robust to deformation and to where an object lies in its window.
Here a small classifier of regions, as in fine-tuning, learns from the pooled map of the pre-trained body.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.fast_rcnn_training import PRE_TRAINED, measure
from experiments.rcnn_training import scenes
from experiments.record import Numbers, wins
from lessons.backbones.resnet import LastStage, small_resnet
from lessons.data.proposed import WithProposals
from lessons.data.sample import Detections
from lessons.detectors.svm_detector import class_overlaps, fine_tuning_labels, sample_fine_tuning_batch, suppress
from lessons.images import normalise
from lessons.recipes.small_resnet import start_from_pre_trained
from lessons.roi import roi_spatial_pyramid_pool

__all__ = ["PRE_TRAINED"]
CLAIM = "A pyramid of several levels classifies regions better than one of its levels alone."
PYRAMIDS = {"1": (1,), "2": (2,), "4": (4,), "6": (6,), "4 2 1": (4, 2, 1), "6 3 2 1": (6, 3, 2, 1)}
STEPS = 250


def run(seed: int, short: bool = False) -> Numbers:
    """AP of classified proposals, without box regression, for each pyramid."""
    train, val = scenes("train", 8 if short else 120, seed), scenes("val", 5 if short else 50, seed, 400)
    body = LastStage(small_resnet((1, 2, 1))).eval()
    start_from_pre_trained(body.body)
    maps = [[feature_map(body, data[index][0]) for index in range(len(data))] for data in (train, val)]
    return {name: classify(train, val, maps, levels, seed, 20 if short else STEPS) for name, levels in PYRAMIDS.items()}


@torch.no_grad()
def feature_map(body: nn.Module, image: Tensor) -> Tensor:
    """The map (1, C, H, W) of one scene, at a stride of 8 pixels."""
    return body(normalise(image)[None])[0]


def classify(train: WithProposals, val: WithProposals, maps: list[list[Tensor]], levels: Sequence[int], seed: int,
             steps: int) -> dict[str, float]:
    """Trains a classifier with one hidden layer on pooled regions, and measures what it makes of the proposals."""
    pooled, labels = [], []
    for index, feature in enumerate(maps[0]):
        target = train[index][1]
        boxes = torch.cat([target["boxes"], target["proposals"]])
        pooled.append(roi_spatial_pyramid_pool(feature, [boxes], levels, 1 / 8))
        labels.append(fine_tuning_labels(class_overlaps(boxes, target["boxes"], target["labels"], 6)))
    net = fit(torch.cat(pooled), torch.cat(labels), seed, steps)
    return measure([detect(net, feature, val[index][1]["proposals"][:200], levels)
                    for index, feature in enumerate(maps[1])], val)


def fit(features: Tensor, labels: Tensor, seed: int, steps: int) -> nn.Module:
    """Two layers, trained on 32 objects and 96 backgrounds at a time."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(features.shape[1], 128), nn.ReLU(), nn.Linear(128, 7))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(steps):
        chosen = sample_fine_tuning_batch(labels, generator=generator)
        loss = F.cross_entropy(net(features[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@torch.no_grad()
def detect(net: nn.Module, feature: Tensor, boxes: Tensor, levels: Sequence[int]) -> Detections:
    """Proposals with their class probabilities, after suppression."""
    scores = net(roi_spatial_pyramid_pool(feature, [boxes], levels, 1 / 8)).softmax(1)[:, 1:]
    return suppress(boxes, scores, boxes[:, None].expand(-1, 6, -1), (160, 160), score_threshold=0.02)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Pyramids against single levels."""
    return {"4 2 1 beats 1 alone": wins(per_seed, "4 2 1", "1"), "4 2 1 beats 2 alone": wins(per_seed, "4 2 1", "2"),
            "4 2 1 beats 4 alone": wins(per_seed, "4 2 1", "4"),
            "6 3 2 1 beats 6 alone": wins(per_seed, "6 3 2 1", "6")}
