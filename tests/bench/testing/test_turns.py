import random

import pytest


class Simulated:
    """A clock, and callables that it says take so many seconds, with a spread of one percent."""

    def __init__(self, seed):
        self.now = 0.0
        self.draw = random.Random(seed)
        self.order = []

    def __call__(self):
        return self.now

    def call(self, name, seconds, spread=0.01):
        def act():
            self.order.append(name)
            self.now += seconds * self.draw.lognormvariate(0, spread)

        return act


@pytest.mark.parametrize("seed", range(20))
def test_a_slowdown_of_six_percent_fails_and_none_passes(methodbench_gate, seed):
    clock = Simulated(seed)
    assert methodbench_gate(clock.call("a", 0.01), clock.call("b", 0.01), clock=clock).outcome == "pass"
    with pytest.raises(pytest.fail.Exception, match=r"^[56]\.\d % slower \([56]\.\d to [67]\.\d %\); 3% is all"):
        methodbench_gate(clock.call("a", 0.01), clock.call("b", 0.0106, 0.002), clock=clock)


def test_what_cannot_be_told_is_skipped(methodbench_gate):
    clock = Simulated(1)
    with pytest.raises(pytest.skip.Exception, match="cannot be told: the smallest detectable change is larger"):
        methodbench_gate(clock.call("a", 0.01, 0.5), clock.call("b", 0.0103, 0.5), clock=clock)


def test_the_two_take_turns(methodbench_gate):
    clock = Simulated(2)
    methodbench_gate(clock.call("a", 0.01), clock.call("b", 0.01), clock=clock)
    text = "".join(clock.order[4:])  # after a warm-up and a count of loops each
    pair = ("a" * 6 + "b" * 6) + ("b" * 6 + "a" * 6)
    assert text == (pair * 20)[: len(text)]
    assert len(text) >= 6 * 2 * 6


def test_a_fast_callable_is_called_often_and_real_time_passes(methodbench_gate):
    def work():
        return sum(range(200))

    assert methodbench_gate(work, work, tolerance="90%").outcome == "pass"


def test_a_clock_that_stands_still_is_refused(methodbench_gate):
    with pytest.raises(ValueError, match=r"takes no time; pass clock=time\.perf_counter"):
        methodbench_gate(lambda: None, lambda: None, clock=lambda: 0.0)


def test_a_share_that_is_none_is_refused(methodbench_gate):
    with pytest.raises(ValueError, match="tolerance: a percentage below 100"):
        methodbench_gate(lambda: None, lambda: None, tolerance="0.03")
