"""The simulation's truth, and that it decides as reports do."""

import numpy as np
import pytest

from bench.compare import stats
from bench.compare.compare import compare
from bench.compare.looks import looks
from bench.compare.rows import Change
from bench.execute import settle
from bench.execute.base import Outcome
from bench.execute.run import run
from bench.metrics import registry
from bench.record.store import Store
from bench.testing.fake import Fake
from tests.bench.execute.test_run import Silent
from tests.calibration.__main__ import LEAST, MARGIN, Decided, main
from tests.calibration.settle import Settled
from tests.calibration.suites import SPREADS, Recipes
from tests.subjects import NoTask, make_plan


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
    (three, ten), (false3, false10), (settled,) = numbers[:2], numbers[2:4], numbers[4:]
    assert all(100 * LEAST - 3 <= rate <= 100 for rate in (*three, *ten))
    for alone, together, same in (false3, false10):
        assert together <= 9 < alone  # 5 % with the noise of 200 suites
        assert same < 6
    careless, rule, same = settled
    assert rule <= 9
    assert rule < careless
    assert same < 6
    power = {(line[0], line[1]): line[2:] for line in lines if line and line[0].startswith("below")}
    assert [power["below 0.5 points", "10"][-1]] == ["100%"]


def test_a_run_that_adds_seeds_decides_as_the_simulation_does(monkeypatch, tmp_path):
    """The command's own rounds, on stages that answer as the simulated recipes do."""
    at, planned = (3, 5, 8), looks(3)
    monkeypatch.setattr(NoTask, "primary", "accuracy")
    for number, true in enumerate((0.0, -0.04)):
        each = drawn(1, at[-1], true)
        found = Settled.of(each, at, planned, MARGIN)
        recipes = {"full": "full"} | {f"recipe {n}": f"full(lr={n + 1})" for n in range(each.shape[1])}
        whole = make_plan(monkeypatch, recipes, seeds=list(range(at[-1])), measure={"latency": []})
        names = {cell.path[-1].id: cell.name for cell in whole.cells}
        store = Store(tmp_path / str(number))

        def behave(job, each=each, names=names):
            name = names[job.node]
            scores = each[0, int(name.split()[1]), job.seed].tolist() if name != "full" else [0.0] * each.shape[-1]
            quality = {"metrics": {"accuracy": float(np.mean(scores))}, "correct": scores}
            return Outcome("ok", measured={"quality": quality})

        def carry_out(part, ran, recipes=recipes, store=store, behave=behave):
            return run(part, set(recipes), store, Fake(behave), Silent(), ran=ran, looks=planned)

        settle.run(whole, recipes, at, set(), carry_out, lambda text: None)
        (comparison,) = compare(store.read())
        rows = {row.name: row for row in comparison.rows}
        for n in range(each.shape[1]):
            row = rows[f"recipe {n}"]
            expected = "same" if found.same[0, n] else "differs" if found.differs[0, n] else "not settled"
            verdict = row.changes["accuracy"].verdict
            assert {"better": "differs", "worse": "differs"}.get(verdict, verdict) == expected
            assert len(row.seeds) == found.seeds[0, n]
    assert 3 < found.seeds.mean() < 8


def test_too_few_suites_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--suites", "5"])
    assert "--suites: at least 10" in capsys.readouterr().err
