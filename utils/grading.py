"""Checks for "find the mistake" and exercise cells: they say which case fails, what was expected and what came."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def check(candidate: Callable, reference: Callable, cases: Sequence[tuple], tolerance: float = 1e-5) -> None:
    """Prints the verdict on the reader's function; an unfinished exercise must not stop the notebook."""
    print(verdict(candidate, reference, cases, tolerance)[1])


def verdict(candidate: Callable, reference: Callable, cases: Sequence[tuple], tolerance: float = 1e-5
            ) -> tuple[bool, str]:
    """Compares `candidate` with `reference` on `cases` (tuples of arguments): whether all agree, and a text.

    Stops at the first case that differs; the text shows the arguments, the expected and the given result. An exception
    of the candidate is a verdict too, never a traceback.
    """
    for number, arguments in enumerate(cases, start=1):
        expected = reference(*arguments)
        try:
            given = candidate(*arguments)
        except Exception as error:  # whatever the reader's code raises is the verdict
            return False, f"✗ case {number}: {_names(arguments)} raised {type(error).__name__}: {error}"
        if given is None or given is Ellipsis:
            return False, (f"… nothing yet: {candidate.__name__} returned {given}. "
                           f"Case {number} expects {_short(expected)}")
        if not _close(given, expected, tolerance):
            return False, (f"✗ case {number}: {_names(arguments)}\n  expected {_short(expected)}\n"
                           f"  given    {_short(given)}")
    return True, f"✓ {candidate.__name__} agrees on all {len(cases)} cases."


def _close(given: Any, expected: Any, tolerance: float) -> bool:
    given, expected = torch.as_tensor(given), torch.as_tensor(expected)
    if given.shape != expected.shape:
        return False
    return bool(torch.allclose(given.double(), expected.double(), rtol=0, atol=tolerance, equal_nan=True))


def _short(value: Any) -> str:
    """A tensor as a rounded list, anything else as it prints."""
    if isinstance(value, Tensor):
        text = str(_rounded(value.tolist()))
        return text if len(text) <= 120 else f"{text[:117]}..."
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def _names(arguments: tuple) -> str:
    return "(" + ", ".join(_short(argument) for argument in arguments) + ")"
