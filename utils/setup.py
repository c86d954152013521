"""What every notebook does first: device, seed, profile, and the budget it promises to keep."""

import os
import resource
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Context:
    """Where and how this notebook runs. `budget()` at its end tells time and memory against what was promised."""

    notebook: str
    device: torch.device
    seed: int
    profile: str
    seconds: float
    gigabytes: float
    generator: torch.Generator
    started: float = field(default_factory=time.perf_counter)

    def budget(self) -> None:
        """Prints the time and the peak memory of this notebook, and says so where they are over the budget."""
        seconds, gigabytes = time.perf_counter() - self.started, peak_gigabytes()
        print(f"This notebook took {seconds:.0f} s (budget {self.seconds:.0f} s) and at most {gigabytes:.2f} GB "
              f"(budget {self.gigabytes:g} GB).")
        if self.profile == "short" and (seconds > self.seconds or gigabytes > self.gigabytes):
            print("That is over the budget: the machine is busy, or a cell does more than it should.")


def setup(notebook: str, seed: int = 0, seconds: float = 90, gigabytes: float = 3) -> Context:
    """Prepares a notebook: seeds torch, picks the device, reads LESSONS_PROFILE (short or full) and prints one line.

    seed seeds torch's global generator and `context.generator`, so that a notebook run from top to bottom repeats.
    seconds, gigabytes: its budget in the short profile. Raises ValueError for another profile and ImportError when
    another package named `utils` or `lessons` was imported in place of this collection's.
    """
    check_packages()
    profile = os.environ.get("LESSONS_PROFILE", "short")
    if profile not in ("short", "full"):
        raise ValueError(f"LESSONS_PROFILE is {profile!r}; it must be short or full.")
    device = torch.device("cuda" if torch.cuda.is_available() and profile == "full" else "cpu")
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore", message=".*IProgress not found.*")
    print(f"Lesson {notebook}: profile {profile}, seed {seed}.")
    return Context(notebook, device, seed, profile, seconds, gigabytes, torch.Generator().manual_seed(seed))


def check_packages() -> None:
    """Raises ImportError with one sentence when `lessons` or `utils` is not the one beside this file."""
    import lessons

    for module in (lessons, sys.modules["utils"]):
        found = Path(str(module.__file__)).resolve().parent.parent
        if found != ROOT:
            raise ImportError(f"the package {module.__name__!r} was imported from {found}, not from this collection: "
                              "rename that folder or file, or start JupyterLab with `make lab`.")


def peak_gigabytes() -> float:
    """The most memory that this process has held so far, in gigabytes of 1e9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # macOS counts bytes, Linux kilobytes
