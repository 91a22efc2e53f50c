"""``methodbench schema``."""

import json

from tests.command import methodbench


def test_a_suite_and_a_record_have_a_schema():
    assert json.loads(methodbench("schema"))["title"] == "Suite"
    assert {"Run", "Node", "End"} <= json.loads(methodbench("schema", "record"))["$defs"].keys()
