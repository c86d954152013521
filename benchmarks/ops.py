"""Boxes and NMS beside torchvision's compiled ops, in one process: medians of repeats and their ratio.

`python -m benchmarks ops [--threads 1] [--repeats 7]`. Where there is a GPU its columns are printed, too.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torchvision.ops as reference
from torch import Tensor

from lessons import boxes as ours
from lessons.nms import nms


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one row per op and size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print(f"{given.threads} thread(s), median of {given.repeats}")
    print(f"{'op':34}{'device':>7}{'ours ms':>10}{'theirs ms':>11}{'ratio':>8}")
    for device in devices:
        for name, mine, theirs in cases(device):
            one, other = side_by_side(mine, theirs, given.repeats, device)
            print(f"{name:34}{device:>7}{one * 1e3:10.2f}{other * 1e3:11.2f}{one / other:8.2f}", flush=True)


def cases(device: str) -> list[tuple[str, Callable[[], Tensor], Callable[[], Tensor]]]:
    """What is compared: name, ours and the reference, on the same boxes."""
    rows: list[tuple[str, Callable[[], Tensor], Callable[[], Tensor]]] = []
    for count in (1_000, 5_000, 20_000):
        for kind, objects in (("clustered", 100), ("sparse", count)):
            boxes, scores = candidates(count, objects, device)
            rows.append((f"nms {kind} {count}", lambda b=boxes, s=scores: nms(b, s, 0.5),
                         lambda b=boxes, s=scores: reference.nms(b, s, 0.5)))
    a, b = candidates(2_000, 2_000, device)[0], candidates(2_000, 2_000, device)[0]
    for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
        rows.append((f"{name} 2000 x 2000", lambda n=name: getattr(ours, n)(a, b),
                     lambda n=name: getattr(reference, n)(a, b)))
    return rows


def candidates(count: int, objects: int, device: str) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) around `objects` places in an image of 1000 x 1000 pixels, and scores (N,)."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(objects, 2, generator=generator) * 950
    side = torch.rand(objects, 2, generator=generator) * (100 if objects < count else 20) + 5
    base = torch.cat([corner, corner + side], dim=1)[torch.arange(count) % objects]
    jitter = torch.rand(count, 4, generator=generator) * 0.2 * (base[:, 2:] - base[:, :2]).repeat(1, 2)
    return (base + jitter * torch.tensor([1, 1, -1, -1])).to(device), torch.rand(count, generator=generator).to(device)


def side_by_side(mine: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int, device: str
                 ) -> tuple[float, float]:
    """Median seconds of both, taken in turns so that a busy moment of the machine meets both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for run, column in zip((mine, theirs), seconds, strict=True):
            began = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            column.append(time.perf_counter() - began)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])  # the first warms up


if __name__ == "__main__":
    main()
