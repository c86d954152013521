"""Finished models by name: `load("rcnn", "lesson")` detects at once."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessons.checkpoints import CheckpointError, Tensors, load_checkpoint, load_strictly

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"


def build_lesson(name: str) -> nn.Module:
    """A lesson's model, untrained, by its recipe."""
    return importlib.import_module(f"lessons.recipes.{name}").build()


BODY = "small_resnet"  # a backbone that detects nothing by itself
DETECTORS = ("rcnn", "sppnet", "fast_rcnn", "faster_rcnn", "fpn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos",
             "centernet", "detr")  # in the order of their papers
LESSONS = (BODY, *DETECTORS)

# every model that can be loaded, and the function that builds it with untrained weights
MODELS: dict[str, Callable[[], nn.Module]] = {name: partial(build_lesson, name) for name in LESSONS}

# the reference-size models, built in lessons.published out of this collection's parts
REFERENCES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn",
              "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "detr_resnet50")

# where another model has weights that others published: the function that returns them, renamed to ours
PUBLISHED: dict[str, Callable[[], Tensors]] = {}


def load(name: str, weights: str | Path | Mapping[str, Any] | None = None) -> nn.Module:
    """A model in evaluation mode, on the CPU.

    weights: None for untrained ones; "lesson" for those that this collection trained (data/checkpoints); "published"
    for those of the paper or of its reference implementation; the path of a .safetensors file with its card, or of a
    .pth file; or a state dict, which may stand under "model" in a dict, as the authors' trainings save it. They must
    fit exactly; the reference-size models take torchvision's state dicts, DETR that of its authors or of transformers.
    Raises ValueError (CheckpointError) in one sentence for an unknown name, weights that are not there or do not fit.
    """
    if name not in (*MODELS, *REFERENCES):
        raise ValueError(f"There is no model {name!r}; there are {', '.join(sorted((*MODELS, *REFERENCES)))}.")
    tensors, source = (None, "") if weights is None else _find(name, weights)
    if name in MODELS:
        model = MODELS[name]()
    else:
        from lessons import published  # loads every part of every reference-size model

        tensors = None if tensors is None else published.renamed(tensors)
        model = published.build_for(name, tensors)
    if tensors is not None:
        load_strictly(model, tensors, source)
    return model.eval()


def shipped_detectors() -> list[str]:
    """The lessons' detectors whose trained weights are here, in the order of their papers."""
    return [name for name in DETECTORS if (CHECKPOINTS / f"{name}.safetensors").is_file()]


def _find(name: str, weights: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Tensor], str]:
    """The tensors that `weights` stands for, and what to call them in a message."""
    if isinstance(weights, Mapping):
        return unnested(weights), "the state dict"
    if weights == "lesson":
        return load_checkpoint(CHECKPOINTS / f"{name}.safetensors")[0], f"the lesson's checkpoint of {name}"
    if weights == "published":
        if name in REFERENCES:
            from lessons import published

            return unnested(published.download(name)), f"the published checkpoint of {name}"
        if name not in PUBLISHED:
            raise CheckpointError(f"Nobody published weights for {name} that this collection can load; "
                                  "\"lesson\" gives those trained here.")
        return PUBLISHED[name](), f"the published checkpoint of {name}"
    path = Path(weights)
    tensors = load_checkpoint(path)[0] if path.suffix == ".safetensors" else load_pth(path)
    return tensors, str(path)


def load_pth(path: Path) -> Tensors:
    """The state dict in a file that torch.save wrote, as published weights come; nothing but tensors is unpickled.

    Raises CheckpointError, one sentence, where there is no such file or it holds anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no {path}; weights are \"lesson\", \"published\", a path or a state dict.")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for damaged files
        raise CheckpointError(f"{path} is no file of weights ({type(error).__name__}).") from None
    tensors = unnested(tensors)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} holds no state dict, a dict of names and tensors.")
    return tensors


def unnested(weights: Any) -> Any:
    """What stands under "model", if there is such a dict, else `weights`."""
    nested = weights.get("model") if isinstance(weights, Mapping) else None
    return nested if isinstance(nested, Mapping) else weights
