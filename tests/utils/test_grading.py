"""The checks of exercise cells: a verdict for every kind of answer, and never a traceback."""

import pytest
import torch

from utils.grading import check, verdict

CASES = [(torch.tensor([1.0, 2.0]),), (torch.tensor([3.0]),)]


def double(x):
    return 2 * x


def test_a_right_answer_is_told_so(capsys):
    check(lambda x: x + x, double, CASES)
    assert "agrees on all 2 cases" in capsys.readouterr().out


def test_the_first_wrong_case_is_shown_with_both_results(capsys):
    check(lambda x: x * x, double, CASES)  # 2 * 2 = 2 + 2, but 1 * 1 is not 1 + 1
    printed = capsys.readouterr().out
    assert "case 1" in printed
    assert "[2.0, 4.0]" in printed
    assert "[1.0, 4.0]" in printed


@pytest.mark.parametrize("unfinished", [lambda x: None, lambda x: ...])
def test_an_untouched_exercise_is_not_an_error(unfinished, capsys):
    check(unfinished, double, CASES)
    assert "nothing yet" in capsys.readouterr().out


def test_an_exception_is_a_verdict(capsys):
    check(lambda x: x[5], double, CASES)
    assert "IndexError" in capsys.readouterr().out


def test_another_shape_is_wrong_even_where_it_would_broadcast():
    assert not verdict(lambda x: double(x)[None], double, CASES)[0]


def test_tolerance_and_numbers():
    assert verdict(lambda x: x + 1e-7, lambda x: x, [(1.0,)])[0]
    assert not verdict(lambda x: x + 1e-3, lambda x: x, [(1.0,)])[0]
    assert verdict(lambda: torch.tensor(float("nan")), lambda: torch.tensor(float("nan")), [()])[0]


def test_a_cell_that_ends_with_a_check_displays_nothing_but_the_verdict(capsys):
    assert check(double, double, CASES) is None  # nbval shows a last expression whatever semicolon follows it
    assert capsys.readouterr().out == "✓ double agrees on all 2 cases.\n"
