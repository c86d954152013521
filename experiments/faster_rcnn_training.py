"""Four steps in turn or all at once? (Faster R-CNN, section 3.2)

Both see each scene as often: joint training takes as many steps as each of the first two of the four.
"""

import time
from collections.abc import Sequence

from experiments.proposal_training import Size, average_recalls, train_briefly
from experiments.record import Numbers
from lessons.data.scenes import Scenes
from lessons.detectors.alternating import alternating_steps
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.evaluation import evaluate
from lessons.recipes.faster_rcnn import build
from lessons.recipes.small_resnet import LESSON, start_from_pre_trained

CLAIM = "Approximate joint training comes close to alternating training in less time."
PRE_TRAINED = LESSON
FULL, SHORT = Size(300, 160, 60), Size(16, 4, 8)
SHARE = {"3": 0.5, "4": 0.5}  # of the steps, where the backbone stays as it is and less is to be learnt


def run(seed: int, short: bool = False) -> Numbers:
    """AP, average recall of the proposals and processor seconds of both ways; short: a few steps."""
    size = SHORT if short else FULL
    return {"joint": measured(*joint(size, seed), size, seed),
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
    lost = sum(n["alternating"]["AP50"] - n["joint"]["AP50"] for n in per_seed) / len(per_seed)
    return {"joint training takes less time, for every seed": faster,
            "its AP50 is not more than 0.05 lower on the mean": lost <= 0.05}
