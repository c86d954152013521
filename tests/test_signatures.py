"""Every op that torchvision has, too, takes the same arguments under the same names, in the same order."""

import importlib
import inspect

import pytest
import torchvision.ops as reference
from test_independence import OPS

MODULES = [importlib.import_module(f"lessons.{name}") for name in OPS]
OURS = {name: value for module in MODULES for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")}
SHARED = sorted(set(OURS) & set(reference.__all__))


def arguments(function):
    """Names and defaults, in order."""
    return [(name, one.default) for name, one in inspect.signature(function).parameters.items()]


@pytest.mark.parametrize("name", SHARED)
def test_arguments_are_torchvisions(name):
    mine, theirs = arguments(OURS[name]), arguments(getattr(reference, name))
    older = name in ("box_area", "box_iou") and ("fmt", "xyxy") not in theirs  # these know xyxy only
    assert (mine[:-1] if older else mine) == theirs


def test_there_are_many():
    assert len(SHARED) >= 20
