import pytest

from bench.record.errors import RecordError
from reports.trackers.following import following, problems
from reports.trackers.sending import lacking

pytest.importorskip("tensorboard")
FULL = "minilm/stdlib-topics/1/full"


def test_what_ended_with_a_stage_is_sent_at_once_and_the_rest_at_the_end(folder):
    said = []
    with following(folder, ["tensorboard"]) as follower:
        assert lacking(folder, ["tensorboard"]) == {"tensorboard": 4}
        follower.ended(FULL)
        assert lacking(folder, ["tensorboard"]) == {"tensorboard": 2}
        assert follower.done(said.append) == []
    assert lacking(folder, ["tensorboard"]) == {"tensorboard": 0}
    assert said == [f"tensorboard: 4 cells sent; `tensorboard --logdir {folder / 'tensorboard'}` shows them"]


def test_a_tracker_that_fails_fails_no_run(folder):
    (folder / "tensorboard").write_text("")
    with following(folder, ["tensorboard"]) as follower:
        follower.ended(FULL)
        (problem,) = follower.done(print)
    assert problem.startswith("tensorboard: 4 cells not sent: NotADirectoryError: ")
    assert problem.endswith(f"; `methodbench track {folder} --to tensorboard` sends them")
    (folder / "tensorboard").unlink()
    with following(folder, ["tensorboard"]) as follower:
        assert follower.done(print) == []


def test_a_process_that_ended_is_told(folder):
    with following(folder, ["tensorboard"]) as follower:
        follower._process.kill()
        follower._process.join()
        follower.ended(FULL)
        (problem,) = follower.done(print)
    assert problem.startswith("tensorboard: 4 cells not sent: the process that sends them ended with -9; ")


def test_one_that_takes_too_long_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr("reports.trackers.following.STAGE", 0.0)
    monkeypatch.setattr("reports.trackers.following.END", 0.0)
    with following(folder, ["tensorboard"]) as follower:
        follower.ended(FULL)
        found = follower.done(print)
    assert all("it took longer than 0 s" in problem for problem in found)
    assert len(found) == 1


def test_a_damaged_note_is_an_error_before_anything_runs(folder):
    (folder / "tracked.json").write_text("{")
    with pytest.raises(RecordError, match="it is damaged"), following(folder, ["tensorboard"]):
        pass


def test_where_nothing_lacks_there_is_no_problem(folder):
    with following(folder, ["tensorboard"]) as follower:
        assert problems(folder, follower.send()) == []


def test_two_do_not_send_at_once(folder):
    refused = pytest.raises(RecordError, match="another process is sending from it; wait until that ends")
    with following(folder, ["tensorboard"]), refused, following(folder, ["tensorboard"]):
        pass
