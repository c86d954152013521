"""Is DETR weak on small objects? (DETR, table 1: on small ones 20.5 AP against 26.6, on large ones 61.1 against 53.4)

The paper compares with a Faster R-CNN on a pyramid that was trained as long; here stand the two lessons' detectors on
the same scenes, DETR with a map of stride 16 and the pyramid with maps from stride 4. Small and medium are COCO's, with
32 pixels of side between them; no object of our scenes is large in pixels, but the small ones have, as COCO's on the
paper's map of stride 32, less than two cells a side. Nothing is trained here; a seed draws other validation scenes.
"""

from collections.abc import Sequence

from experiments.detr_training import PRE_TRAINED, finished
from experiments.one_stage_training import NUMBERS
from experiments.record import Numbers
from lessons import zoo
from lessons.data.scenes import Scenes
from lessons.evaluation import evaluate

CLAIM = "DETR is weaker on small objects and stronger on large ones than a detector on a pyramid."
MEASURED = 200
KEYS = (*NUMBERS, "AR100", "AR_small", "AR_medium")


def run(seed: int, short: bool = False) -> Numbers:
    """COCO's numbers of both on the same scenes."""
    data = Scenes("val", 8 if short else MEASURED, seed=1000 + seed)
    found = {}
    for name, model in (("DETR", finished()), ("Faster R-CNN, pyramid", zoo.load("fpn", "lesson"))):
        numbers = evaluate(model, data, progress=False)
        found[name] = {key: round(numbers[key], 4) for key in KEYS}
    return found


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """By size, on every seed."""
    def share(numbers: Numbers, key: str) -> float:
        return numbers["DETR"][key] / max(numbers["Faster R-CNN, pyramid"][key], 1e-4)

    return {"DETR is behind on small objects": all(share(n, "AP_small") < 1 for n in per_seed),
            "DETR is ahead on medium ones": all(share(n, "AP_medium") > 1 for n in per_seed),
            "DETR reaches a larger share of the pyramid's AP on medium than on small objects": all(
                share(n, "AP_medium") > share(n, "AP_small") for n in per_seed)}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
