"""Reference-size detectors beside torchvision's, and DETR beside transformers', same weights, in one process.

`python -m benchmarks models [--short-side 800] [--pictures 2] [--threads 1 2] [--repeats 3] [--only mask]`: median
seconds of detection and of a training step, forward and backward, on pictures made of the embedded photographs; then
the peak memory of both, above that of the model, each from a process of its own. Weights are untrained but alive, see
`benchmarks.alive`: there are detections to suppress, cut out, draw and paste.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.alive import DETR, NAMES, embedded_pictures, model_pair
from benchmarks.ops import PEAK, peak_megabytes, side_by_side
from lessons.data.sample import Target, to_device

WORK = ("detect", "train")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one row per model, kind of work and device or number of threads."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks models")
    parser.add_argument("--short-side", type=int, default=320)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--busy", action="store_true", help="on a machine with other work: count the time that the "
                        "processor spends on this, not the clock's")
    parser.add_argument("--no-cpu", action="store_true", help="only CUDA")
    parser.add_argument("--memory", help=argparse.SUPPRESS)  # one model in a process of its own
    given = parser.parse_args(argv)
    if given.memory:
        return print(*memory_of(given.memory, given.short_side, given.pictures))
    print(f"{given.pictures} pictures, short side {given.short_side}, median of {given.repeats}\n"
          f"{'model':28}{'work':8}{'device':>10}{'ours ms':>10}{'theirs ms':>11}{'ratio':>7}  found")
    places = [("cpu", n) for n in given.threads] * (not given.no_cpu) + [("cuda", 0)] * torch.cuda.is_available()
    for name in (*NAMES, DETR):
        if given.only in name:
            report_time(name, places, given)
    if PEAK.exists() and not given.no_cpu:
        report_memory(given)
    if torch.cuda.is_available():
        report_cuda_memory(given)


def report_time(name: str, places: Sequence[tuple[str, int]], given: argparse.Namespace) -> None:
    """The rows of one model."""
    pair = model_pair(name, given.short_side)
    for device, threads in places:
        torch.set_num_threads(max(threads, 1))
        runs = [work_of(model.to(device), *pictures(name, given, device)) for model in pair]
        found = "+".join(str(len(one["boxes"])) for one in runs[0]["detect"]())
        for kind in WORK:
            mine, theirs = side_by_side(runs[0][kind], runs[1][kind], given.repeats, device,
                                        time.process_time if given.busy and device == "cpu" else time.perf_counter)
            where = f"cpu, {threads} th" if threads else device
            print(f"{name:28}{kind:8}{where:>10}{mine * 1e3:10.0f}{theirs * 1e3:11.0f}{mine / theirs:7.2f}  "
                  f"{found if kind == 'detect' else ''}", flush=True)


def pictures(name: str, given: argparse.Namespace, device: str) -> tuple[list[Tensor], list[Target]]:
    """Pictures made of embedded photographs, and their objects, in classes that the model knows."""
    images, targets = zip(*embedded_pictures(given.pictures, given.short_side * 4 // 3), strict=True)
    if name.startswith("keypoint"):
        targets = tuple({**t, "labels": torch.ones_like(t["labels"])} for t in targets)
    return [image.to(device) for image in images], [to_device(t, device) for t in targets]


def work_of(model: nn.Module, images: list[Tensor], targets: list[Target]) -> dict[str, Callable]:
    """What is measured, by its name."""
    def detect() -> list[dict[str, Tensor]]:
        with torch.no_grad():
            return model.eval()(images)

    def train() -> None:
        torch.manual_seed(0)  # so that both draw the same samples
        sum(model.train()(images, [dict(t) for t in targets]).values()).backward()
        model.zero_grad()

    return {"detect": detect, "train": train}


def report_memory(given: argparse.Namespace) -> None:
    """Peak megabytes of the processor's memory, above what the model itself takes."""
    print(f"\n{'peak memory':28}{'work':8}{'ours MB':>10}{'theirs MB':>11}{'ratio':>7}")
    for name in (*NAMES, DETR):
        if given.only in name:
            command = [sys.executable, "-m", "benchmarks", "models", "--short-side", str(given.short_side),
                       "--pictures", str(given.pictures), "--memory"]
            used = [subprocess.run([*command, f"{name} {who}"], capture_output=True, text=True, check=True
                                   ).stdout.split() for who in (0, 1)]
            print_memory(name, [[float(value) for value in row] for row in used])


def memory_of(what: str, short_side: int, count: int) -> list[float]:
    """Peak megabytes of each kind of work, of our model (0) or the reference (1)."""
    name, who = what.split()
    torch.set_num_threads(1)
    given = argparse.Namespace(short_side=short_side, pictures=count)
    model = model_pair(name, short_side)[int(who)]
    work = work_of(model, *pictures(name, given, "cpu"))
    peaks = []
    for kind in WORK:
        PEAK.with_name("clear_refs").write_text("5")  # Linux forgets the peak so far
        before = peak_megabytes()
        work[kind]()
        peaks.append(peak_megabytes() - before)
    return peaks


def report_cuda_memory(given: argparse.Namespace) -> None:
    """The same of the accelerator's memory, where torch counts it."""
    print(f"\n{'peak memory, CUDA':28}{'work':8}{'ours MB':>10}{'theirs MB':>11}{'ratio':>7}")
    for name in (*NAMES, DETR):
        if given.only in name:
            print_memory(name, [cuda_memory(model, *pictures(name, given, "cuda"))
                                for model in model_pair(name, given.short_side)])


def cuda_memory(model: nn.Module, images: list[Tensor], targets: list[Target]) -> list[float]:
    """Peak megabytes of each kind of work."""
    work, peaks = work_of(model.cuda(), images, targets), []
    for kind in WORK:
        work[kind]()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work[kind]()
        peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
    model.cpu()
    return peaks


def print_memory(name: str, used: Sequence[Sequence[float]]) -> None:
    for kind, mine, theirs in zip(WORK, *used, strict=True):
        print(f"{name:28}{kind:8}{mine:10.0f}{theirs:11.0f}{mine / theirs:7.2f}", flush=True)


if __name__ == "__main__":
    main()
