"""The command `python -m lessons.training LESSON`: trains the model of a lesson by its recipe in lessons/recipes."""

import argparse
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lessons.settings import check_device


def known_lessons() -> list[str]:
    """The lessons that have a recipe."""
    package = importlib.import_module("lessons.recipes")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments; an unknown lesson or profile ends the program with the list of the known ones."""
    parser = argparse.ArgumentParser(prog="python -m lessons.training", description="Train the model of a lesson.")
    parser.add_argument("lesson", choices=known_lessons())
    parser.add_argument("--dataset", default="scenes", help="as lessons.data.catalogue names it (default: scenes)")
    parser.add_argument("--profile", choices=("short", "full"), default=os.environ.get("LESSONS_PROFILE", "short"),
                        help="short: minutes on a CPU; full: for real (default: LESSONS_PROFILE, else short)")
    parser.add_argument("--resume", action="store_true", help="continue a training that was interrupted")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the fastest there is)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of the saved state (default: runs/LESSON/DATASET-PROFILE-SEED)")
    arguments = parser.parse_args(argv)
    if arguments.profile not in ("short", "full"):  # argparse does not check a default
        parser.error(f"LESSONS_PROFILE must be short or full, got {arguments.profile!r}")
    try:
        check_device(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a lesson's recipe; returns the exit status: 0, 1 where it could not be done, 130 where it was interrupted.

    An error that a reader can mend (a data set that is not there, a loss that is NaN) is printed as its one sentence;
    `python -X dev -m lessons.training ...` shows where it came from.
    """
    given = parse(argv)
    folder = given.folder or Path("runs") / given.lesson / f"{given.dataset}-{given.profile}-{given.seed}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is handled as Ctrl-C
    recipe = importlib.import_module(f"lessons.recipes.{given.lesson}")
    try:
        recipe.train(dataset=given.dataset, profile=given.profile, resume=given.resume, device=given.device,
                     seed=given.seed, folder=folder)
    except KeyboardInterrupt as stop:
        print(str(stop) or "Interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        if sys.flags.dev_mode:
            raise
        print(error, file=sys.stderr)
        return 1
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0
