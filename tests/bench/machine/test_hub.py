from __future__ import annotations

import os
from unittest import mock

import pytest

from bench.machine import hub


@pytest.mark.parametrize(
    ("said", "offline"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "yes"}, True),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({"TRANSFORMERS_OFFLINE": "1"}, True),
    ],
)
def test_what_the_user_said_reaches_stages_beside_our_default(said: dict[str, str], offline: bool) -> None:
    with mock.patch.dict(os.environ, said, clear=True):
        assert hub.offline() is offline
        given = hub.for_stages(os.environ)
        assert given["HF_HUB_OFFLINE"] == said.get("HF_HUB_OFFLINE", "1")
        os.environ.update(given)
        assert hub.offline() is offline
        assert hub.for_stages(os.environ) == given


def test_the_hub_is_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with mock.patch.dict(os.environ, clear=True):
        with hub.asked():
            assert not constants.is_offline_mode()
        assert constants.is_offline_mode()
        os.environ["HF_HUB_OFFLINE"] = "1"
        with hub.asked():
            assert constants.is_offline_mode()
