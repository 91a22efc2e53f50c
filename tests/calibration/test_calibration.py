"""The simulation's truth, and that it decides as reports do."""

import numpy as np
import pytest

from bench.compare import stats
from bench.compare.rows import Change
from bench.metrics import registry
from tests.calibration.__main__ import LEAST, MARGIN, Decided, main
from tests.calibration.suites import SPREADS, Recipes


def drawn(suites, seeds, true):
    return np.concatenate(list(Recipes.of(SPREADS).differences(np.random.default_rng(3), suites, seeds, true)))


@pytest.mark.parametrize("true", [0.0, -0.05])
def test_the_true_difference_is_what_it_shall_be(true):
    means = drawn(300, 3, true).mean(axis=(2, 3), dtype=float)
    error = means.std(axis=0, ddof=1) / np.sqrt(300)
    assert (np.abs(means.mean(axis=0) - true) < 4 * error).all()


def test_recipes_spread_over_seeds_as_they_shall():
    spread = np.sqrt(drawn(200, 5, 0.0).mean(axis=3, dtype=float).var(axis=2, ddof=1).mean(axis=0))
    assert spread == pytest.approx(SPREADS, rel=0.35)


@pytest.mark.parametrize("true", [0.0, -0.03])
def test_verdicts_are_those_of_reports(true):
    accuracy = registry.metric("accuracy")
    each = drawn(12, 5, true)
    found = Decided.of(each, true)
    for suite, recipes in enumerate(each):
        noise = [stats.seeds_and_items(recipe, np.zeros_like(recipe)) for recipe in recipes]
        adjusted = stats.holm([one.p for one in noise])
        for at, (one, p) in enumerate(zip(noise, adjusted, strict=True)):
            change = Change(accuracy, one.mean, one.interval, one.covers, MARGIN, noise=one, adjusted_p=float(p))
            expected = "same" if found.same[suite, at] else "differs" if found.differs[suite, at] else "not settled"
            assert expected == {"better": "differs", "worse": "differs"}.get(change.verdict, change.verdict)
            assert found.covered[suite, at] == (one.interval[0] - 1e-12 <= true <= one.interval[1] + 1e-12)


def test_the_tables_say_what_was_found(capsys):
    main(["--suites", "200", "--seed", "1"])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    numbers = [
        [float(cell.split("%")[0]) for cell in line[1:] if "%" in cell] for line in lines if line[:1] in (["3"], ["10"])
    ]
    (three, ten), (false3, false10) = numbers[:2], numbers[2:]
    assert all(100 * LEAST - 3 <= rate <= 100 for rate in (*three, *ten))
    for alone, together, same in (false3, false10):
        assert together <= 9 < alone  # 5 % with the noise of 200 suites
        assert same < 6
    power = {(line[0], line[1]): line[2:] for line in lines if line and line[0].startswith("below")}
    assert [power["below 0.5 points", "10"][-1]] == ["100%"]


def test_too_few_suites_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--suites", "5"])
    assert "--suites: at least 10" in capsys.readouterr().err
