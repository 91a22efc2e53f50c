"""Damage inside a record that is whole JSON: the line is left out, with a warning, and the rest is reported."""

import copy
import json

import pytest

import reports
from bench.compare.compare import compare
from bench.record.errors import RecordError
from bench.record.frame import frame
from bench.record.line import FILE
from bench.record.reading import read
from reports import figures, sentences
from tests import synthetic

WRONG = [None, "", -1, 0, [], {}, [[]], {"x": 1}, float("inf"), 1e308, -1e308, True, "x", 2**70, 1e-310]


def lines():
    """A run with all that a record can hold."""
    methods = {name: synthetic.METHODS[name] for name in ("full", "int8", "adamw, lr too high", "two GPUs")}
    found = synthetic.records(methods, seeds=(0, 1), items=4, steps=4)
    divided = synthetic.divided()
    divided.runs[0]["title"] = "Divided"
    compressed = synthetic.compressed({"nf4": 0.5}, items=4, steps=4)
    compressed.runs[0]["title"] = "Compressed"
    whole = []
    for each in (found, divided, compressed):
        whole += [*each.runs, *each.nodes.values()]
    for node in whole:
        if node["kind"] == "node":
            node |= {"single_process": node["id"], "absent": {"accuracy": "why"}, "gpus": [{"name": "H", "uuid": "u"}]}
            node["retained"] = {when: {"extra": {"nats": 2.0, "tokens": 3}} for when in ("before", "after")}
            if node.get("training"):
                node["training"]["figures"] = {"compile_seconds": 3.0}
        else:
            node["notes"] = [{"model": "minilm", "task": "stdlib-topics", "text": "a note"}]
    whole = json.loads(json.dumps(whole))
    # One of each kind is damaged; the others stand beside it.
    last = {}
    for number, line in enumerate(whole):
        last[line["kind"], line.get("stage"), line.get("title")] = number
    return whole, sorted(last.values())


def places(value, path=()):
    """Where something is inside `value`; of a list the first alone, for the others are like it."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def replaced(value, path, by):
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    if by is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = by
    return changed


@pytest.fixture
def everything(monkeypatch):
    """Makes all that is made of records; figures, which take most of the time, where they are asked for."""
    monkeypatch.setattr(figures, "runtime", lambda: "")
    drawings = figures.drawings

    def everything(folder, draw):
        monkeypatch.setattr(figures, "drawings", drawings if draw else lambda comparison, **_: [])
        found = reports.comparisons(read(folder))
        for format in reports.FORMATS:
            reports.render_comparisons(found, format)
        frame(folder)

    return everything


def _fuzz(everything, folder, every, draw):
    whole, damaged = lines()
    cases = [(n, path, by) for n in damaged for path in places(whole[n]) for by in (*WRONG, KeyError)]
    assert len(cases) > 5000
    text = [json.dumps({"schema": 1, **line}) for line in whole]
    for count, (number, path, by) in enumerate(cases[::every]):
        changed = json.dumps({"schema": 1, **replaced(whole[number], path, by)})
        (folder / FILE).write_text("\n".join([*text[:number], changed, *text[number + 1 :]]), encoding="utf-8")
        try:
            everything(folder, count % draw == 0)
        except RecordError:
            pass
        except Exception as error:
            raise AssertionError(f"{path} of {whole[number].get('stage', 'a run')} as {by!r}") from error


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_value_in_any_place_ends_a_report(everything, tmp_path):
    _fuzz(everything, tmp_path, every=1, draw=20)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_values_in_some_places_end_no_report(everything, tmp_path):
    _fuzz(everything, tmp_path, every=131, draw=20)


def test_a_damaged_line_is_left_out_and_named(tmp_path):
    found = synthetic.records({"full": synthetic.Method("full"), "int8": synthetic.METHODS["int8"]}, seeds=(0,))
    node = next(node for node in found.nodes.values() if node["depth"])
    node["latency"][0]["values"][2] = -1
    synthetic.write(found, tmp_path)
    (comparison,) = compare(read(tmp_path))
    assert {row.name: row.status for row in comparison.rows} == {"full": "ok", "int8": "not run"}
    (warning,) = [text for text in sentences.warnings(comparison) if "left out" in text]
    assert (
        f"{FILE}:3: this line is left out: it is damaged inside, at latency.0.values.2: input should be greater"
        in warning
    )


def test_a_folder_of_damaged_lines_alone_says_so(tmp_path):
    found = synthetic.records({"full": synthetic.Method("full")}, seeds=(0,))
    found.runs[0]["cells"] = None
    synthetic.write(found, tmp_path)
    with pytest.raises(RecordError, match=r"no whole record of a run.*damaged inside, at cells"):
        reports.render(tmp_path, "md")


def test_what_commands_a_terminal_reaches_no_report(tmp_path):
    evil = "\x1b[2J\x1b]0;x\x07\x9b31m\x00\ud800"
    methods = {"a@@": synthetic.Method("full@@"), "b": synthetic.Method("int8", status="failed", reason="@@", log="@@")}
    found = synthetic.records(methods, seeds=(0,), title="title@@")
    found.runs[0]["environment"] = {"machine": {"cpu@@": "@@"}}
    file = synthetic.write(found, tmp_path) / FILE
    file.write_text(file.read_text().replace("@@", json.dumps(evil)[1:-1]))
    for format in reports.FORMATS:
        text = reports.render(tmp_path, format)
        assert "title" in text
        assert not set(text) & {chr(code) for code in (*range(9), 11, 12, *range(14, 32), *range(127, 160), 0xD800)}
    assert {path.name for path in reports.write(tmp_path, reports.FORMATS, tmp_path)} >= {"report.html", "report.txt"}
