"""The zoo: models by name, with weights that fit exactly or a sentence that says why not."""

import importlib.util

import pytest
import torch
from torch import nn

from lessons import zoo
from lessons.checkpoints import CheckpointError, load_checkpoint, save_checkpoint


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A model called "tiny" in a zoo whose checkpoints are in a folder of the test; returns the folder."""
    monkeypatch.setitem(zoo.MODELS, "tiny", lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout()))
    monkeypatch.setattr(zoo, "CHECKPOINTS", tmp_path)
    return tmp_path


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()


def assert_has(model: nn.Module, state: dict[str, torch.Tensor]):
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_untrained_is_in_evaluation_mode(tiny):
    model = zoo.load("tiny")
    assert not any(module.training for module in model.modules())


def test_every_kind_of_weights(tiny, monkeypatch):
    assert_has(zoo.load("tiny", weights(1)), weights(1))
    path = save_checkpoint(tiny / "mine.safetensors", weights(2), {})
    assert_has(zoo.load("tiny", path), weights(2))
    assert_has(zoo.load("tiny", str(path)), weights(2))
    save_checkpoint(tiny / "tiny.safetensors", weights(3), {})
    assert_has(zoo.load("tiny", "lesson"), weights(3))
    torch.save(weights(4), tiny / "theirs.pth")
    assert_has(zoo.load("tiny", tiny / "theirs.pth"), weights(4))
    monkeypatch.setitem(zoo.PUBLISHED, "tiny", lambda: weights(5))
    assert_has(zoo.load("tiny", "published"), weights(5))


def test_the_given_state_dict_is_copied(tiny):
    state = weights(1)
    model = zoo.load("tiny", state)
    state["0.weight"].zero_()
    assert_has(model, weights(1))


@pytest.mark.parametrize(("given", "words"), [
    ("lesson", r"There is no .*tiny\.safetensors"),
    ("published", "Nobody published weights for tiny .*\"lesson\""),
    ("lessons", "There is no lessons; weights are"),
    ("nowhere/model.pth", r"There is no nowhere.model\.pth"),
    ({}, "the state dict does not fit Sequential: missing: 0.weight, 0.bias, 1.weight"),
    ({**weights(), "more": torch.zeros(1)}, "the state dict does not fit Sequential: unexpected: more")])
def test_what_is_not_there_or_does_not_fit_is_said_in_one_sentence(tiny, given, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        zoo.load("tiny", given)
    assert "\n" not in str(caught.value)


def test_unknown_name_lists_the_known(tiny):
    with pytest.raises(ValueError, match="no model 'yolo'; there are .*maskrcnn_resnet50_fpn, rcnn, .*tiny"):
        zoo.load("yolo")


@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"PK\x03\x04 broken"])
def test_damaged_pth_files_are_named(tiny, content):
    path = tiny / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.pth is no file of weights"):
        zoo.load("tiny", path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {"other": {"a": torch.ones(1)}}, torch.ones(2)])
def test_pth_files_of_something_else_are_refused(tiny, content):
    torch.save(content, tiny / "other.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        zoo.load("tiny", tiny / "other.pth")


def test_a_state_dict_may_stand_under_model(tiny):
    torch.save({"model": weights(), "epoch": 3}, tiny / "nested.pth")
    for given in (tiny / "nested.pth", {"model": weights()}):
        assert_has(zoo.load("tiny", given), weights())


def test_code_in_a_pth_file_is_not_run(tiny):
    import os

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tiny / "exploded"),)

    torch.save({"weight": Bomb()}, tiny / "bomb.pth")
    with pytest.raises(CheckpointError, match="no file of weights"):
        zoo.load("tiny", tiny / "bomb.pth")
    assert not (tiny / "exploded").exists()


@pytest.mark.parametrize("name", sorted(zoo.MODELS))
def test_every_model_can_be_built_and_takes_its_own_weights(name):
    if importlib.util.find_spec(f"lessons.recipes.{name}") is None:
        pytest.skip(f"the recipe of {name} is not written yet")
    model = zoo.load(name)
    assert_has(zoo.load(name, model.state_dict()), model.state_dict())
    assert not model.training


@pytest.mark.parametrize("name", sorted(zoo.MODELS))
def test_every_lesson_checkpoint_fits_its_model_and_says_how_it_was_made(name):
    if not (zoo.CHECKPOINTS / f"{name}.safetensors").exists():
        pytest.skip(f"no checkpoint of {name} is shipped")
    zoo.load(name, "lesson")
    _, card = load_checkpoint(zoo.CHECKPOINTS / f"{name}.safetensors")
    wanted = {"command", "seed", "data", "steps", "seconds", "device", "metrics", "torch", "sha256", "bytes"}
    assert wanted - set(card) == set()
