"""CocoMetrics beside pycocotools on the same random detections, in one process.

`python -m benchmarks metrics [--images 1000] [--detections 100]`: seconds of both and the largest difference of the
twelve numbers.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Sequence

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from lessons.data.sample import Target, coco_annotations
from lessons.metrics import CocoMetrics

CLASSES, OBJECTS = 10, 8


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks metrics")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    detections, targets = random_results(given.images, given.detections)
    began = time.perf_counter()
    metrics = CocoMetrics()
    metrics.update(detections, targets)
    ours = list(metrics.compute().values())
    middle = time.perf_counter()
    official = pycocotools_numbers(detections, targets)
    ended = time.perf_counter()
    difference = max(abs(a - b) for a, b in zip(ours, official, strict=True))
    print(f"{given.images} images x {given.detections} detections: ours {middle - began:.1f} s, pycocotools "
          f"{ended - middle:.1f} s, ratio {(middle - began) / (ended - middle):.2f}, "
          f"largest difference {difference:.1e}")


def random_results(images: int, count: int) -> tuple[list[dict[str, Tensor]], list[Target]]:
    """Objects of all sizes, and detections near them."""
    generator = torch.Generator().manual_seed(0)
    detections, targets = [], []
    for i in range(images):
        corner, side = (torch.rand(OBJECTS, 2, generator=generator) for _ in range(2))
        boxes = torch.cat([corner * 400, corner * 400 + 8 + side**2 * 200], dim=1)
        labels = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
        pick = torch.randint(OBJECTS, (count,), generator=generator)
        jitter = torch.rand(count, 4, generator=generator) * 0.3 * (boxes[pick, 2:] - boxes[pick, :2]).repeat(1, 2)
        detections.append({"boxes": boxes[pick] + jitter * torch.tensor([1, 1, -1, -1]), "labels": labels[pick],
                           "scores": torch.rand(count, generator=generator)})
        targets.append({"boxes": boxes, "labels": labels, "area": (boxes[:, 2:] - boxes[:, :2]).prod(1), "image_id": i,
                        "iscrowd": (torch.rand(OBJECTS, generator=generator) < 0.05).long()})
    return detections, targets


def pycocotools_numbers(detections: Sequence[dict[str, Tensor]], targets: Sequence[Target]) -> list[float]:
    """The twelve numbers of the official tool, from the same tensors."""
    annotations: list[dict] = []
    for target in targets:
        annotations += coco_annotations(target, len(annotations) + 1)
    rows = [{"image_id": target["image_id"], "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for found, target in zip(detections, targets, strict=True)
            for (x1, y1, x2, y2), label, score in zip(*(found[k].tolist() for k in ("boxes", "labels", "scores")),
                                                      strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": target["image_id"]} for target in targets], "annotations": annotations,
                         "categories": [{"id": label} for label in range(1, CLASSES + 1)]}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


if __name__ == "__main__":
    main()
