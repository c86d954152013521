"""Learning-rate schedules: plain functions `step -> factor` by which the optimiser's learning rate is multiplied.

Steps count from 0. A schedule has no state, so training that resumes at step k needs nothing but k.
"""

import math
from bisect import bisect
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def warm_up(step: int, warmup: int) -> float:
    """Rises evenly from 1 / warmup at step 0 to 1 at step warmup - 1, then stays 1 (Goyal et al. 2017, section 2.2)."""
    return min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0


def constant(warmup: int = 0) -> Schedule:
    """The full rate at every step, after `warmup` steps of rise."""
    _check_warmup(warmup)
    return lambda step: warm_up(step, warmup)


def cosine(steps: int, warmup: int = 0, final: float = 0.0, restarts: Sequence[int] = ()) -> Schedule:
    """Half a cosine from 1 down to `final` at step `steps`, after `warmup` steps of rise.

    restarts: steps at which the rate is full again; then it comes down once more, until the next restart or the end.
    Loshchilov and Hutter 2017 (SGDR), eq. 5. Raises ValueError unless 0 <= warmup < restarts, rising, < steps.
    """
    _check_warmup(warmup)
    if warmup >= steps:
        raise ValueError(f"cosine needs more steps than warm-up steps, got steps={steps} and warmup={warmup}.")
    turns = [warmup, *restarts, steps]
    if sorted(set(turns)) != turns:
        raise ValueError(f"restarts must rise from above {warmup} to below {steps}, got {list(restarts)}.")

    def factor(step: int) -> float:
        if step < warmup:
            return warm_up(step, warmup)
        after = min(bisect(turns, step), len(turns) - 1)
        first, last = turns[after - 1], turns[after]
        progress = min(1.0, (step - first) / (last - first))
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def linear(steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """A straight line from 1 down to `final` at step `steps`, after `warmup` steps of rise.

    Li, Yumer and Ramanan 2020 ("Budgeted training") find it a good choice where there is time for few steps only.
    Raises ValueError unless 0 <= warmup < steps.
    """
    _check_warmup(warmup)
    if warmup >= steps:
        raise ValueError(f"linear needs more steps than warm-up steps, got steps={steps} and warmup={warmup}.")

    def factor(step: int) -> float:
        if step < warmup:
            return warm_up(step, warmup)
        return final + (1.0 - final) * max(0.0, (steps - step) / (steps - warmup))

    return factor


def stepwise(drops: Sequence[int], gamma: float = 0.1, warmup: int = 0) -> Schedule:
    """The rate is multiplied by `gamma` at each of the steps `drops`, as the R-CNN family was trained.

    Raises ValueError where `drops` does not rise.
    """
    _check_warmup(warmup)
    if list(drops) != sorted(set(drops)):
        raise ValueError(f"the drops of a schedule must rise, got {list(drops)}.")
    return lambda step: warm_up(step, warmup) * gamma ** sum(step >= drop for drop in drops)


def _check_warmup(warmup: int) -> None:
    if warmup < 0:
        raise ValueError(f"warmup counts steps and cannot be negative, got {warmup}.")
