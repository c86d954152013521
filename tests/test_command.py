"""The command `python -m lessons.training`."""

import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from lessons import command
from lessons.checkpoints import CheckpointError
from lessons.interrupt import TrainingInterrupted
from lessons.resume import state_files

TESTS = Path(__file__).parent


@pytest.fixture
def recipe(monkeypatch):
    """A lesson called "toy" whose recipe notes its arguments and does what the test wants."""
    module = types.ModuleType("lessons.recipes.toy")
    module.calls = []
    module.action = lambda: None

    def train(**arguments):
        module.calls.append(arguments)
        module.action()

    module.train = train
    monkeypatch.setitem(sys.modules, "lessons.recipes.toy", module)
    monkeypatch.setattr(command, "known_lessons", lambda: ["rcnn", "toy"])
    monkeypatch.delenv("LESSONS_PROFILE", raising=False)
    previous = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, previous)


def test_command_hands_its_arguments_to_the_recipe(recipe, tmp_path, monkeypatch):
    assert command.main(["toy"]) == 0
    assert recipe.calls[-1] == {"dataset": "scenes", "profile": "short", "resume": False, "device": None, "seed": 0,
                                "folder": Path("runs/toy/scenes-short-0")}
    monkeypatch.setenv("LESSONS_PROFILE", "full")
    command.main(["toy", "--dataset", "bccd", "--resume", "--device", "cpu", "--seed", "3"])
    assert recipe.calls[-1] == {"dataset": "bccd", "profile": "full", "resume": True, "device": "cpu", "seed": 3,
                                "folder": Path("runs/toy/bccd-full-3")}
    command.main(["toy", "--profile", "short", "--folder", str(tmp_path)])
    assert (recipe.calls[-1]["profile"], recipe.calls[-1]["folder"]) == ("short", tmp_path)


@pytest.mark.parametrize(("arguments", "words"), [
    (["nonsense"], "invalid choice: 'nonsense'.*rcnn.*toy"), (["toy", "--profile", "long"], "long"),
    (["toy", "--device", "tpu"], "'tpu'"), ([], "lesson")])
def test_command_refuses_what_it_does_not_know(recipe, arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert recipe.calls == []


def test_command_refuses_a_wrong_profile_in_the_environment(recipe, monkeypatch, capsys):
    monkeypatch.setenv("LESSONS_PROFILE", "quick")
    with pytest.raises(SystemExit):
        command.main(["toy"])
    assert "LESSONS_PROFILE must be short or full, got 'quick'" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [
    (TrainingInterrupted("stopped, resume so"), 130), (KeyboardInterrupt(), 130),
    (FloatingPointError("step 3: box is nan"), 1), (CheckpointError("no file"), 1),
    (ValueError("data set 'x' is none of"), 1), (FileNotFoundError("put it there"), 1)])
def test_command_turns_what_is_expected_into_one_sentence(recipe, error, status, capsys):
    def fail():
        raise error

    recipe.action = fail
    assert command.main(["toy"]) == status
    assert (str(error) or "Interrupted") in capsys.readouterr().err


def test_command_shows_where_an_unexpected_error_came_from(recipe):
    recipe.action = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        command.main(["toy"])


COMMAND = """
import sys, types
sys.path.insert(0, {tests!r})
from toy_training import At, make_trainer
from lessons import command
from lessons.schedules import constant

toy = types.ModuleType("lessons.recipes.toy")
def train(folder, resume, **others):
    make_trainer(folder=folder, steps=10**5, schedule=constant(), save_every=10**4,
                 callbacks=[At(3, lambda: print("running", flush=True))]).run(resume)
toy.train = train
sys.modules["lessons.recipes.toy"] = toy
command.known_lessons = lambda: ["toy"]
sys.exit(command.main(["toy", "--folder", {folder!r}]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_end_the_command_with_a_state_to_resume(tmp_path, number):
    script = COMMAND.format(tests=str(TESTS), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=TESTS.parent, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    steps = int(re.search(r"interrupted after (\d+) of 100000 steps", err)[1])
    assert state_files(tmp_path)[0].name.startswith(f"step-{steps:06d}-")
    assert "Traceback" not in err


def test_known_lessons_are_the_recipes():
    folder = TESTS.parent / "lessons" / "recipes"
    assert command.known_lessons() == sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
