"""What the prior is good for: the first steps with a bias that says "object" with probability 0.01 or 0.5.

RetinaNet, sections 3.3 and 4.1: without the prior, cross-entropy diverges at once. Here gradients are shortened and the
learning rate warms up, as in the lessons' loop, so that nothing can explode; what is measured is how the loss begins,
how large its first gradient is, and what a short training makes of it.
"""

from collections.abc import Sequence

import torch
from torch import nn

from experiments.one_stage_training import PRE_TRAINED, measured, started
from experiments.proposal_training import Size, train_briefly, training_scenes
from experiments.record import Numbers, wins
from lessons.data.sample import collate
from lessons.detectors.one_stage import OneStageDetector
from lessons.recipes.retinanet import build

CLAIM = "A prior of 0.01 makes the first loss more than ten times smaller; without it training is unstable."
FULL, SHORT = Size(250, 60, 40), Size(8, 3, 5)
LOSSES = {"CE": (-1, 0.0), "FL": (0.25, 2.0)}  # alpha and gamma
PRIORS = (0.01, 0.5)


def run(seed: int, short: bool = False) -> Numbers:
    """The first batch's classification loss and gradient, and AP50 after a short training, for losses and priors."""
    size, found = SHORT if short else FULL, {}
    batch = collate([training_scenes(size.images, seed)[i] for i in range(4)])
    for name, (alpha, gamma) in LOSSES.items():
        for prior in PRIORS:
            model = started(build, seed)
            model.alpha, model.gamma = alpha, gamma  # type: ignore[assignment]
            nn.init.constant_(model.head.cls_logits.bias, torch.tensor(prior).logit().item())  # type: ignore[union-attr, arg-type]
            first = first_step(model, *batch)
            later = measured(train_briefly(model, size, seed), size, seed)
            found[f"{name}, prior {prior}"] = first | {"AP50": later["AP50"]}
    return found


def first_step(model: OneStageDetector, images: list, targets: list) -> dict[str, float]:
    """The classification loss of an untrained model, and the length of its gradient in all weights."""
    loss = model.train()(images, targets)["classification"]
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    model.zero_grad()
    return {"loss": round(loss.item(), 3), "gradient": round(gradient.item(), 3)}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Ten times, for both losses; and what is left of it after the training."""
    def ratio(name: str, key: str) -> float:
        return min(n[f"{name}, prior 0.5"][key] / n[f"{name}, prior 0.01"][key] for n in per_seed)

    return {"with the prior the first CE is more than ten times smaller": ratio("CE", "loss") > 10,
            "and the first focal loss": ratio("FL", "loss") > 10,
            "the first gradient of CE is more than ten times smaller": ratio("CE", "gradient") > 10,
            "after 60 steps CE is better with the prior": wins(per_seed, "CE, prior 0.01", "CE, prior 0.5", "AP50"),
            "and focal loss": wins(per_seed, "FL, prior 0.01", "FL, prior 0.5", "AP50")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
