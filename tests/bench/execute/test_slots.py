"""Room for stages side by side."""

import dataclasses

from bench.execute.slots import Slots, slots
from tests.subjects import HERE


def test_a_cpu_has_room_for_one_unless_asked_for_more():
    alone = slots(HERE, None)
    assert alone.take(4) == ()
    assert alone.take(1) is None
    alone.give(())
    assert alone.take(1) == ()
    two = slots(HERE, 2)
    assert [two.take(1), two.take(1), two.take(1)] == [(), (), None]


def test_each_process_has_a_gpu_of_its_own():
    room = Slots(9, ["0", "1", "2"])
    first, second = room.take(2), room.take(1)
    assert sorted([*first, *second]) == ["0", "1", "2"]
    assert room.take(1) is None
    room.give(first)
    assert room.take(3) is None
    assert room.take(2) == first


def test_stages_of_one_home_have_the_same_gpus_each_time_and_wait_for_them():
    room = Slots(4, ["0", "1", "2"])
    for _ in range(3):  # one after the other, and never another card
        assert room.take(1, home=0) == ("0",)
        assert room.take(1, home=0) is None
        assert room.take(1, home=4) == ("1",)
        room.give(("1",))
        room.give(("0",))
    assert room.take(2, home=2) == ("2", "0")
    assert room.take(1, home=0) is None, "in use"
    assert room.take(1, home=1) == ("1",)
    room.give(("2", "0"))
    assert room.take(3, home=0) is None
    room.give(("1",))
    assert room.take(3, home=0) == ("0", "1", "2")
    assert Slots(1).take(1, home=5) == ()


def test_gpus_are_named_as_they_are_visible(monkeypatch):
    machine = dataclasses.replace(HERE, device="cuda", gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert slots(machine, None).take(2) == ("GPU-a", "GPU-b")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    room = slots(machine, 1)
    assert room.take(1) == ("0",)
    assert room.take(1) is None, "one job was asked for"
