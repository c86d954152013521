"""Running an experiment over its seeds and keeping what came out, with a card that says how.

An experiment is a module of this package with
    CLAIM                        one sentence, what the paper says
    run(seed, short=False)       {condition: {number: value}} of one seed; short: seconds instead of minutes
    verdict(per_seed)            {statement: whether it holds} from the results of all seeds
    PRE_TRAINED                  the checkpoint with which trainings begin, if it is not R-CNN's pre-trained CNN
    data()                       the data that it learns from, if it is not the scenes
A measurement has no seeds; it is a module with
    RECORD                       one sentence, what is in its record
    conduct(fresh=False)         brings data/results/NAME.json up to date
"""

import importlib
import json
import pkgutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from lessons.checkpoints import command_line, data_hash, write_atomically
from lessons.data.scenes import Scenes
from lessons.recipes.rcnn import PRE_TRAINED

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"
SEEDS = (0, 1, 2)

Numbers = dict[str, dict[str, float]]


def known_experiments() -> list[str]:
    """The names of all experiments."""
    return _modules_with("CLAIM")


def known_measurements() -> list[str]:
    """The names of all measurements."""
    return _modules_with("RECORD")


def _modules_with(constant: str) -> list[str]:
    folder = Path(__file__).parent
    return sorted(m.name for m in pkgutil.iter_modules([str(folder)])
                  if f"\n{constant} = " in (folder / f"{m.name}.py").read_text(encoding="utf-8"))


def load_result(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The stored result of an experiment. Raises ValueError where there is none."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"There is no result {name}; `python -m experiments {name}` makes it.")
    return json.loads(path.read_text(encoding="utf-8"))


def checkpoint_hash(path: Path) -> str:
    """A short checksum of a checkpoint, from its card."""
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"][:16]


def conduct(name: str, seeds: Sequence[int] = SEEDS, fresh: bool = False, folder: Path = RESULTS) -> dict[str, Any]:
    """Runs an experiment for every seed that has no result yet and writes data/results/NAME.json after each.

    fresh: forget earlier results; those from other data or another pre-trained CNN are forgotten in any case. Returns
    the result.
    Raises ValueError for an unknown name, FileNotFoundError where the experiment's data are not on this disk.
    """
    if name not in known_experiments():
        raise ValueError(f"There is no experiment {name!r}; there are {', '.join(known_experiments())}.")
    experiment = importlib.import_module(f"experiments.{name}")
    result = _begin(experiment, fresh, folder)
    for seed in seeds:
        if str(seed) not in result["per_seed"]:
            began = time.perf_counter()
            result["per_seed"][str(seed)] = experiment.run(seed)
            result["seconds"] = round(result["seconds"] + time.perf_counter() - began)
            print(f"{name}, seed {seed}: {json.dumps(result['per_seed'][str(seed)])}", flush=True)
        summarise(result, experiment.verdict)
        write_atomically(folder / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def summarise(result: dict[str, Any], verdict: Any) -> None:
    """Adds mean, standard deviation (of the sample) and verdict of all seeds done so far to a result."""
    done = [result["per_seed"][seed] for seed in sorted(result["per_seed"], key=int)]
    result["seeds"] = sorted(map(int, result["per_seed"]))
    result["mean"] = across(done, statistics.fmean)
    result["sd"] = across(done, lambda values: statistics.stdev(values) if len(values) > 1 else 0.0)
    result["verdict"] = verdict(done)


def across(per_seed: Sequence[Numbers], statistic: Any) -> Numbers:
    """A statistic over the seeds of every number of every condition."""
    return {condition: {key: round(statistic([numbers[condition][key] for numbers in per_seed]), 4) for key in row}
            for condition, row in per_seed[0].items()}


def wins(per_seed: Sequence[Numbers], better: str, worse: str, key: str = "AP") -> bool:
    """Whether one condition beats another on the mean over the seeds and in most of them."""
    differences = [numbers[better][key] - numbers[worse][key] for numbers in per_seed]
    return statistics.fmean(differences) > 0 and sum(d > 0 for d in differences) > len(differences) / 2


def what_is_missing(name: str) -> str:
    """Why the data of an experiment cannot be opened, "" if they can."""
    try:
        _data(importlib.import_module(f"experiments.{name}"))
    except FileNotFoundError as error:
        return str(error)
    return ""


def _data(experiment: Any) -> Dataset:
    return getattr(experiment, "data", lambda: Scenes("train", 20))()


def origin(experiment: Any) -> dict[str, str]:
    """What a stored result depends on besides the code: checksums of the data and of the weights to begin with."""
    return {"data": data_hash(_data(experiment)),
            "pre_trained": checkpoint_hash(getattr(experiment, "PRE_TRAINED", PRE_TRAINED))}


def _begin(experiment: Any, fresh: bool, folder: Path) -> dict[str, Any]:
    name, known = experiment.__name__.rpartition(".")[2], origin(experiment)
    new = {"name": name, "claim": experiment.CLAIM, "command": command_line(), "torch": torch.__version__,
           "device": "cpu", **known, "seconds": 0, "seeds": [], "per_seed": {}}
    try:
        old = load_result(name, folder)
    except ValueError:
        return new
    same = all(old.get(key) == value for key, value in known.items())
    return {**new, **old} if same and not fresh else new
