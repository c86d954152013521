"""Learning-rate schedules against values worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.schedules import constant, cosine, linear, stepwise


def test_schedules_by_hand():
    assert [constant()(s) for s in (0, 10)] == [1.0, 1.0]
    assert [constant(warmup=4)(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    half = cosine(10, warmup=2, final=0.1)
    assert [half(s) for s in (0, 1, 2, 6, 10, 99)] == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1, 0.1])
    straight = linear(10, warmup=2, final=0.2)
    assert [straight(s) for s in (0, 1, 2, 4, 6, 10, 99)] == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.2, 0.2])
    assert [linear(4)(s) for s in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [stepwise([3, 5], gamma=0.1)(s) for s in (0, 2, 3, 4, 5, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert stepwise([3], warmup=2)(0) == 0.5


def test_a_restart_begins_another_cosine():
    factors = [cosine(14, warmup=2, final=0.1, restarts=[6, 10])(s) for s in range(16)]
    assert factors[:6] == [cosine(6, warmup=2, final=0.1)(s) for s in range(6)]
    assert factors[6:10] == factors[10:14] == pytest.approx([1, 0.9 * 0.854 + 0.1, 0.55, 0.9 * 0.146 + 0.1], abs=1e-3)
    assert factors[14:] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("falling", [cosine, linear])
@given(steps=st.integers(1, 500), share=st.floats(0, 0.9), final=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_rates_rise_then_fall_within_bounds(falling, steps, share, final):
    warmup = int(steps * share)
    factors = [falling(steps, warmup, final)(s) for s in range(steps)]
    assert all(0 < f <= 1 + 1e-12 or (f >= 0 and final == 0) for f in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert all(a >= b - 1e-12 for a, b in zip(factors[warmup:], factors[warmup + 1:], strict=False))
    assert max(factors) == pytest.approx(1.0)


@pytest.mark.parametrize("make", [lambda: cosine(10, warmup=10), lambda: cosine(0), lambda: cosine(5, warmup=-1),
                                  lambda: linear(10, warmup=10), lambda: linear(0), lambda: linear(5, warmup=-1),
                                  lambda: constant(-1), lambda: stepwise([5, 3]), lambda: stepwise([3, 3]),
                                  lambda: cosine(10, restarts=[5, 5]), lambda: cosine(10, restarts=[10]),
                                  lambda: cosine(10, warmup=3, restarts=[2])])
def test_schedules_refuse_nonsense(make):
    with pytest.raises(ValueError, match=r"-?\d"):
        make()
