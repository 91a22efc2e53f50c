import json
import re

from reports import rendering

EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> \"'&"


def test_embedded_json_reads_back():
    value = {"a": EVIL, "b": [1.5, None, "\u2028"]}
    text = str(rendering.embedded(value))
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == value


def test_names_in_a_sentence_are_marked_and_escaped():
    assert str(rendering.sentence("of `a<b` and c")) == "of <b class=name>a&lt;b</b> and c"
