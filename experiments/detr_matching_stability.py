"""How often does an object change its query while DETR learns? (a question that the paper leaves open)

A DETR from nothing (its body pre-trained, as the lesson's) and the lesson's finished one train on 96 scenes at the same
constant rate. After every epoch of 12 steps the objects are matched anew: `changed` is the share of them that another
query answers for than an epoch before, `queries` how many different queries answer for any object.
Whoever drew one of 25 queries at random would change 96 % of the time.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from experiments.detr_training import PRE_TRAINED, RATE, assigned, finished
from experiments.proposal_training import training_scenes
from experiments.record import Numbers
from lessons.callbacks import Callback
from lessons.data.sample import Sample
from lessons.detection_training import Plan, parameter_groups
from lessons.detectors.detr import DETR
from lessons.evaluation import evaluation_mode
from lessons.recipes import detr
from lessons.recipes.small_resnet import start_from_pre_trained
from lessons.schedules import constant
from lessons.training import Trainer

CLAIM = "At the start objects keep changing their queries; a finished DETR's matching is stable."
SCENES, EPOCH = 96, 12  # steps of 8 scenes


class Matchings(Callback):
    """Matches the objects of `samples` at the start and after every `every` steps: a list of (M,) queries."""

    def __init__(self, model: DETR, samples: Sequence[Sample], every: int) -> None:
        self.model, self.samples, self.every = model, samples, every
        self.queries: list[Tensor] = []

    def on_start(self, history: Mapping, steps: int) -> None:
        self._match()

    def on_step(self, step: int, losses: Mapping[str, float], lr: float) -> None:
        if (step + 1) % self.every == 0:
            self._match()

    def _match(self) -> None:
        with evaluation_mode(self.model):
            self.queries.append(assigned(self.model, self.samples))

    def changed(self) -> list[float]:
        """The share of objects with another query than before, of each epoch."""
        pairs = zip(self.queries, self.queries[1:], strict=False)
        return [(before != after).float().mean().item() for before, after in pairs]


def from_nothing(seed: int) -> DETR:
    """The lesson's detector before its training."""
    model = detr.build(seed=seed)
    start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type, union-attr]
    return model


def run(seed: int, short: bool = False) -> Numbers:
    """The share that changes in each epoch, on average over the last half of them, and the queries in use."""
    found = {}
    epochs = 2 if short else 10
    for name, model in (("from nothing", from_nothing(seed)), ("finished", finished())):
        watched = watch(model, epochs, 1 if short else EPOCH, 8 if short else SCENES, seed)
        changed = watched.changed()
        late = changed[len(changed) // 2 :]
        found[name] = {"changed, late": round(sum(late) / len(late), 4),
                       "queries": float(len(watched.queries[-1].unique())),
                       **{f"epoch {i}": round(share, 4) for i, share in enumerate(changed, start=1)}}
    return found


def watch(model: DETR, epochs: int, every: int, images: int, seed: int) -> Matchings:
    """Trains on the scenes of a seed, at a constant rate after the first epoch, and matches after every epoch."""
    data = training_scenes(images, seed)
    transform, data.transform = data.transform, None
    samples = [data[i] for i in range(images)]
    data.transform = transform  # mirrored in training, not when matched
    plan = Plan(images, epochs * every, 0, learning_rate=RATE, body_rate=0.3, clip_norm=1.0)
    watched = Matchings(model, samples, every)
    Trainer(model, torch.optim.AdamW(parameter_groups(model, plan), lr=RATE, weight_decay=0.05), data,
            batch_size=plan.batch_size, steps=plan.steps, schedule=constant(every), clip_norm=plan.clip_norm, seed=seed,
            device="cpu", callbacks=[watched], progress=False).run()
    return watched


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The beginner against the finished one, on every seed."""
    late = "changed, late"
    return {"from nothing, a quarter of the objects or more change their query in an epoch": all(
                n["from nothing"][late] >= 0.25 for n in per_seed),
            "the finished detector's objects change it half as often or less": all(
                n["finished"][late] <= 0.5 * n["from nothing"][late] for n in per_seed)}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
