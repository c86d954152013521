"""What does rounding cost on real photographs? The question of `mask_roi`, asked of nuclei under the microscope.

The paper asked it of COCO, at strides 16 and 32 (tables 2c and 2d): +3.3 and +7.3 points of mask AP for RoIAlign. The
photographs are not embedded: `python -m lessons.data.download nuclei` fetches them. Body, heads, boxes and measurement
are those of `mask_training`; a picture is a square cut out of a photograph as large as the detectors see it. A seed
cuts other squares and draws other first weights and batches.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from experiments.mask_roi import BOTH, POOLINGS, align, share_lost
from experiments.mask_training import PRE_TRAINED, STRIDES, MeanShapes, Scene, fit, maps_of, measure, new_head
from experiments.record import Numbers, wins
from lessons.data.catalogue import open_dataset
from lessons.data.instances import tight_boxes
from lessons.data.sample import DetectionDataset
from lessons.data.transforms import Compose, Resize, brighten
from lessons.plans import side_of

CLAIM = "On real photographs, too, masks gain from regions that are not rounded, most on coarse maps."
DATASET = "nuclei"
SIDE, SMALLEST = 384, 32  # of a square; the fewest pixels of a mask that count as an object
STEPS, SHORT_STEPS = 120, 4


def data() -> DetectionDataset:
    """The photographs that the masks are learned from."""
    return open_dataset(DATASET, "train")


def run(seed: int, short: bool = False) -> Numbers:
    """One head for each way of pooling and stride, from the same first weights, on the same batches."""
    pictures = {split: squares(split, seed) for split in ("train", "val")}
    results = {"squares": {split: float(len(scene.boxes)) for split, (_, scene) in pictures.items()}}
    for condition in BOTH:
        kind, stride = condition.split()
        train, val = (scene._replace(maps=maps[STRIDES.index(int(stride))]) for maps, scene in pictures.values())
        head = fit(new_head(train.maps.shape[1], seed, num_classes=2), POOLINGS[kind], train, int(stride),
                   SHORT_STEPS if short else STEPS, seed)
        results[condition] = measure(head, POOLINGS[kind], val, int(stride))
    results["mean shape"] = measure(MeanShapes(train, num_classes=2), align, val, int(stride))
    return results


@lru_cache(maxsize=2)
def squares(split: str, seed: int) -> tuple[list[Tensor], Scene]:
    """The body's maps of all four strides, and the nuclei of one square from every picture that has some there."""
    photographs, generator = open_dataset(DATASET, split), torch.Generator().manual_seed(seed)
    photographs.transform = Compose([Resize(side_of(DATASET)), brighten])
    images, masks = [], []
    for index in range(len(photographs)):
        image, target = photographs[index]
        y, x = (int(torch.randint(0, length - SIDE + 1, (), generator=generator)) for length in image.shape[1:])
        inside = target["masks"][:, y : y + SIDE, x : x + SIDE]
        inside = inside[inside.flatten(1).sum(1) >= SMALLEST]
        if len(inside):
            images.append(image[:, y : y + SIDE, x : x + SIDE])
            masks.append(inside)
    maps = maps_of(torch.stack(images))
    labels = [torch.ones(len(one), dtype=torch.int64) for one in masks]
    return maps, Scene(maps[0], [tight_boxes(one) for one in masks], masks, labels, SIDE)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's comparisons, in mask AP."""
    gain = {s: sum(one[f"align {s}"]["AP"] - one[f"pool {s}"]["AP"] for one in per_seed) / len(per_seed)
            for s in STRIDES}
    return {**{f"RoIAlign beats RoIPool at stride {s}": wins(per_seed, f"align {s}", f"pool {s}") for s in STRIDES},
            "the gain in AP is larger at strides 16 and 32 than at 4 and 8":
                min(gain[16], gain[32]) > max(gain[4], gain[8]),
            "the gain in AP is larger at stride 32 than at 16": gain[32] > gain[16],
            "RoIAlign beats mean shapes at stride 32": wins(per_seed, "align 32", "mean shape"),
            "of what it adds to mean shapes RoIPool loses a larger share at stride 8 than at 4":
                share_lost(per_seed, 8, "AP") > share_lost(per_seed, 4, "AP")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
