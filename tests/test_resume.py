"""A training that was interrupted, killed or damaged goes on to the result that it would have had, to the last bit."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_training import At, Blobs, Net, assert_identical, interrupt, make_trainer

from lessons.callbacks import Callback
from lessons.checkpoints import CheckpointError
from lessons.interrupt import StopRequest, TrainingInterrupted
from lessons.resume import load_optimizer, load_state, optimizer_tensors, save_state, state_files
from lessons.schedules import constant, cosine


@pytest.mark.parametrize(("sgd", "ema_decay"), [(True, None), (False, 0.9)])
@pytest.mark.parametrize("step", [0, 10, 13, 18])
def test_interrupted_and_resumed_is_identical_to_uninterrupted(tmp_path, step, sgd, ema_decay):
    whole = make_trainer(sgd=sgd, ema_decay=ema_decay)
    whole.run()
    first = make_trainer(sgd=sgd, ema_decay=ema_decay, folder=tmp_path, callbacks=[At(step, interrupt)])
    with pytest.raises(TrainingInterrupted, match=f"after {step + 1} of 20 steps.*resume=True"):
        first.run()
    second = make_trainer(Net(), sgd=sgd, ema_decay=ema_decay, folder=tmp_path)  # other weights to begin with
    torch.rand(13)
    history = second.run(resume=True)
    assert_identical(whole, second)
    assert history["step"] == list(range(20))
    assert len(second.dataset.read) == (19 - step) * 8, "data was read that was not needed"


def test_the_same_trainer_can_be_resumed(tmp_path):
    whole, trainer = make_trainer(), make_trainer(folder=tmp_path, callbacks=[At(9, interrupt)])
    whole.run()
    with pytest.raises(TrainingInterrupted):
        trainer.run()
    trainer.run(resume=True)
    assert_identical(whole, trainer)


def test_a_break_in_the_middle_of_a_step_leaves_the_last_state(tmp_path):
    """A KeyboardInterrupt from anywhere, here between forward and backward when batch norm has already moved."""
    class Broken(Net):
        calls = 0

        def forward(self, images, targets):
            losses = super().forward(images, targets)
            self.calls += 1
            if self.calls == 12:
                raise KeyboardInterrupt
            return losses

    whole = make_trainer()
    whole.run()
    torch.manual_seed(7)
    with pytest.raises(TrainingInterrupted, match="after 11 of 20 steps. The state after 7 steps"):
        make_trainer(Broken(), folder=tmp_path).run()
    resumed = make_trainer(folder=tmp_path)
    resumed.run(resume=True)
    assert_identical(whole, resumed)


def test_a_second_interrupt_breaks_in_at_once(tmp_path):
    class Stubborn(Blobs):
        def __getitem__(self, index):
            if len(self.read) == 80:
                interrupt()
                assert len(self.read) == 80  # the first only asks to stop
                interrupt()
                time.sleep(60)
            return super().__getitem__(index)

    trainer = make_trainer(dataset=Stubborn(), folder=tmp_path)
    with pytest.raises(TrainingInterrupted, match="after 10 of 20 steps. The state after 7 steps"):
        trainer.run()
    assert len(trainer.dataset.read) == 80


def test_interrupted_before_anything_else_there_is_a_state(tmp_path):
    class Impatient(Callback):
        def on_start(self, history, steps):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(folder=tmp_path, callbacks=[Impatient()]).run()
    whole, resumed = make_trainer(), make_trainer(folder=tmp_path)
    whole.run()
    resumed.run(resume=True)
    assert_identical(whole, resumed)


def test_interrupt_without_a_folder_says_that_nothing_was_saved():
    with pytest.raises(TrainingInterrupted, match="after 3 of 20 steps. Nothing was saved") as caught:
        make_trainer(callbacks=[At(2, interrupt)]).run()
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value._render_traceback_() == [str(caught.value)]  # one sentence in a notebook


def test_interrupt_with_workers_finishes_the_step(tmp_path):
    trainer = make_trainer(workers=2, folder=tmp_path, callbacks=[At(4, interrupt)])
    with pytest.raises(TrainingInterrupted, match="after 5 of 20 steps"):
        trainer.run()


def test_workers_outlive_the_ctrl_c_that_reaches_them_too():
    def interrupt_workers():
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)

    whole, trainer = make_trainer(), make_trainer(workers=2, callbacks=[At(4, interrupt_workers)])
    whole.run()
    trainer.run()
    assert_identical(whole, trainer)


def test_an_interrupt_after_the_last_step_is_not_lost(tmp_path):
    class Late(Callback):
        def on_end(self, history):
            interrupt()

    trainer = make_trainer(folder=tmp_path, callbacks=[Late()])
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.done == trainer.saved == 20


def test_signal_handlers_are_put_back():
    before = [signal.getsignal(number) for number in StopRequest.signals]
    with pytest.raises(TrainingInterrupted):
        make_trainer(callbacks=[At(2, interrupt)]).run()
    assert [signal.getsignal(number) for number in StopRequest.signals] == before


def test_trains_in_a_thread_where_no_signal_arrives():
    whole, trainer = make_trainer(), make_trainer()
    whole.run()
    thread = threading.Thread(target=trainer.run)
    thread.start()
    thread.join()
    assert_identical(whole, trainer)


def test_resume_of_a_finished_training_does_nothing(tmp_path):
    first = make_trainer(folder=tmp_path, ema_decay=0.9)
    first.run()
    second = make_trainer(Net(), folder=tmp_path, ema_decay=0.9)
    second.run(resume=True)
    assert second.dataset.read == []
    assert_identical(first, second)
    assert second.seconds == first.seconds > 0


def test_resume_without_a_state_starts(tmp_path):
    whole, trainer = make_trainer(), make_trainer(folder=tmp_path / "new")
    whole.run()
    trainer.run(resume=True)
    assert_identical(whole, trainer)


def test_resume_without_a_folder_is_refused():
    with pytest.raises(ValueError, match="folder"):
        make_trainer().run(resume=True)


def test_a_fresh_run_replaces_the_folder_s_states_and_nothing_else(tmp_path):
    other = tmp_path / "step-notes.txt"
    other.write_text("mine")
    make_trainer(folder=tmp_path).run()
    trainer = make_trainer(folder=tmp_path, callbacks=[At(1, interrupt)])
    with pytest.raises(TrainingInterrupted):
        trainer.run()
    assert [path.name[:11] for path in state_files(tmp_path)] == ["step-000002", "step-000000"]
    assert other.read_text() == "mine"


@pytest.mark.parametrize(("change", "name"), [
    ({"steps": 30, "schedule": constant()}, "steps"), ({"batch_size": 4}, "batch_size"), ({"seed": 1}, "seed"),
    ({"schedule": cosine(20, warmup=4)}, "schedule"), ({"clip_norm": None}, "clip_norm"),
    ({"ema_decay": 0.9}, "ema_decay"), ({"mixed_precision": "bf16"}, "mixed_precision"), ({"sgd": True}, "optimiser"),
    ({"dataset": Blobs(36)}, "number of samples"), ({"notes": {"class_weights": (1, 5)}}, "class_weights")])
def test_resume_with_other_settings_is_refused_by_name(tmp_path, change, name):
    with pytest.raises(TrainingInterrupted):
        make_trainer(folder=tmp_path, callbacks=[At(2, interrupt)]).run()
    files = state_files(tmp_path)
    with pytest.raises(CheckpointError, match=rf"cannot be resumed with other settings: .*{name} \(saved: "):
        make_trainer(folder=tmp_path, **change).run(resume=True)
    assert state_files(tmp_path) == files, "refusing must leave the state"


def test_what_the_saved_training_noted_must_hold_still(tmp_path):
    with pytest.raises(TrainingInterrupted):
        make_trainer(folder=tmp_path, notes={"weights": (0.1, 1)}, callbacks=[At(2, interrupt)]).run()
    for notes, now in (({}, "None"), ({"weights": (0.4, 1)}, r"\(0.4, 1\)")):
        with pytest.raises(CheckpointError, match=rf"settings: weights \(saved: \(0.1, 1\), now: {now}\)\."):
            make_trainer(folder=tmp_path, notes=notes).run(resume=True)
    assert make_trainer(folder=tmp_path, notes={"weights": (0.1, 1)}).run(resume=True)["step"][-1] == 19


def test_resume_with_another_learning_rate_or_model_is_refused(tmp_path):
    with pytest.raises(TrainingInterrupted):
        make_trainer(folder=tmp_path, callbacks=[At(2, interrupt)]).run()
    trainer = make_trainer(folder=tmp_path)
    trainer.optimizer.param_groups[0]["lr"] = 0.5
    changed = make_trainer(trainer.model, folder=tmp_path)
    changed.settings["learning rate"] = "[0.5]"
    with pytest.raises(CheckpointError, match="learning rate"):
        changed.run(resume=True)
    with pytest.raises(CheckpointError, match="missing|unexpected"):
        make_trainer(Net(norm=False), folder=tmp_path).run(resume=True)


# --- states on disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty"])
def test_a_damaged_state_is_set_aside_and_the_one_before_taken(tmp_path, harm):
    with pytest.raises(TrainingInterrupted):
        make_trainer(folder=tmp_path, callbacks=[At(10, interrupt)]).run()
    newest, previous = state_files(tmp_path)
    damage(newest, harm)
    whole, resumed = make_trainer(), make_trainer(folder=tmp_path)
    whole.run()
    with pytest.warns(UserWarning, match="damaged"):
        resumed.run(resume=True)
    assert len(resumed.dataset.read) == (20 - 7) * 8
    assert_identical(whole, resumed)
    assert newest.with_name(newest.name + ".damaged").exists()


def damage(path: Path, harm: str) -> None:
    content = bytearray(path.read_bytes())
    if harm == "truncate":
        content = content[:len(content) // 2]
    elif harm == "flip":
        content[-5] ^= 1
    else:
        content = bytearray()
    path.write_bytes(content)


def test_when_every_state_is_damaged_one_sentence_says_so(tmp_path):
    make_trainer(folder=tmp_path).run()
    for path in state_files(tmp_path):
        damage(path, "truncate")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match="Every saved state"):
        make_trainer(folder=tmp_path).run(resume=True)


def test_a_power_cut_while_writing_leaves_the_previous_state(tmp_path, monkeypatch):
    """The write breaks off (a full disk, say) at the second saved state; nothing half-written is left behind."""
    trainer = make_trainer(folder=tmp_path)
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.run()
    monkeypatch.undo()
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["step-000000"]
    whole, resumed = make_trainer(), make_trainer(folder=tmp_path)
    (tmp_path / "step-000014-0123456789abcdef.safetensors.part").write_bytes(b"half")  # as a real power cut leaves it
    whole.run()
    resumed.run(resume=True)
    assert_identical(whole, resumed)


def test_two_states_are_kept_and_they_are_plain_safetensors(tmp_path):
    from safetensors import safe_open

    trainer = make_trainer(folder=tmp_path)
    trainer.run()
    assert [path.name[:11] for path in state_files(tmp_path)] == ["step-000020", "step-000014"]
    with safe_open(state_files(tmp_path)[0], "pt") as file:
        assert torch.equal(file.get_tensor("model.conv.weight"), trainer.model.conv.weight)


def test_states_sort_by_number_not_by_name(tmp_path):
    for step in (999_999, 1_000_000, 5):
        save_state(tmp_path, step, {"a": torch.tensor(step)}, {"step": step})
    tensors, notes = load_state(tmp_path)
    assert int(tensors["a"]) == notes["step"] == 1_000_000


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True), lambda p: torch.optim.RMSprop(p, lr=0.1),
    lambda p: torch.optim.Adagrad(p, lr=0.1)])
def test_every_common_optimiser_survives_saving(make):
    def steps(layer, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            layer(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    a = nn.Linear(3, 2)
    first = make(a.parameters())
    steps(a, first, 3)
    b = nn.Linear(3, 2)
    b.load_state_dict(a.state_dict())
    second = make(b.parameters())
    load_optimizer(second, *optimizer_tensors(first))
    steps(a, first, 3)
    steps(b, second, 3)
    assert torch.equal(a.weight, b.weight)


def test_an_optimiser_whose_state_is_no_tensor_is_refused():
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(ValueError, match="LBFGS keeps a list"):
        optimizer_tensors(optimizer)
