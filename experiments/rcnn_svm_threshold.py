"""How should an SVM's negatives be chosen, and is it worth having one? (R-CNN, section 2.3 and appendix B)

The paper chose 0.3 among 0, 0.1 .. 0.5: 0.5 cost 5 points of mAP and 0 cost 4; the softmax instead of SVMs cost 3.3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.rcnn_training import describe, detect, detector, examine, measure, scenes, size_of, svm_features
from experiments.record import Numbers, wins
from lessons.detectors.svm_fitting import DescribedRegions, fit_svm, fit_svms, mine_hard_negatives, svm_examples

CLAIM = "SVM negatives below IoU 0.3 beat those below 0 and 0.5; mining beats random negatives; SVMs beat the softmax."


def run(seed: int, short: bool = False) -> Numbers:
    """One CNN's features, with SVMs trained in several ways."""
    size = size_of(short)
    model = detector(seed, size)
    regions = describe(model, scenes("train", size.images, seed))
    seen = examine(model, scenes("val", size.measured, seed))
    features = svm_features(model, regions)
    svms = {f"below {threshold:g}": fit_svms(features, regions, max(threshold, 1e-6)) for threshold in (0, 0.3, 0.5)}
    svms["random negatives"] = fit_on_random_negatives(features, regions, seed)
    svms["positives from 0.5"] = fit_on_near_positives(features, regions)
    results = {}
    for name, (model.svm_weight, model.svm_bias) in svms.items():
        results[name] = measure([detect(model, s, model.score(s.features)) for s in seen], seen)
    with torch.no_grad():
        softmax = [model.backbone.fc8(s.features.fc7).softmax(1)[:, 1:] for s in seen]
    results["softmax"] = measure([detect(model, s, scores, threshold=0.01)
                                  for s, scores in zip(seen, softmax, strict=True)], seen)
    return results


def fit_on_random_negatives(features: Sequence[Tensor], regions: Sequence[DescribedRegions], seed: int
                            ) -> tuple[Tensor, Tensor]:
    """SVMs with ten random negatives for each positive and no mining."""
    fitted = []
    for k in range(regions[0].overlaps.shape[1]):
        positives, negatives = svm_examples(features, regions, k)
        pool = torch.cat(negatives)
        chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[: 10 * len(positives)]
        fitted.append(fit_svm(positives, pool[chosen]))
    return torch.stack([weight for weight, _ in fitted]), torch.stack([bias for _, bias in fitted])


def fit_on_near_positives(features: Sequence[Tensor], regions: Sequence[DescribedRegions]) -> tuple[Tensor, Tensor]:
    """SVMs whose positives are those of fine-tuning, all regions from IoU 0.5, instead of the true boxes alone."""
    fitted = []
    for k in range(regions[0].overlaps.shape[1]):
        positives = [rows[region.overlaps[:, k] >= 0.5] for rows, region in zip(features, regions, strict=True)]
        negatives = svm_examples(features, regions, k)[1]
        portions = [torch.cat(negatives[i::10]) for i in range(10)]
        fitted.append(mine_hard_negatives(torch.cat(positives), portions))
    return torch.stack([weight for weight, _ in fitted]), torch.stack([bias for _, bias in fitted])


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's orderings."""
    return {"below 0.3 beats below 0": wins(per_seed, "below 0.3", "below 0"),
            "below 0.3 beats below 0.5": wins(per_seed, "below 0.3", "below 0.5"),
            "mined negatives beat random ones": wins(per_seed, "below 0.3", "random negatives"),
            "SVMs beat the softmax": wins(per_seed, "below 0.3", "softmax"),
            "SVMs beat the softmax at IoU 0.75": wins(per_seed, "below 0.3", "softmax", "AP75")}
