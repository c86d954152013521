"""The ops beside torchvision's compiled ones, in one process: medians of repeats, their ratio, peak memory.

`python -m benchmarks ops [--threads 1 2] [--repeats 7] [--only roi]`. Where there is a GPU its rows are printed, too.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision.ops as reference
from torch import Tensor

from lessons import boxes as ours
from lessons import losses, roi
from lessons.nms import batched_nms, nms

PEAK = Path("/proc/self/status")
Case = tuple[str, Callable[[], Tensor], Callable[[], Tensor]]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one row per op, size and number of threads."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ops")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="ops whose name holds this")
    parser.add_argument("--memory", help=argparse.SUPPRESS)  # one op in a process of its own
    given = parser.parse_args(argv)
    if given.memory:
        return print(memory_of(given.memory))
    print(f"median of {given.repeats}\n{'op':34}{'device':>11}{'ours ms':>10}{'theirs ms':>11}{'ratio':>8}")
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for threads in given.threads if device == "cpu" else [0]:
            torch.set_num_threads(max(threads, 1))
            for name, mine, theirs in cases(device):
                if given.only in name:
                    one, other = side_by_side(mine, theirs, given.repeats, device)
                    where = f"cpu, {threads} th" if threads else device
                    print(f"{name:34}{where:>11}{one * 1e3:10.2f}{other * 1e3:11.2f}{one / other:8.2f}", flush=True)
    if PEAK.exists():
        report_memory(given.only)


def cases(device: str) -> list[Case]:
    """What is compared: name, ours and the reference, on the same tensors."""
    return [*nms_cases(device), *iou_cases(device), *roi_cases(device), *loss_cases(device)]


def nms_cases(device: str) -> list[Case]:
    """NMS of a detector's candidates, many around few objects, and of sparse boxes."""
    rows: list[Case] = []
    for count in (1_000, 5_000, 20_000):
        for kind, objects in (("clustered", 100), ("sparse", count)):
            boxes, scores = candidates(count, objects, device)
            rows.append((f"nms {kind} {count}", lambda b=boxes, s=scores: nms(b, s, 0.5),
                         lambda b=boxes, s=scores: reference.nms(b, s, 0.5)))
    for count in (1_000, 20_000):
        boxes, scores = candidates(count, 100, device)
        group = torch.arange(count, device=device) % 80
        rows.append((f"batched_nms 80 classes {count}", lambda b=boxes, s=scores, g=group: batched_nms(b, s, g, 0.5),
                     lambda b=boxes, s=scores, g=group: reference.batched_nms(b, s, g, 0.5)))
    return rows


def iou_cases(device: str) -> list[Case]:
    """The IoU family, every box with every other."""
    a, b = candidates(2_000, 2_000, device)[0], candidates(2_000, 2_000, device)[0]
    return [(f"{name} 2000 x 2000", lambda n=name: getattr(ours, n)(a, b), lambda n=name: getattr(reference, n)(a, b))
            for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")]


def roi_cases(device: str) -> list[Case]:
    """512 regions of a map of 256 x 50 x 50, pooled to 7 x 7; forward, and forward with backward."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 256, 50, 50, generator=generator).to(device).requires_grad_()
    corner = torch.rand(512, 2, generator=generator) * 600
    boxes = [torch.cat([corner, corner + 20 + torch.rand(512, 2, generator=generator) * 180], dim=1).to(device)]
    rows: list[Case] = []
    for name, options in (("roi_align", (7, 1 / 16, 2)), ("roi_pool", (7, 1 / 16))):
        mine, theirs = getattr(roi, name), getattr(reference, name)

        def forward(op: Callable, options: tuple = options) -> Tensor:
            with torch.no_grad():
                return op(features, boxes, *options)

        def both(op: Callable, options: tuple = options) -> Tensor:
            return torch.autograd.grad(op(features, boxes, *options).sum(), features)[0]

        rows.append((f"{name} forward", lambda f=forward, o=mine: f(o), lambda f=forward, o=theirs: f(o)))
        rows.append((f"{name} forward + backward", lambda f=both, o=mine: f(o), lambda f=both, o=theirs: f(o)))
    return rows


def loss_cases(device: str) -> list[Case]:
    """Focal loss of a picture's 100,000 anchors in 20 classes; forward and backward."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100_000, 20, generator=generator).to(device).requires_grad_()
    targets = (torch.rand(100_000, 20, generator=generator) > 0.999).float().to(device)
    return [("sigmoid_focal_loss", *((lambda o=op: torch.autograd.grad(o(logits, targets).sum(), logits)[0])
                                     for op in (losses.sigmoid_focal_loss, reference.sigmoid_focal_loss)))]


MEMORY: dict[str, Callable[[int, bool], object]] = {
    "nms": lambda count, mine: (nms if mine else reference.nms)(*candidates(count, 100, "cpu"), 0.5),
    "roi_align": lambda count, mine: (roi.roi_align if mine else reference.roi_align)(
        torch.zeros(1, 64, 50, 50), [candidates(count, count, "cpu")[0] / 2], 7, 1 / 16, 2),
}


def report_memory(only: str) -> None:
    """Peak memory above that of the imports, each number from a process of its own, which has one peak."""
    print(f"\n{'peak memory':34}{'ours MB':>10}{'theirs MB':>11}")
    for name, counts in (("nms", (25_000, 50_000, 100_000)), ("roi_align", (1_000, 2_000, 4_000))):
        for count in counts if only in name else ():
            command = [sys.executable, "-m", "benchmarks", "ops", "--memory"]
            used = [float(subprocess.run([*command, f"{name} {count} {who}"], capture_output=True, text=True, check=True
                                         ).stdout) for who in (1, 0)]
            print(f"{name + ' ' + str(count):34}{used[0]:10.0f}{used[1]:11.0f}", flush=True)


def memory_of(what: str) -> float:
    """Peak megabytes of one call, above what was there before it."""
    name, count, mine = what.split()
    torch.set_num_threads(1)
    MEMORY[name](10, mine == "1")  # loads what is loaded only once
    PEAK.with_name("clear_refs").write_text("5")  # Linux forgets the peak so far
    before = peak_megabytes()
    MEMORY[name](int(count), mine == "1")
    return peak_megabytes() - before


def peak_megabytes() -> float:
    """The most memory that this process ever held."""
    line = next(line for line in PEAK.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def candidates(count: int, objects: int, device: str) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) around `objects` places in an image of 1000 x 1000 pixels, and scores (N,)."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(objects, 2, generator=generator) * 950
    side = torch.rand(objects, 2, generator=generator) * (100 if objects < count else 20) + 5
    base = torch.cat([corner, corner + side], dim=1)[torch.arange(count) % objects]
    jitter = torch.rand(count, 4, generator=generator) * 0.2 * (base[:, 2:] - base[:, :2]).repeat(1, 2)
    return (base + jitter * torch.tensor([1, 1, -1, -1])).to(device), torch.rand(count, generator=generator).to(device)


def side_by_side(mine: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int, device: str,
                 clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """Median seconds of both, taken in turns so that a busy moment of the machine meets both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for run, column in zip((mine, theirs), seconds, strict=True):
            began = clock()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            column.append(clock() - began)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])  # the first warms up


if __name__ == "__main__":
    main()
