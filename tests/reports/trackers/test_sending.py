import pytest

from bench.record.errors import RecordError
from reports.trackers import sending
from reports.trackers.sending import Sender, lacking

CELLS = 4


class Fake:
    """A tracker that fails where it is told to."""

    place = "nowhere"

    def __init__(self):
        self.got, self.fails = [], False

    def send(self, entry):
        if self.fails:
            raise ConnectionError("no route\nto host")
        self.got.append(entry.config["name"])


@pytest.fixture
def trackers(monkeypatch):
    found = {"wandb": Fake(), "mlflow": Fake()}
    monkeypatch.setattr(sending, "tracker", lambda name, folder: found[name])
    return found


def test_nothing_is_sent_twice_and_what_changed_is_sent_anew(folder, trackers, changed):
    told = Sender(folder, ["wandb"]).send()
    assert [(each.sent, each.had, each.lacks, each.place) for each in told] == [(CELLS, 0, 0, "nowhere")]
    assert [(each.sent, each.had) for each in Sender(folder, ["wandb"]).send()] == [(0, CELLS)]
    changed("full")
    assert [(each.sent, each.had) for each in Sender(folder, ["wandb"]).send()] == [(1, CELLS - 1)]
    assert trackers["wandb"].got[CELLS:] == ["full"]


def test_a_sender_reads_on(folder, trackers, changed):
    sender = Sender(folder, ["wandb"])
    sender.send()
    sender.send(changed("full"))
    assert trackers["wandb"].got[CELLS:] == ["full"]


def test_a_tracker_that_fails_in_the_middle_stops_neither_the_others_nor_what_was_noted(folder, trackers):
    sender = Sender(folder, ["wandb", "mlflow"])
    sender.send("minilm/stdlib-topics/1/full(lr=0.1)")
    trackers["wandb"].fails = True
    wandb, mlflow = sender.send("minilm/stdlib-topics/1/full")
    assert (wandb.lacks, wandb.why) == (2, "ConnectionError: no route")
    assert (mlflow.sent, mlflow.lacks) == (2, 0)
    assert lacking(folder, ["wandb", "mlflow"]) == {"wandb": 3, "mlflow": 1}
    trackers["wandb"].fails = False
    assert sender.send("minilm/stdlib-topics/1/full")[0].lacks == 2  # not tried again before the end
    wandb, mlflow = sender.send()
    assert (wandb.sent, wandb.had, wandb.lacks, wandb.why) == (3, 1, 0, "")
    assert (mlflow.sent, mlflow.had) == (1, 3)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 1}', '{"schema": 1, "sent": {"wandb": []}}', '{"schema": "x", "sent": {}}']
)
def test_a_damaged_note_names_the_file_and_the_mend(folder, text):
    (folder / "tracked.json").write_text(text)
    with pytest.raises(RecordError, match=r"tracked\.json: it is damaged; remove it, and `methodbench track"):
        Sender(folder, ["wandb"])


def test_a_newer_note_says_so(folder):
    (folder / "tracked.json").write_text('{"schema": 2, "sent": {}}')
    with pytest.raises(RecordError, match="`schema` is 2, and this version knows 1; upgrade"):
        Sender(folder, ["wandb"])
