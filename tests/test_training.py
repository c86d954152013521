"""The training loop: right (against a loop written by hand), repeatable, and quick to refuse what makes no sense."""

import math
import re

import pytest
import torch
from torch import nn
from torch.utils.data import Subset
from toy_training import Blobs, Net, assert_identical, make_trainer

from lessons.averaging import MovingAverage
from lessons.callbacks import Callback
from lessons.data.sample import collate
from lessons.order import BatchPositions, epoch_order
from lessons.resume import state_files
from lessons.schedules import constant, cosine


def test_equals_a_loop_written_by_hand():
    """Same parameters as the plainest possible loop over the same batches, to the last bit."""
    torch.manual_seed(0)
    model = Net(dropout=0.0)
    twin = Net(dropout=0.0)
    twin.load_state_dict(model.state_dict())
    data = Blobs(noise=0.0)
    trainer = make_trainer(model, dataset=data, steps=12, schedule=cosine(12, warmup=2), clip_norm=0.5, sgd=True)
    history = trainer.run()

    by_hand = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    order = [int(i) for epoch in range(3) for i in epoch_order(0, epoch, len(data))]
    factors = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    for step in range(12):
        images, targets = collate([data[i] for i in order[step * 8:step * 8 + 8]])
        losses = twin(images, targets)
        total = losses["classifier"] + losses["size"]
        for group in by_hand.param_groups:
            group["lr"] = 0.1 * factors[step]
        by_hand.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        by_hand.step()
        assert history["loss"][step] == pytest.approx(total.item(), abs=1e-6)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert history["lr"] == pytest.approx([0.1 * f for f in factors])
    assert history["step"] == list(range(12))


def test_learns():
    history = make_trainer(steps=150, schedule=constant()).run()
    assert sum(history["loss"][-10:]) < 0.5 * sum(history["loss"][:10])


def test_history_has_the_sum_and_each_loss():
    history = make_trainer().run()
    assert list(history) == ["step", "lr", "loss", "classifier", "size"]
    for total, a, b in zip(history["loss"], history["classifier"], history["size"], strict=True):
        assert total == pytest.approx(a + b)


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_clipping_shortens_the_gradient_and_keeps_its_direction(limit):
    model = Net(dropout=0.0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    steps = {}
    for clip_norm in (None, limit):
        twin = Net(dropout=0.0)
        twin.load_state_dict(model.state_dict())
        trainer = make_trainer(twin, steps=1, schedule=constant(), clip_norm=clip_norm)
        trainer.optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
        trainer.rates = [1.0]
        trainer.run()
        steps[clip_norm] = torch.cat([p.detach().flatten() for p in twin.parameters()]) - before
    whole = steps[None].norm()
    assert whole > 0.02
    expected = steps[None] * min(1.0, limit / float(whole))
    torch.testing.assert_close(steps[limit], expected, rtol=1e-3, atol=1e-7)


def test_learning_rate_and_random_numbers_are_left_as_they_were():
    trainer = make_trainer()
    state = torch.get_rng_state()
    trainer.run()
    assert torch.equal(state, torch.get_rng_state())
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.01]


def test_two_runs_are_identical_and_another_seed_is_not():
    a, b, c = make_trainer(), make_trainer(), make_trainer(seed=1)
    a.run()
    torch.rand(100)  # what was drawn before must not matter
    b.run()
    c.run()
    assert_identical(a, b)
    assert a.history["loss"] != c.history["loss"]


def test_workers_change_nothing():
    a, b = make_trainer(steps=6, schedule=constant()), make_trainer(steps=6, schedule=constant(), workers=2)
    a.run()
    b.run()
    assert_identical(a, b)


def test_bf16_on_the_cpu():
    plain, mixed = make_trainer(), make_trainer(mixed_precision="bf16")
    plain.run()
    mixed.run()
    assert plain.history["loss"] != mixed.history["loss"], "bf16 was not used"
    assert mixed.history["loss"] == pytest.approx(plain.history["loss"], abs=0.05)
    assert {value.dtype for value in mixed.model.parameters()} == {torch.float32}
    assert "forward" not in vars(mixed.model), "the reader's model was changed"
    again = make_trainer()  # the next training is free to choose
    again.run()
    assert_identical(plain, again)


def test_ema_is_the_average_by_its_formula():
    class Snapshots(Callback):
        def __init__(self):
            self.weights = []

        def on_step(self, step, losses, lr):
            self.weights.append(trainer.model.linear.weight.detach().clone())

    snapshots = Snapshots()
    trainer = make_trainer(ema_decay=0.8, callbacks=[snapshots])
    expected = trainer.model.linear.weight.detach().clone()
    trainer.run()
    for step, weight in enumerate(snapshots.weights):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    averaged = trainer.trained_model()
    torch.testing.assert_close(averaged.linear.weight, expected)
    assert averaged is not trainer.model
    assert not torch.equal(averaged.linear.weight, trainer.model.linear.weight)
    assert averaged.norm.num_batches_tracked == trainer.model.norm.num_batches_tracked == 20
    assert make_trainer().trained_model().training  # without an average it is the model itself


def test_callbacks_hear_everything_in_order():
    heard = []

    class Listener(Callback):
        def on_start(self, history, steps):
            heard.append(("start", len(history), steps))

        def on_step(self, step, losses, lr):
            heard.append((step, sorted(losses), round(lr, 6)))

        def on_end(self, history):
            heard.append(("end", len(history["step"])))

    make_trainer(steps=2, schedule=constant(), callbacks=[Listener()]).run()
    names = ["classifier", "loss", "size"]
    assert heard == [("start", 0, 2), (0, names, 0.01), (1, names, 0.01), ("end", 2)]


def test_before_step_is_told_of_each_step_before_it_is_taken(tmp_path):
    told, taken = [], []

    class Listener(Callback):
        def on_step(self, step, losses, lr):
            taken.append(step)
            assert told == taken, "each step is announced, then taken"

    def trainer(steps):
        return make_trainer(steps=steps, schedule=constant(), folder=tmp_path, before_step=told.append,
                            callbacks=[Listener()])

    def stopping(step):
        if step == 2:
            raise KeyboardInterrupt
        told.append(step)

    interrupted = trainer(4)
    interrupted.before_step, interrupted.save_every = stopping, 1
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    trainer(4).run(resume=True)
    assert told == taken == [0, 1, 2, 3], "a resumed training goes on announcing where it stopped"


def test_progress_bar_shows_loss_and_time_left(capsys):
    make_trainer(progress=True).run()
    out, err = capsys.readouterr()
    last = out.split("\r")[-1]
    assert "20/20" in last
    assert re.search(r"loss \d\.\d+", last)
    assert re.search(r"\d\d:\d\d<\d\d:\d\d", last), "no time left"
    assert err == ""
    assert out.isascii()


# --- what must stop it -------------------------------------------------------------------------------------------


class Sick(Net):
    """Returns a bad loss at its 10th call."""

    def __init__(self, bad: dict[str, float]):
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, images, targets):
        losses = super().forward(images, targets)
        self.calls += 1
        return {k: v * self.bad.get(k, 1.0) if self.calls == 10 else v for k, v in losses.items()}


@pytest.mark.parametrize(("bad", "words", "innocent"), [
    ({"size": math.nan}, "size is nan", "classifier"), ({"classifier": math.inf}, "classifier is inf", "size"),
    ({"classifier": -math.inf, "size": math.inf}, "classifier is -inf, size is inf", "nobody")])
def test_a_bad_loss_stops_with_step_and_name(tmp_path, bad, words, innocent):
    trainer = make_trainer(Sick(bad), folder=tmp_path)
    with pytest.raises(FloatingPointError, match=f"at step 9: {words}. The state after 7 steps") as caught:
        trainer.run()
    assert innocent not in str(caught.value)
    assert [path.name[:11] for path in state_files(tmp_path)] == ["step-000007", "step-000000"]
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    resumed = make_trainer(Sick({}), folder=tmp_path)
    resumed.run(resume=True)
    assert resumed.done == 20


def test_a_bad_gradient_of_a_finite_loss_stops_before_it_does_harm():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, images, targets):
            return {"root": self.weight.square().sum().sqrt()}  # 0, with a slope of 0 / 0

    trainer = make_trainer(Root())
    with pytest.raises(FloatingPointError, match="at step 0: the losses are finite but the gradient's norm is nan"):
        trainer.run()
    assert torch.equal(trainer.model.weight, torch.zeros(3))


@pytest.mark.parametrize(("change", "words"), [
    ({"steps": 0}, "steps .* 0"), ({"steps": -3}, "steps .* -3"), ({"steps": 2.5}, "steps .* 2.5"),
    ({"steps": True}, "steps .* True"), ({"batch_size": 0}, "batch_size .* 0"), ({"save_every": 0}, "save_every"),
    ({"dataset": Blobs(0)}, "empty"), ({"dataset": Subset(Blobs(), [])}, "empty"),
    ({"schedule": "cosine"}, "schedule .* 'cosine'"), ({"schedule": lambda step: -1.0}, "-1.0 at step 0"),
    ({"schedule": lambda step: math.nan if step == 3 else 1.0}, "nan at step 3"),
    ({"schedule": constant}, "gives <function .* at step 0"), ({"schedule": lambda step: None}, "gives None at step 0"),
    ({"clip_norm": 0.0}, "clip_norm .* 0.0"), ({"clip_norm": math.nan}, "clip_norm .* nan"),
    ({"ema_decay": 1.0}, "ema_decay .* 1.0"), ({"ema_decay": 0.0}, "ema_decay"), ({"seed": "x"}, "seed .* 'x'"),
    ({"mixed_precision": "fp32"}, "mixed_precision .* 'fp32'"), ({"mixed_precision": "fp16"}, "fp16.* needs a GPU"),
    ({"device": "tpu"}, "device 'tpu'"), ({"device": "cuda:7"}, "device 'cuda:7'"), ({"workers": -1}, "workers .* -1")])
def test_settings_without_sense_are_refused(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_trainer(**change)
    assert "\n" not in str(caught.value)


def test_an_optimiser_of_another_model_is_refused():
    trainer = make_trainer()
    with pytest.raises(ValueError, match="another model"):
        type(trainer)(Net(), trainer.optimizer, Blobs())


@pytest.mark.parametrize(("result", "words"), [
    (torch.tensor(1.0), "dict of losses, got Tensor"), ([], "got list"), ({}, "dict of losses"),
    ({"a": torch.ones(2)}, "a must be a scalar"), ({"a": 1.0}, "a must be a scalar"),
    ({"lr": torch.tensor(1.0)}, "'lr'"), ({"loss": torch.tensor(1.0), "b": torch.tensor(1.0)}, "'loss'")])
def test_a_model_that_returns_no_losses_is_refused(result, words):
    class Odd(nn.Linear):
        def forward(self, images, targets):
            return result

    with pytest.raises(ValueError, match=words):
        make_trainer(Odd(1, 1)).run()


def test_losses_that_change_their_names_are_refused():
    class Moody(Net):
        calls = 0

        def forward(self, images, targets):
            self.calls += 1
            losses = super().forward(images, targets)
            return losses if self.calls < 3 else {"classifier": losses["classifier"]}

    with pytest.raises(ValueError, match="losses changed"):
        make_trainer(Moody()).run()


def test_batch_must_divide_among_processes():
    with pytest.raises(ValueError, match="batch_size=7 .* 2 processes"):
        BatchPositions(0, 1, 7, 0, 2)


def test_average_can_be_saved_and_loaded():
    a, b = MovingAverage(Net(), 0.9), MovingAverage(Net(), 0.9)
    b.load({name: value.clone() for name, value in a.tensors.items()})
    for name, value in a.tensors.items():
        assert torch.equal(b.tensors[name], value)
