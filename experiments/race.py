"""The race: every lesson's finished detector on the same validation scenes, measured in the same way.

No claim of a paper and no seeds: one record, data/results/race.json, with a row for each shipped checkpoint. A row is
kept as long as its checkpoint and the scenes stay as they are, so a new detector costs only its own measurement.
This is not the papers' comparison: the detectors share data, scale of picture and (but for R-CNN) the pre-trained body,
but not the length of their trainings, and each was trained once.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.record import RESULTS, checkpoint_hash, load_result
from lessons import zoo
from lessons.checkpoints import command_line, data_hash, write_atomically
from lessons.costs import multiply_adds_by_module
from lessons.data.sample import Detections, Target
from lessons.data.scenes import Scenes
from lessons.error_breakdown import error_breakdown
from lessons.evaluation import evaluate, evaluation_mode
from lessons.metrics import CocoMetrics

RECORD = "Every shipped detector on the same scenes: accuracy, errors and cost."
SPLITS = ("val", "val_unknown")  # known and unknown objects
REFERENCE = "faster_rcnn"  # whose time is one
SCENES, GROUPS, CLOCKED = 200, 10, 12  # of each split; of scenes to leave out; scenes that are timed
NEEDED = ("boxes", "labels", "area", "iscrowd", "image_id")
LEFT_OUT = ("AP", "AP50", "AP75", "AP_small", "AP_medium")  # of which the error is estimated

Samples = list[tuple[Tensor, Target]]
Row = dict[str, Any]


def conduct(fresh: bool = False, folder: Path = RESULTS, scenes: int = SCENES) -> Row:
    """Measures every shipped detector that has no valid row yet; writes race.json after each and returns the record.

    fresh: forget all rows. scenes: of each split; a record of another number is begun anew.
    """
    record, names = _begin(fresh, folder, scenes), zoo.shipped_detectors()
    samples: dict[str, Samples] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in names:
            if record["detectors"].get(name, {}).get("checkpoint") != checkpoint_hash(_file(name)):
                samples = samples or {split: load_samples(split, scenes) for split in SPLITS}
                record["detectors"][name] = measure(name, samples)
                print(f"{name}: {line(record['detectors'][name])}", flush=True)
            record["detectors"] = {one: record["detectors"][one] for one in names if one in record["detectors"]}
            write_atomically(folder / "race.json", (json.dumps(record, indent=1) + "\n").encode())
    finally:
        torch.set_num_threads(threads)
    return record


def line(row: Row) -> str:
    """The headline of one row."""
    return (f"AP {row['val']['AP']:.3f}, on unknown objects {row['val_unknown']['AP']:.3f}; "
            f"{row['seconds'] * 1000:.0f} ms, {row['multiply_adds'] / 1e6:.0f} million multiply-adds a picture")


def load_samples(split: str, count: int) -> Samples:
    """The first scenes of a split, their targets without masks and maps."""
    data = Scenes(split, count)
    return [(image, {key: target[key] for key in NEEDED})  # type: ignore[misc]
            for image, target in (data[i] for i in range(count))]


def measure(name: str, samples: Mapping[str, Samples]) -> Row:
    """One detector's row: what its training took, its costs and times, and its accuracy on both splits."""
    model, reference = zoo.load(name, "lesson"), zoo.load(REFERENCE, "lesson")
    pictures = [image for image, _ in samples["val"]]
    row = {"checkpoint": checkpoint_hash(_file(name)), "training": training(name),
           "bytes": _file(name).stat().st_size, "parameters": count_numbers(model),
           **times(model, model if name == REFERENCE else reference, pictures[:CLOCKED])}
    remember_proposals(model)
    row |= multiply_adds(model, pictures[:CLOCKED])
    return row | {split: accuracy(model, samples[split]) for split in SPLITS}


def training(name: str) -> dict[str, int]:
    """Pictures shown and seconds of the trainings that led to a checkpoint; pre-training on crops is not counted."""
    card = json.loads(_file(name).with_suffix(".json").read_text(encoding="utf-8"))
    own = {"pictures": card["steps"] * card["plan"].get("batch_size", 8), "seconds": card["seconds"]}
    before = card.get("begins_with")
    if before not in zoo.DETECTORS:
        return own
    return {key: value + training(before)[key] for key, value in own.items()}


# --- costs -------------------------------------------------------------------------------------------------------


def count_numbers(model: nn.Module) -> int:
    """All numbers that a model's file holds: weights, those of SVMs, statistics of normalisation."""
    return sum(tensor.numel() for tensor in model.state_dict().values())


def multiply_adds(model: nn.Module, pictures: Sequence[Tensor]) -> Row:
    """Multiply-adds of a picture, and of each outermost part: the mean, as proposals are not always as many.

    Selective Search does none that are counted.
    """
    counts = [multiply_adds_by_module(model, [picture]) for picture in pictures]
    parts = {key: round(sum(one.get(key, 0) for one in counts) / len(counts)) for key in counts[0] if "." not in key}
    return {"multiply_adds": parts.pop(""), "parts": parts}


def times(model: nn.Module, reference: nn.Module, pictures: Sequence[Tensor]) -> dict[str, float]:
    """Processor seconds of one picture, of the proposals in it, and the ratio to the reference's.

    Medians over pictures, one at a time on one thread, both models in turn on each, after one picture to warm up.
    Processor seconds, since others may use the machine; on an idle one they are the seconds on the clock.
    """
    clocked = Clocked(model.propose) if hasattr(model, "propose") else None  # type: ignore[arg-type]
    if clocked is not None:
        model.propose = clocked  # type: ignore[assignment]
    seconds: dict[nn.Module, list[float]] = {model: [], reference: []}
    for number, picture in enumerate([pictures[0], *pictures]):
        for one, own in seconds.items():
            spent = processor_seconds(one, [picture])[1]
            if number:
                own.append(spent)
    own, other = (statistics.median(seconds[one]) for one in (model, reference))
    searching = statistics.median(clocked.seconds[1:]) if clocked is not None else 0.0
    return {"seconds": round(own, 5), "proposal_seconds": round(searching, 5), "ratio": round(own / other, 3)}


def processor_seconds(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and the processor time that it took."""
    with evaluation_mode(function), torch.no_grad():
        began = time.process_time()
        found = function(*arguments)
        return found, time.process_time() - began


class Clocked:
    """A search for proposals that notes the processor time of each call."""

    def __init__(self, propose: Callable[[Tensor], Tensor]) -> None:
        self.propose, self.seconds = propose, list[float]()

    def __call__(self, image: Tensor) -> Tensor:
        found, spent = processor_seconds(self.propose, image)
        self.seconds.append(spent)
        return found


_proposals: dict[bytes, Tensor] = {}  # of Selective Search, for a picture's bytes


def remember_proposals(model: nn.Module) -> None:
    """Lets detectors whose proposals come from outside share one search of each picture."""
    if not hasattr(model, "propose"):
        return
    search = getattr(model.propose, "propose", model.propose)  # below the clock

    def propose(image: Tensor) -> Tensor:
        key = image.numpy().tobytes()
        if key not in _proposals:
            _proposals[key] = search(image)
        return _proposals[key]

    model.propose = propose  # type: ignore[assignment]


# --- accuracy ----------------------------------------------------------------------------------------------------


class Kept:
    """In the place of metrics: keeps detections and targets."""

    def __init__(self) -> None:
        self.detections, self.targets = list[Detections](), list[Target]()

    def update(self, detections: Sequence[Detections], targets: Sequence[Target]) -> None:
        """Adds one batch."""
        self.detections += [{key: one[key] for key in ("boxes", "labels", "scores")} for one in detections]
        self.targets += targets

    def compute(self) -> dict[str, float]:
        """Nothing: that is done later."""
        return {}


def detect(model: nn.Module, samples: Samples) -> tuple[list[Detections], list[Target]]:
    """Detections and targets of all samples."""
    kept = Kept()
    evaluate(model, samples, lambda: kept, progress=False)  # type: ignore[arg-type]
    return kept.detections, kept.targets


def accuracy(model: nn.Module, samples: Samples) -> Row:
    """COCO's numbers, what they are when each group of scenes is left out, and the kinds of errors."""
    detections, targets = detect(model, samples)
    groups = min(GROUPS, len(targets))
    left_out = [coco_numbers(detections, targets, [i for i in range(len(targets)) if i % groups != group])
                for group in range(groups)] if groups > 1 else []
    numbers = coco_numbers(detections, targets, range(len(targets)))
    best, threshold = as_many_as_objects(detections, targets)
    return {**{key: round(value, 5) for key, value in numbers.items()},
            "objects": sum(len(target["labels"]) for target in targets),
            "threshold": threshold, "errors": error_breakdown(best, targets),
            "left_out": {key: [round(one[key], 5) for one in left_out] for key in LEFT_OUT}}


def coco_numbers(detections: Sequence[Detections], targets: Sequence[Target], chosen: Sequence[int]
                 ) -> dict[str, float]:
    """COCO's twelve numbers of the chosen pictures."""
    metrics = CocoMetrics()
    metrics.update([detections[i] for i in chosen], [targets[i] for i in chosen])
    return metrics.compute()


def as_many_as_objects(detections: Sequence[Detections], targets: Sequence[Target]) -> tuple[list[Detections], float]:
    """The best-scored detections of all pictures together, as many as there are objects, and the lowest score of them.

    So detectors whose scores mean different things show equally many boxes, and precision is recall. All of them
    where there are fewer; the threshold is then the lowest score, or 0 where there is none.
    """
    scores = torch.cat([one["scores"] for one in detections])
    count = min(sum(len(target["labels"]) for target in targets), len(scores))
    best = torch.zeros(len(scores), dtype=torch.bool)
    order = scores.argsort(descending=True, stable=True)[:count]
    best[order] = True
    masks = best.split([len(one["scores"]) for one in detections])
    threshold = round(scores[order[-1]].item(), 4) if count else 0.0
    return [{key: one[key][mask] for key in ("boxes", "labels", "scores")}  # type: ignore[literal-required, misc]
            for one, mask in zip(detections, masks, strict=True)], threshold


# --- the record --------------------------------------------------------------------------------------------------


def _file(name: str) -> Path:
    return zoo.CHECKPOINTS / f"{name}.safetensors"


def _begin(fresh: bool, folder: Path, scenes: int) -> Row:
    new = {"name": "race", "measured": RECORD, "command": command_line(), "torch": torch.__version__,
           "machine": f"one thread of a processor ({platform.machine()})", "scenes": scenes,
           "data": {split: data_hash(Scenes(split, scenes)) for split in SPLITS}, "detectors": {}}
    try:
        old = load_result("race", folder)
    except ValueError:
        return new
    same = all(old.get(key) == new[key] for key in ("scenes", "data"))
    return {**new, "detectors": old["detectors"]} if same and not fresh else new


