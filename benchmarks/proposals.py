"""Selective Search: recall and seconds per image, beside OpenCV's implementation where `cv2` (contrib) is installed.

`python -m benchmarks proposals [--images 60] [--coco FOLDER]`: on embedded validation scenes of 160 pixels, and on the
photographs of a folder in COCO's layout. One thread. Both implementations run in the same process, image by image.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons.data.catalogue import open_dataset
from lessons.data.sample import DetectionDataset, Sample
from lessons.data.scenes import Scenes
from lessons.proposals import proposal_recall, selective_search

COUNTS = (100, 500, 2000)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for the scenes and one for each folder of photographs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks proposals")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--coco", type=Path, help="a folder with annotations/ and train2017/ or val2017/")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    report("embedded scenes, 160 px", list(first(Scenes("val"), given.images)))
    if given.coco:
        split = "val" if (given.coco / "val2017").is_dir() else "train"
        report(str(given.coco.name), list(first(open_dataset("coco2017", split, given.coco), given.images)))


def first(data: DetectionDataset, count: int) -> Iterator[Sample]:
    """The first samples of a data set."""
    return (data[index] for index in range(min(count, len(data))))


def report(title: str, samples: Sequence[Sample]) -> None:
    """One row per implementation: boxes and seconds per image (median), recall at IoU 0.5."""
    truth = [torch.as_tensor(target["boxes"])[torch.as_tensor(target["iscrowd"]) == 0] for _, target in samples]
    searches = implementations()
    print(f"\n{title}: {len(samples)} images, {sum(map(len, truth))} objects")
    print(f"{'':22}{'boxes':>8}{'s/image':>9}" + "".join(f"{f'recall@{n}':>13}" for n in COUNTS))
    for name, search in searches.items():
        found, seconds = timed(search, [image for image, _ in samples])
        recall = proposal_recall(found, truth, COUNTS)
        print(f"{name:22}{sum(map(len, found)) / len(found):8.0f}{seconds:9.3f}"
              + "".join(f"{value:13.3f}" for value in recall.tolist()))


def timed(search: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """The boxes of all images, and the median time of one."""
    found, seconds = [], []
    for image in images:
        began = time.perf_counter()
        found.append(search(image))
        seconds.append(time.perf_counter() - began)
    return found, statistics.median(seconds)


def implementations() -> dict[str, Callable[[Tensor], Tensor]]:
    """Ours, and OpenCV's where it can be imported."""
    ours = {"fast": selective_search, "single": lambda image: selective_search(image, "single"),
            "quality": lambda image: selective_search(image, "quality")}
    try:
        import cv2
    except ImportError:
        print("(cv2 is not installed; OpenCV's rows are left out)")
        return ours
    cv2.setNumThreads(1)
    return ours | {f"OpenCV {cv2.__version__} {mode}": opencv_search(cv2, mode) for mode in ("Fast", "Quality")}


def opencv_search(cv2, mode: str) -> Callable[[Tensor], Tensor]:
    """OpenCV's search with our interface; the conversion of the image is not worth mentioning beside it."""
    def search(image: Tensor) -> Tensor:
        pixels = np.ascontiguousarray((image.permute(1, 2, 0).flip(2) * 255).round().byte().numpy())
        engine = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        engine.setBaseImage(pixels)
        getattr(engine, f"switchToSelectiveSearch{mode}")()
        boxes = torch.from_numpy(engine.process()).float()
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    return search


if __name__ == "__main__":
    main()
