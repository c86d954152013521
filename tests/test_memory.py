"""Keeping freed memory: how often the system must bring a page, counted in processes of their own."""

import platform
import subprocess
import sys

import pytest

from lessons import memory

STEPS = """
import resource
import torch
from lessons.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def step():  # 60 MB: more than what glibc learns to keep by itself, 32 MiB
    return float(torch.ones(15_000_000).sum())
for _ in range(20):  # until small things have found their places
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep freed memory")
def test_pages_are_brought_once_and_not_in_every_step():
    def faults(keep: bool) -> int:
        run = subprocess.run([sys.executable, "-c", STEPS.format(keep=keep)], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert faults(keep=True) < faults(keep=False) / 2


@pytest.mark.parametrize("answer", [OSError("not there"), AttributeError("mallopt")])
def test_other_c_libraries_are_left_alone(monkeypatch, answer):
    def load(name):
        raise answer

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    assert memory.keep_freed_memory() is False


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("asked a library that is not there"))
    assert memory.keep_freed_memory() is False


def test_old_versions_take_the_smaller_threshold(monkeypatch):
    asked = []

    class Old:
        def mallopt(self, option, value):
            asked.append((option, value))
            return int(option != memory.M_MMAP_THRESHOLD or value <= 2**25)

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Old())
    assert memory.keep_freed_memory() is True
    assert asked == [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]
