"""How far reference-size detectors are from torchvision's, DETR from transformers', with the same weights.

`python -m benchmarks parity [--short-side 800] [--dtype float64] [--pictures 2] [--coco FOLDER]`: on pictures made of
the embedded photographs, or on those of a folder in COCO's layout. A row per model: its number of weights' names, how
many objects both found, and the largest difference of any layer's output, of the boxes and keypoints in pixels, of
scores, masks, losses, and of gradients; layers and gradients relative to their largest number where that is above 1.
DETR's layers are its attention in every layer, and classes and boxes after every layer of the decoder.
Masks and keypoints are drawn and learnt for at most 16 regions a picture, since in double precision on a processor
their heads would take most of the time.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.alive import (
    DETR,
    NAMES,
    coco_pictures,
    embedded_pictures,
    layers_of,
    limit_regions,
    model_pair,
    one_step,
    recorded,
)
from lessons.data.catalogue import open_dataset
from lessons.data.sample import Detections, Sample, Target
from lessons.published import renamed

COLUMNS = ("layers", "boxes", "scores", "masks", "keypoints", "losses", "gradients")
REGIONS = 16
Differences = dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks parity")
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--coco", type=Path, help="a folder with annotations/ and train2017/ or val2017/")
    parser.add_argument("--only", default="", help="models whose name holds this")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    samples = samples_of(given.pictures, given.short_side, given.coco)
    sizes = ", ".join("x".join(map(str, image.shape[1:])) for image, _ in samples)
    print(f"{given.dtype}, short side {given.short_side}, pictures of {sizes}\n"
          f"{'model':27}{'names':>6}{'found':>9}" + "".join(f"{column:>11}" for column in COLUMNS))
    for name in (*NAMES, DETR):
        if given.only in name:
            print(row(name, samples, given.short_side, getattr(torch, given.dtype)), flush=True)


def samples_of(count: int, short_side: int, coco: Path | None) -> list[Sample]:
    """Photographs with objects: COCO's where a folder is given, else the embedded ones."""
    if coco is None:
        return embedded_pictures(count, min(short_side * 4 // 3, 1024))
    split = "val" if (coco / "val2017").is_dir() else "train"
    return coco_pictures(open_dataset("coco2017", split, coco), count)


def row(name: str, samples: Sequence[Sample], short_side: int, dtype: torch.dtype) -> str:
    """One model's line of the table."""
    options = {"attention": "eager"} if name == DETR else {}  # the one way in which transformers tells its attention
    mine, theirs = (model.to(dtype) for model in model_pair(name, short_side, **options))
    if name.startswith(("mask", "keypoint")):
        limit_regions(mine, theirs, REGIONS)
    images, targets = batch_of(samples, name, dtype)
    found = (set_differences if name == DETR else detection_differences)(mine, theirs, images)
    counts = "+".join(f"{int(found.pop(f'found {i}'))}" for i in range(len(images)))
    differences = found | step_differences(mine, theirs, images, targets)
    cells = (f"{differences[column]:11.1e}" if column in differences else f"{'-':>11}" for column in COLUMNS)
    return f"{name:27}{len(theirs.state_dict()):6}{counts:>9}" + "".join(cells)


def batch_of(samples: Sequence[Sample], name: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Target]]:
    """Pictures and targets in that precision; for the model of people every object is one."""
    targets = [{**target, "boxes": target["boxes"].to(dtype)} for _, target in samples]
    if name.startswith("keypoint"):
        targets = [{**target, "labels": torch.ones_like(target["labels"])} for target in targets]
    return [image.to(dtype) for image, _ in samples], targets


def detection_differences(mine: nn.Module, theirs: nn.Module, images: Sequence[Tensor], whole: bool = False
                          ) -> Differences:
    """Of every layer's outputs and of everything that is detected; "found i" is the number of picture i's objects.

    Of the backbone's blocks only the last layers are compared, unless `whole`: all, at full size, fill the memory.
    Raises ValueError as `object_differences`.
    """
    layers = {ours: other for ours, other in layers_of(theirs).items()
              if whole or not ours.startswith("backbone.body.") or ours.endswith("bn3")}
    with torch.no_grad(), recorded(theirs, layers.values()) as expected:
        wanted = theirs(images)
    with torch.no_grad(), recorded(mine, layers) as seen:
        found = mine(images)
    inside = max(relative_difference(one, two) for name, other in layers.items()
                 for one, two in zip(seen[name], expected[other], strict=True))
    return {"layers": inside} | object_differences(found, wanted)


def set_differences(mine: nn.Module, theirs: nn.Module, images: Sequence[Tensor]) -> Differences:
    """The same of two DETRs, ours and transformers', which find as many objects as they have queries.

    Their layers are attention and, after every layer of the decoder, logits and boxes (cxcywh, normalised).
    Raises ValueError as `object_differences`.
    """
    batch, _ = mine.prepare(images)
    with torch.no_grad():
        seen, expected = mine.predict(batch, need_weights=True), theirs.predict(batch, need_weights=True)
        result = object_differences(mine.detect(seen, batch), theirs.detect(expected, batch))
    pairs = [(seen.logits, expected.logits), (seen.boxes, expected.boxes),
             *zip(seen.encoder_attention, expected.encoder_attention, strict=True),
             *zip(seen.decoder_attention, expected.decoder_attention, strict=True)]
    return {"layers": max(relative_difference(one, two) for one, two in pairs)} | result


def object_differences(found: Sequence[Detections], wanted: Sequence[Detections]) -> Differences:
    """Of boxes, scores, masks and keypoints, object by object, and how many each picture has.

    Raises ValueError where the models find other numbers of objects or other classes.
    """
    result: Differences = {}
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if not torch.equal(a["labels"], b["labels"]):
            raise ValueError(f"picture {i}: the models find {len(a['labels'])} and {len(b['labels'])} objects, "
                             "or in other classes.")
        result[f"found {i}"] = len(a["labels"])
        for key in ("boxes", "scores", "masks", "keypoints"):
            if key in b:
                result[key] = max(result.get(key, 0.0), largest(a[key], b[key]))
    return result


def step_differences(mine: nn.Module, theirs: nn.Module, images: Sequence[Tensor], targets: Sequence[Target]
                     ) -> Differences:
    """Of the losses and gradients of one training step that draws the same samples in both."""
    (losses, gradients), (wanted, expected) = (one_step(model, images, targets) for model in (mine, theirs))
    expected = renamed(expected)
    relative = max(relative_difference(gradients[key], value) for key, value in expected.items())
    return {"losses": max(largest(losses[key], value) for key, value in wanted.items()), "gradients": relative}


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference; 0 of nothing. Raises ValueError where shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ.")
    return float((a - b).detach().abs().max()) if a.numel() else 0.0


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of b's largest number where that is above 1."""
    return largest(a, b) / max(1.0, float(b.detach().abs().max()) if b.numel() else 0.0)


if __name__ == "__main__":
    main()
