"""Two processes train as one would, and stop together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_training

from lessons.resume import state_files

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The folder in which two processes, as torchrun starts them, trained in each of the modes of toy_training.py."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1",
                "--master_port", str(port)]
    command_line = [*launcher, str(TESTS / "toy_training.py"), str(folder), "whole", "twice", "interrupted",
                    "nan"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command_line, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def written(folder: Path, processes: int) -> list[dict]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["whole", "twice"])
def test_two_processes_do_what_one_does(two_processes, tmp_path, mode):
    toy_training.main(tmp_path, mode)
    (one,), two = written(tmp_path / mode, 1), written(two_processes / mode, 2)
    for step in range(6):  # the samples: first half of each batch to one, second half to the other
        together = two[0]["read"][step * 4:step * 4 + 4] + two[1]["read"][step * 4:step * 4 + 4]
        assert together == one["read"][step * 8:step * 8 + 8]
    for process in two:
        for part in ("model", "average", "gradient"):
            torch.testing.assert_close(process[part], one[part], rtol=0, atol=1e-5)
        for name in one["history"]:
            assert process["history"][name] == pytest.approx(one["history"][name], abs=1e-5)


@pytest.mark.slow
def test_only_the_main_process_writes_and_is_followed(two_processes):
    folder = two_processes / "whole"
    assert [path.name for path in folder.glob("called-*")] == ["called-0"]
    assert [path.name[:11] for path in state_files(folder / "state")] == ["step-000006", "step-000000"]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "outcome", "done"), [
    ("interrupted", "TrainingInterrupted: Training was interrupted after 3 of 6 steps", 3),
    ("nan", "FloatingPointError: Training stopped at step 2: classifier is nan", 2)])
def test_what_happens_to_one_process_stops_both_at_the_same_step(two_processes, mode, outcome, done):
    for process in written(two_processes / mode, 2):
        assert process["outcome"].startswith(outcome)
        assert process["done"] == done
