"""Evaluation sees every sample once and leaves the model as it was."""

import pytest
import torch
from torch import nn
from toy_training import Blobs

from lessons.evaluation import evaluate, evaluation_mode, model_device, move


class Echo(nn.Module):
    """Detects what stands in the picture's corner, and remembers in which mode it ran."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, images):
        self.modes.add((self.training, torch.is_grad_enabled()))
        return [{"value": image[0, 0, 0]} for image in images]


class Collected:
    def __init__(self):
        self.rows: list = []

    def update(self, detections, targets):
        self.rows += [(float(d["value"]), t["index"]) for d, t in zip(detections, targets, strict=True)]

    def compute(self):
        return {"rows": self.rows}


class Numbered(Blobs):
    def __getitem__(self, index):
        return torch.full((3, 2, 2), float(index)), {"index": index}


def test_evaluate_sees_each_sample_once_without_gradients_and_puts_modes_back(capsys):
    model = Echo()
    model.norm.eval()  # frozen by its owner
    result = evaluate(model, Numbered(11), metrics=Collected, batch_size=4)
    assert result["rows"] == [(float(i), i) for i in range(11)]
    assert model.modes == {(False, False)}
    assert model.training
    assert not model.norm.training
    assert "3/3" in capsys.readouterr().out


def test_evaluate_refuses_an_empty_set_and_survives_a_failing_model():
    with pytest.raises(ValueError, match="empty"):
        evaluate(Echo(), Numbered(0), metrics=Collected)

    class Failing(Echo):
        def forward(self, images):
            raise RuntimeError("no")

    model = Failing()
    with pytest.raises(RuntimeError, match="no"):
        evaluate(model, Numbered(3), metrics=Collected, progress=False)
    assert model.training


def test_evaluation_mode_of_a_function_does_nothing():
    with evaluation_mode(len):
        pass


def test_move_keeps_the_form():
    batch = ([torch.ones(1)], [{"boxes": torch.ones(2), "image_id": 3, "name": "x", "deep": (torch.ones(1),)}])
    moved = move(batch, "meta")
    assert moved[0][0].is_meta
    assert moved[1][0]["boxes"].is_meta
    assert moved[1][0]["deep"][0].is_meta
    assert (moved[1][0]["image_id"], moved[1][0]["name"]) == (3, "x")
    assert model_device(nn.ReLU()) == torch.device("cpu")
