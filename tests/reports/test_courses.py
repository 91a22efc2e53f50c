from bench.gate.history import ChangePoint, Course, Point
from reports import courses


def course(*values):
    points = tuple(Point(f"n{at}", "", f"2026-11-{at + 1:02}T20:00:00", value) for at, value in enumerate(values))
    return Course("lora", "size_on_disk", "Size on disk", "B", "size", "lower", points)


def test_bars_go_from_the_least_to_the_largest_and_leave_out_what_is_missing():
    assert courses.bars(course(1e6, 8e6, None, 4.5e6)) == "▁█·▅"
    assert courses.bars(course(*[1e6] * 30)) == "▁" * 20


def test_ends_are_the_first_and_the_last_value_that_there_are():
    assert courses.ends(course(None, 1e6, 2e6, None)) == ("1.00 MB", "2.00 MB")
    assert courses.ends(course(None)) == ("–", "–")


def test_a_change_says_by_how_much_and_whether_it_is_better():
    found = courses.change(course(2e6, 1e6), ChangePoint(1, 2e6, 1e6, 0.004))
    assert found == (
        "lora: Size on disk is 50.0% lower, which is better, from n1 on (2026-11-02): 2.00 MB before, 1.00 MB after, p = 0.004"
    )
