"""Four steps in turn or all at once? (Faster R-CNN, section 3.2)

Joint training is measured twice: with as many steps as each of the first two of the four, and with twice as many,
which takes about as long as all four together.
"""

import time
from collections.abc import Sequence

from experiments.proposal_training import Size, average_recalls, train_briefly
from experiments.record import Numbers, wins
from lessons.data.scenes import Scenes
from lessons.detectors.alternating import alternating_steps
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.evaluation import evaluate
from lessons.recipes.faster_rcnn import build
from lessons.recipes.small_resnet import LESSON, start_from_pre_trained

CLAIM = "Approximate joint training gives about the accuracy of alternating training in less time."
PRE_TRAINED = LESSON
FULL, SHORT = Size(250, 100, 60), Size(16, 4, 8)
SHARE = {"3": 0.5, "4": 0.5}  # of the steps, where the backbone stays as it is and less is to be learnt


def run(seed: int, short: bool = False) -> Numbers:
    """AP, average recall of the proposals and processor seconds of both ways; short: a few steps."""
    size = SHORT if short else FULL
    longer = Size(size.images, 2 * size.steps, size.measured)
    return {"joint": measured(*joint(size, seed), size, seed),
            "joint, as long": measured(*joint(longer, seed), size, seed),
            "alternating": measured(*alternating(size, seed), size, seed)}


def joint(size: Size, seed: int) -> tuple[FasterRCNN, float]:
    """RPN, head and backbone from one sum of losses, and the processor seconds that it took."""
    model = started(seed)
    began = time.process_time()
    train_briefly(model, size, seed)
    return model, time.process_time() - began


def alternating(size: Size, seed: int) -> tuple[FasterRCNN, float]:
    """The paper's four steps, and the processor seconds that they took."""
    model = started(seed)
    began = time.process_time()
    for name, task in alternating_steps(model, model.backbone.state_dict()):
        steps = int(size.steps * SHARE.get(name[0], 1))
        train_briefly(task, Size(size.images, steps, size.measured), seed)
    return model.eval(), time.process_time() - began


def started(seed: int) -> FasterRCNN:
    """The lesson's detector with the pre-trained body."""
    model = build(seed=seed)
    start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type]
    return model


def measured(model: FasterRCNN, seconds: float, size: Size, seed: int) -> dict[str, float]:
    """COCO's numbers on the validation scenes of a seed."""
    found = evaluate(model, Scenes("val", size.measured, seed=1000 + seed), progress=False)
    return {**{key: round(found[key], 4) for key in ("AP", "AP50")}, "seconds": round(seconds, 1),
            "AR100 of proposals": average_recalls(model, size, seed)["AR100"]}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Time and quality."""
    faster = all(n["joint"]["seconds"] < n["alternating"]["seconds"] for n in per_seed)
    return {"as many steps of joint training take less time, for every seed": faster,
            "but they reach less AP50": wins(per_seed, "alternating", "joint", "AP50"),
            "in the same time joint training reaches more": wins(per_seed, "joint, as long", "alternating", "AP50")}
