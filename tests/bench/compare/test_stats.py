import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import stats
from bench.compare.stats import Spread

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8)
positive = st.floats(1e-6, 1e6)


def test_the_mean_and_its_interval_are_scipys():
    import scipy.stats

    data = [0.752, 0.741, 0.768, 0.749, 0.755]
    found = stats.mean(data)
    expected = scipy.stats.ttest_1samp(data, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(0.753)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.n == 5


def test_a_mean_by_hand():
    # Mean 2, sd 1, t with 2 degrees of freedom 4.303: 2 ± 4.303 / √3.
    low, high = stats.mean([1.0, 2.0, 3.0]).interval
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6)


def test_a_geometric_mean_by_hand():
    found = stats.geometric_mean([1.0, 10.0, 100.0])
    assert found.value == pytest.approx(10)
    half = 4.302653 * math.log(10) / math.sqrt(3)
    assert found.interval == pytest.approx((10 * math.exp(-half), 10 * math.exp(half)), rel=1e-5)


def test_the_ratio_of_geometric_means_is_the_mean_ratio():
    ours, theirs = [3.0, 5.0, 40.0], [2.0, 11.0, 7.0]
    assert stats.geometric_mean(ours).value / stats.geometric_mean(theirs).value == pytest.approx(
        stats.ratio(ours, theirs).value
    )


def test_equal_values_are_their_own_geometric_mean_to_the_last_bit():
    assert stats.geometric_mean([90_800_001.0] * 3) == stats.Estimate(90_800_001.0, (90_800_001.0, 90_800_001.0), 3)
    assert stats.geometric_mean([0.1]) == stats.Estimate(0.1, None, 1)


@pytest.mark.parametrize("wrong", [[], [1.0, 0.0], [-1.0], [math.inf, 1.0]])
def test_a_geometric_mean_needs_values_above_0(wrong):
    with pytest.raises(ValueError, match=r"above 0|no values|not finite"):
        stats.geometric_mean(wrong)


def test_the_paired_difference_is_scipys_paired_t():
    import scipy.stats

    ours, theirs = [5.1, 6.3, 7.2], [4.0, 5.5, 6.0]
    found = stats.difference(ours, theirs)
    expected = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_pairing_takes_out_what_both_share():
    # Seeds differ by 10, the two recipes by 1 to 1.2: unpaired, nothing would be seen.
    found = stats.difference([11.0, 21.1, 31.2], [10.0, 20.0, 30.0])
    assert found.interval[0] > 0


def test_a_ratio_is_a_geometric_mean():
    found = stats.ratio([2.0, 8.0], [1.0, 1.0])
    assert found.value == pytest.approx(4.0)
    # Log-ratios ln 2 and ln 8: sd ln 4 / √2, so a half width of 12.706 · ln 4 / 2.
    assert math.log(found.interval[1] / found.value) == pytest.approx(12.7062 * math.log(4) / 2, rel=1e-5)


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=6))
def test_a_ratio_turned_round_is_its_inverse(pairs):
    ours, theirs = zip(*pairs, strict=True)
    there, back = stats.ratio(ours, theirs), stats.ratio(theirs, ours)
    assert there.value * back.value == pytest.approx(1.0, rel=1e-6)


@given(values)
def test_an_interval_holds_its_mean(data):
    found = stats.mean(data)
    slack = 1e-9 * max(map(abs, data), default=0)
    assert found.interval[0] - slack <= found.value <= found.interval[1] + slack


@given(values, st.floats(-1e3, 1e3))
def test_a_shift_shifts_the_interval(data, shift):
    there, here = stats.mean(data), stats.mean([value + shift for value in data])
    # Where the spread is far below the shift, rounding is all that is left of it.
    assert here.interval == pytest.approx([end + shift for end in there.interval], rel=1e-6, abs=1e-3)


def test_one_value_has_no_interval():
    assert stats.mean([3.0]).interval is None
    assert stats.difference([3.0], [2.0]).interval is None
    assert stats.ratio([3.0], [2.0]).interval is None


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-30, 7e20])
def test_equal_values_give_an_interval_without_width(value):
    for n in (2, 3, 7):
        assert stats.mean([value] * n).interval == (value, value)
        assert stats.difference([value] * n, [value] * n).interval == (0.0, 0.0)
        assert stats.ratio([value] * n, [value] * n).interval == (1.0, 1.0)


@pytest.mark.parametrize("wrong", [[], [math.nan, 1.0], [1.0, math.inf]])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(ValueError, match="value"):
        stats.mean(wrong)


def test_unequal_lengths_and_ratios_of_zero_are_refused():
    with pytest.raises(ValueError, match="zip"):
        stats.difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="above 0"):
        stats.ratio([1.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_95_percent_interval_covers_the_truth_95_times_in_100(n):
    draw = random.Random(n)
    rounds = 6000
    covered = 0
    for _ in range(rounds):
        low, high = stats.mean([draw.gauss(10.0, 2.0) for _ in range(n)]).interval
        covered += low <= 10.0 <= high
    error = math.sqrt(0.95 * 0.05 / rounds)
    assert abs(covered / rounds - 0.95) < 4 * error


def test_a_borrowed_spread_covers_too_and_is_narrower():
    draw = random.Random(1)
    rounds, covered, narrower = 2000, 0, 0
    for _ in range(rounds):
        spread = stats.pooled_sd([[draw.gauss(i, 1.0), draw.gauss(i, 1.0)] for i in range(20)])
        data = [draw.gauss(5.0, 1.0) for _ in range(3)]
        (low, high), own = stats.mean(data, spread=spread).interval, stats.mean(data).interval
        covered += low <= 5.0 <= high
        narrower += high - low < own[1] - own[0]
    assert abs(covered / rounds - 0.95) < 4 * math.sqrt(0.95 * 0.05 / rounds)
    assert narrower > 0.7 * rounds


def test_a_pooled_spread_by_hand():
    # Squares about each own mean: 2 and 2, with 1 and 2 degrees of freedom; one value adds nothing.
    assert stats.pooled_sd([[1.0, 3.0], [10.0, 11.0, 12.0], [99.0]]) == Spread(math.sqrt(4 / 3), 3)
    assert stats.pooled_sd([[1.0], []]) is None


def test_one_value_with_a_borrowed_spread_has_an_interval():
    assert stats.mean([5.0], spread=Spread(1.0, 20)).interval == pytest.approx((5 - 2.085963, 5 + 2.085963))


def test_the_item_interval_by_hand():
    # Differences +1, +1, −1 and 97 zeros: mean 0.01, and sd² = (3 − 100 · 0.01²) / 99.
    ours, theirs = [1, 1, 0] + [1] * 97, [0, 0, 1] + [1] * 97
    found = stats.seeds_and_items([ours], [theirs])
    half = 1.984217 * math.sqrt((3 - 0.01) / 99 / 100)
    assert found.mean == pytest.approx(0.01)
    assert (found.freedom, found.covers) == (pytest.approx(99), "items")
    assert found.interval == pytest.approx((0.01 - half, 0.01 + half), rel=1e-5)


def test_the_item_interval_covers_the_choice_of_items():
    import numpy as np

    draw = np.random.default_rng(3)
    rounds, covered = 1500, 0
    for _ in range(rounds):
        ease = draw.random(300)
        found = stats.seeds_and_items([ease < 0.75], [ease + draw.normal(0, 0.2, 300) < 0.70])
        covered += found.interval[0] <= _TRUE_DIFFERENCE <= found.interval[1]
    assert abs(covered / rounds - 0.95) < 4 * math.sqrt(0.95 * 0.05 / rounds) + 0.003


def _true_difference():
    import numpy as np
    from scipy.stats import norm

    ease = (np.arange(100_000) + 0.5) / 100_000
    return 0.75 - float(norm.cdf((0.70 - ease) / 0.2).mean())


_TRUE_DIFFERENCE = _true_difference()


@pytest.mark.parametrize(
    ("n", "rank"),
    # 2 (C(n, 0) + … + C(n, rank - 1)) / 2^n is at most 5 %: 2/32 = 6.2 % of five values, 2/64 = 3.1 % of six,
    # 2 (1 + 9)/512 = 3.9 % of nine, 2 (1 + 10)/1024 = 2.1 % of ten, 2 (1 + 20 + 190 + 1140 + 4845 + 15504) / 2^20 = 4.1 %
    # of twenty.
    [(0, None), (1, None), (5, None), (6, 1), (8, 1), (9, 2), (10, 2), (20, 6)],
)
def test_the_interval_of_a_median_by_hand(n, rank):
    data = random.Random(n).sample(range(1, n + 1), n)
    assert stats.of_median(data) == (None if rank is None else (rank, n + 1 - rank))


def test_the_interval_of_a_median_covers_it_whatever_the_distribution():
    draw = random.Random(0)
    median = math.log(2)
    held = 0
    for _ in range(2_000):
        low, high = stats.of_median([draw.expovariate(1) for _ in range(10)])
        held += low <= median <= high
    assert held / 2_000 == pytest.approx(1 - 22 / 1_024, abs=0.01)


def test_seeds_and_items_by_hand():
    # Means of seeds 1/3 and 1, of items 2, 1/2 and -1/2. Squared error over seeds 2/9 / 2 = 4/36, over items 19/12 / 3 = 19/36.
    # Residuals ±1/3, ±1/6 and ±1/6: MS_rest 1/3 / 2, over the 6 scores 1/36. Variance (4 + 19 - 1) / 36, the seeds' share 4/22.
    found = stats.seeds_and_items([[2, 0, 0], [2, 1, 0]], [[0, 0, 1], [0, 0, 0]])
    assert found.mean == pytest.approx(2 / 3)
    assert found.error == pytest.approx(math.sqrt(22 / 36))
    assert found.freedom == pytest.approx(1 / ((4 / 22) / 1 + (18 / 22) / 2))
    assert (found.covers, found.seeds) == ("seeds and items", 2)
    assert found.fixed == pytest.approx(18 / 36)


def test_seeds_that_differ_less_than_single_items_add_nothing():
    # Means of seeds 1/4 and 3/4, of items 1, 1, 0 and 0: squared error over seeds 1/16, over items 1/12. Residuals ±1/4, ±1/4,
    # ±1/4 and ±3/4: MS_rest 3/2 / 3, over the 8 scores 1/16, as much as that over seeds.
    found = stats.seeds_and_items([[1, 1, 0, -1], [1, 1, 0, 1]], [[0] * 4] * 2)
    assert found.error == pytest.approx(math.sqrt(1 / 12))
    assert found.freedom == pytest.approx(1 / ((12 / 16) / 1 + (4 / 16) / 3))
    assert found.fixed == pytest.approx(1 / 12 - 1 / 16)


def test_seeds_alone_are_the_paired_t():
    ours, theirs = [5.1, 6.3, 7.2], [4.0, 5.5, 6.0]
    found = stats.seeds_alone(ours, theirs)
    assert found.interval == pytest.approx(stats.difference(ours, theirs).interval)
    assert (found.freedom, found.covers) == (2, "seeds")


@pytest.mark.parametrize(
    ("ours", "covers", "interval"),
    [
        ([1.5], "nothing", None),
        ([1.5, 2.5], "nothing", None),
        ([0.5, 1.5], "exact", (0.0, 0.0)),
        ([0.5], "nothing", None),
    ],
)
def test_seeds_that_all_differ_by_the_same_show_no_noise(ours, covers, interval):
    found = stats.seeds_alone(ours, [0.5, 1.5][: len(ours)])
    assert (found.covers, found.interval, found.error) == (covers, interval, 0.0)


def test_many_two_ways_at_once_are_each_of_them():
    import numpy as np

    each = np.random.default_rng(7).normal(0.1, 1.0, (2, 3, 4, 20)).round(1)
    each[0, 0] = 0.0
    found = stats.two_way(each)
    for at in np.ndindex(2, 3):
        alone = stats.seeds_and_items(each[at], np.zeros((4, 20)))
        assert (found.mean[at], found.error[at]) == pytest.approx((alone.mean, alone.error))
        assert alone.covers == "exact" or found.freedom[at] == pytest.approx(alone.freedom)


@pytest.mark.parametrize(("ours", "mean", "covers"), [(0.25, 0.0, "exact"), (1.25, 1.0, "nothing")])
def test_scores_that_all_differ_by_the_same_have_no_error(ours, mean, covers):
    found = stats.seeds_and_items([[ours] * 4] * 3, [[0.25] * 4] * 3)
    assert (found.mean, found.error, found.covers) == (mean, 0.0, covers)


def test_wins_that_losses_cancel_everywhere_show_no_noise():
    found = stats.seeds_and_items([[1, 0], [0, 1]], [[0, 1], [1, 0]])
    assert (found.mean, found.error, found.covers) == (0.0, 0.0, "nothing")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([[1, 0], [1, math.nan]], [[1, 0], [1, 1]]), ([[1, 0]], [[1, 0], [1, 1]]), ([[1]], [[0]]), ([], [])],
)
def test_scores_that_do_not_fit_are_refused(ours, theirs):
    with pytest.raises(ValueError, match="score"):
        stats.seeds_and_items(ours, theirs)


@pytest.mark.parametrize("of_items", [0.0, 1.0])
@pytest.mark.parametrize("of_seeds", [0.0, 1.0, 10.0, 100.0])
def test_three_seeds_and_300_items_cover_94_times_in_100(of_seeds, of_items):
    """`of_seeds` is how far seeds differ, in the variance of a seed's mean that 300 items alone would give it."""
    import numpy as np
    from scipy.special import stdtrit

    rng, trials = np.random.default_rng(5), 3_000
    covered = 0
    for _ in range(trials):
        each = rng.standard_normal((3, 300))
        each += math.sqrt(of_seeds / 300) * rng.standard_normal((3, 1))
        each += math.sqrt(of_items) * rng.standard_normal((1, 300))
        found = stats.seeds_and_items(each, np.zeros_like(each))
        covered += abs(found.mean) <= stdtrit(found.freedom, 0.975) * found.error
    assert covered / trials >= 0.94


def test_holm_by_hand():
    # In order .01, .02, .03, .04 are multiplied by 4, 3, 2 and 1; none may be below the one before.
    assert stats.holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert stats.holm([]).tolist() == []
    assert stats.holm([[0.03, 0.01], [0.01, 0.01]]).tolist() == [[0.03, 0.02], [0.02, 0.02]]


def test_holm_keeps_false_alarms_among_13_recipes_below_5_percent():
    import numpy as np

    draw = np.random.default_rng(2)
    p = draw.random((20_000, 13))
    p[:, :3] /= 1_000  # three differences that are there
    alarms = (stats.holm(p)[:, 3:] <= 0.05).any(axis=1)
    assert 0.03 < alarms.mean() < 0.055
    assert (p[:, 3:] <= 0.05).any(axis=1).mean() > 0.3


def test_the_p_value_is_scipys_paired_t():
    import scipy.stats

    ours, theirs = [5.1, 6.3, 7.2], [4.0, 5.5, 6.0]
    assert stats.seeds_alone(ours, theirs).p == pytest.approx(scipy.stats.ttest_rel(ours, theirs).pvalue)
    assert stats.seeds_alone(theirs, theirs).p == 1.0
    assert stats.seeds_alone([1.0], [2.0]).p is None


# -- what would settle it ----------------------------------------------------------------------------------


def test_the_smallest_difference_that_is_detected_by_hand():
    # Student's t with 2 degrees of freedom: 4.303 at 97.5 %, 1.061 at 80 %.
    found = stats.settling(stats.seeds_alone([0.01, 0.02, 0.03], [0.0] * 3), 0.0, 0.05)
    assert found.detectable == pytest.approx((4.302653 + 1.060660) * 0.01 / math.sqrt(3), rel=1e-5)


def test_the_seeds_that_settle_a_difference_by_hand():
    # 0.01 with a spread of 0.01: the first n with (t + t') / √n <= 1 is 10, as (2.2622 + 0.8834) / √10 = 0.995; of 9 it is
    # (2.3060 + 0.8889) / 3 = 1.065. At a level of 0.5 % 17: (3.2520 + 0.8647) / √17 = 0.998.
    few = stats.seeds_alone([0.0, 0.01, 0.02], [0.0] * 3)
    assert stats.settling(few, 0.0, 0.05).seeds == 10
    assert stats.settling(few, 0.0, 0.005).seeds == 17


def test_the_seeds_that_settle_that_two_are_the_same_by_hand():
    # 0 ± 0.01: inside 0.01 from 10 seeds on, for the same reason; a difference of 0 is never found.
    even = stats.seeds_alone([-0.01, 0.0, 0.01], [0.0] * 3)
    assert stats.settling(even, 0.01, 0.05).seeds == 10
    assert stats.settling(even, 0.0, 0.05).seeds is None
    assert stats.settling(even, 0.001, 0.05).seeds is None  # it would take over a hundred


def test_seeds_do_not_settle_what_the_items_leave_open():
    # Each seed says the same of 20 items, of which 6 are won and 4 lost: other seeds would not add anything.
    each = [[1] * 6 + [-1] * 4 + [0] * 10] * 3
    found = stats.seeds_and_items(each, [[0] * 20] * 3)
    assert found.fixed == pytest.approx(found.error**2)
    assert stats.settling(found, 0.01, 0.05).seeds is None


def test_one_seed_does_not_say_how_seeds_differ():
    found = stats.settling(stats.seeds_and_items([[1, 1, 0, 1] * 9], [[1, 0, 1, 1] * 9]), 0.01, 0.05)
    assert found.seeds is None
    assert found.detectable > 0


def test_the_seeds_that_are_named_settle_four_times_in_five():
    import numpy as np

    draw = np.random.default_rng(4)
    true, spread, settled, trials = 0.01, 0.01, 0, 400
    seeds = stats.settling(stats.Difference(true, spread / math.sqrt(3), 2, "seeds", 3), 0.0, 0.05).seeds
    for _ in range(trials):
        settled += stats.seeds_alone(draw.normal(true, spread, seeds).tolist(), [0.0] * seeds).p <= 0.05
    assert 0.75 < settled / trials < 0.87
