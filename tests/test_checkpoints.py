"""Checkpoints: what was saved comes back, and whatever is not exactly that is refused in one sentence."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lessons.checkpoints import (
    CheckpointError,
    command_line,
    data_hash,
    deserialise,
    load_checkpoint,
    load_strictly,
    save_checkpoint,
    serialise,
    write_atomically,
)

SHIPPED = Path(__file__).parents[1] / "data" / "checkpoints"
CARD = {"seed": 0, "steps": 800, "metrics": {"AP": 0.5}}


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(3, 4, generator=generator), "empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5),
            "count": torch.tensor(7), "mask": torch.tensor([True, False]),
            "wide": torch.randn(2, generator=generator).double()}


def test_saved_and_loaded_is_the_same(tmp_path):
    tensors = some_tensors()
    path = save_checkpoint(tmp_path / "deep" / "model.safetensors", tensors, CARD)
    loaded, card = load_checkpoint(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.float() if tensor.is_floating_point() else tensor
        assert loaded[name].dtype == expected.dtype
        assert torch.equal(loaded[name], expected)
    assert {key: card[key] for key in CARD} == CARD
    assert card["bytes"] == path.stat().st_size
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["torch"] == torch.__version__
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_half_precision_halves_the_file_and_returns_as_float32(tmp_path):
    tensors = {"weight": torch.randn(100, 100, generator=torch.Generator().manual_seed(0)), "count": torch.tensor(7)}
    whole = save_checkpoint(tmp_path / "whole.safetensors", tensors, CARD)
    half = save_checkpoint(tmp_path / "half.safetensors", tensors, CARD, dtype=torch.float16)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded, _ = load_checkpoint(half)
    assert loaded["weight"].dtype == torch.float32
    assert torch.equal(loaded["weight"], tensors["weight"].half().float())
    assert torch.equal(loaded["count"], tensors["count"])
    assert tensors["weight"].dtype == torch.float32, "the caller's tensors were changed"


def test_saving_twice_gives_the_same_bytes_and_a_true_card(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, some_tensors(), {**CARD, "sha256": "made up", "bytes": -1})
    first = path.read_bytes()
    save_checkpoint(path, some_tensors(), CARD)
    assert path.read_bytes() == first
    load_checkpoint(path)  # the card's sha256 is the file's, not the caller's


def test_tied_weights_and_strange_layouts(tmp_path):
    weight = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": weight, "b": weight, "turned": weight.T, "part": weight[1:, ::2], "grown": weight[:1].expand(5, 4)}
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path / "tied.safetensors", tensors, CARD))
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


def test_parameters_lose_their_gradient(tmp_path):
    parameters = dict(nn.Linear(2, 2).named_parameters())
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path / "m.safetensors", parameters, CARD))
    assert not any(tensor.requires_grad for tensor in loaded.values())


@pytest.mark.parametrize(("tensor", "dtype", "words"), [
    (torch.tensor([1.0, float("nan")]), None, "weight holds NaN"),
    (torch.tensor([1.0, -70000.0]), torch.float16, "weight holds 70000, too large for torch.float16"),
    (torch.tensor([float("inf"), 1e5]), torch.float16, "too large")])
def test_values_that_would_be_spoilt_are_refused(tmp_path, tensor, dtype, words):
    with pytest.raises(ValueError, match=words):
        save_checkpoint(tmp_path / "m.safetensors", {"weight": tensor}, CARD, dtype)
    assert list(tmp_path.iterdir()) == []


def test_infinite_values_may_be_meant(tmp_path):
    tensors = {"mask": torch.tensor([0.0, float("-inf")])}
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path / "m.safetensors", tensors, CARD, torch.float16))
    assert torch.equal(loaded["mask"], tensors["mask"])


@pytest.mark.parametrize("name", ["model.pth", "model", "model.safetensors.bak"])
def test_other_endings_are_refused(tmp_path, name):
    for act in (lambda p: save_checkpoint(p, {}, {}), load_checkpoint):
        with pytest.raises(ValueError, match="ends in .safetensors"):
            act(tmp_path / name)


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_damage_is_noticed(tmp_path_factory, position, bit, cut):
    path = save_checkpoint(tmp_path_factory.mktemp("harm") / "model.safetensors", some_tensors(), CARD)
    content = bytearray(path.read_bytes())
    place = int(position * len(content))
    if cut:
        content = content[:place]
    else:
        content[place] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or belongs to another card") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_card_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no .*lost\.safetensors"):
        load_checkpoint(tmp_path / "lost.safetensors")
    path = save_checkpoint(tmp_path / "model.safetensors", some_tensors(), CARD)
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"There is no .*model\.json"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"sha256": null}', "\x00\xff"])
def test_a_broken_card_is_named(tmp_path, text):
    path = save_checkpoint(tmp_path / "model.safetensors", some_tensors(), CARD)
    path.with_suffix(".json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_checkpoint(path)


def test_a_pickle_in_disguise_is_not_run(tmp_path):
    """A file that torch.save wrote, with a true card: its checksum is right, but it is no safetensors file."""
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "model.safetensors"
    torch.save(Bomb(), path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(blob):
    with pytest.raises(CheckpointError, match="somewhere"):
        deserialise(blob, "somewhere")


def test_notes_travel_in_the_header():
    tensors, notes = deserialise(serialise({"a": torch.ones(1)}, 'ü "quoted"\n'), "here")
    assert notes == 'ü "quoted"\n'
    assert deserialise(serialise(tensors), "here")[1] == ""


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync" if moment == "write" else "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_load_strictly_lists_everything_that_does_not_fit():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = model.state_dict()
    del state["0.bias"], state["1.running_mean"]
    state["0.weight"] = torch.zeros(3, 5)
    state["extra"] = torch.zeros(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(model, state, "my file")
    assert str(caught.value) == ("my file does not fit Sequential: missing: 0.bias, 1.running_mean; unexpected: extra; "
                                 "wrong shape: 0.weight (3, 5) instead of (3, 2).")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_load_strictly_copies():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2).double()
    load_strictly(model, other.state_dict(), "it")
    assert torch.equal(model.weight, other.weight.float())
    with torch.no_grad():
        other.weight.zero_()
    assert model.weight.abs().sum() > 0


def test_command_line_says_what_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/deep/train.py", "--seed", "3"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command_line() == "python train.py --seed 3"
    spec = type(sys)("spec")
    spec.name = "lessons.training"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    assert command_line() == "python -m lessons.training --seed 3"


class Pictures(list):
    """Samples made of plain numbers."""

    def __init__(self, *values: float, label: int = 1):
        target = {"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": torch.tensor([label])}
        super().__init__((torch.full((3, 2, 2), value), target) for value in values)


def test_data_hash_tells_sets_apart():
    same = data_hash(Pictures(0.1, 0.2))
    assert same == data_hash(Pictures(0.1, 0.2))
    assert len(same) == 16
    others = [Pictures(), Pictures(0.1), Pictures(0.2, 0.1), Pictures(0.1, 0.3), Pictures(0.1, 0.2, 0.3),
              Pictures(0.1, 0.2, label=2)]
    assert len({same, *(data_hash(other) for other in others)}) == 7
    assert data_hash(Pictures(0.1, 0.2 + 1e-6)) == same, "rounding to bytes should forgive another machine's arithmetic"


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.glob("*.safetensors")))
def test_shipped_checkpoints_are_small_and_whole(name):
    path = SHIPPED / name
    tensors, card = load_checkpoint(path)
    assert tensors
    assert path.stat().st_size <= 6_000_000
    assert {"command", "seed", "steps", "torch"} <= set(card)
