"""Read back by TensorBoard."""

import pytest

from reports.trackers.sending import Sender

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder, cell):
    found = accumulator.EventAccumulator(
        str(folder / "tensorboard/Which-method-for-topics/minilm/stdlib-topics/1" / cell), size_guidance={"scalars": 0}
    )
    return found.Reload()


def test_the_curve_the_figures_and_the_settings_are_read_back(folder):
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    from bench.record.reading import read as records

    told = Sender(folder, ["tensorboard"]).send()
    assert told[0].place == f"`tensorboard --logdir {folder / 'tensorboard'}` shows them"
    found, node = read(folder, "full"), records(folder).nodes["minilm/stdlib-topics/1/full"]
    loss = found.Scalars("training/loss")
    assert [event.step for event in loss] == list(range(1, 61))
    assert [event.value for event in loss] == pytest.approx(node.training.losses, rel=1e-6)
    assert [event.value for event in found.Scalars("accuracy")] == pytest.approx([node.quality.metrics["accuracy"]])
    content = found.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content[SESSION_START_INFO_TAG]).session_start_info
    assert start.hparams["recipe"].string_value == "full"
    assert start.hparams["seed"].number_value == 1
    end = HParamsPluginData.FromString(content[SESSION_END_INFO_TAG]).session_end_info
    assert end.status == 1  # STATUS_SUCCESS
    failed = read(folder, "full(lr=0.1)").PluginTagToContent("hparams")
    assert HParamsPluginData.FromString(failed[SESSION_END_INFO_TAG]).session_end_info.status == 2  # STATUS_FAILURE


def test_what_changed_takes_the_place_of_what_was_there(folder, changed):
    Sender(folder, ["tensorboard"]).send()
    before = read(folder, "full").Scalars("latency_1x16")[0].value
    changed("full")
    Sender(folder, ["tensorboard"]).send()
    assert [event.value for event in read(folder, "full").Scalars("latency_1x16")] == pytest.approx([2 * before])


def test_a_folder_that_cannot_be_written_is_told(folder):
    (folder / "tensorboard").write_text("")
    told = Sender(folder, ["tensorboard"]).send()
    assert (told[0].sent, told[0].lacks) == (0, 4)
    assert told[0].why.startswith("NotADirectoryError")
