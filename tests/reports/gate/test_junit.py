"""The structure is the one that Jenkins and junitparser know: https://github.com/windyroad/JUnit-Schema, with the counts
and `skipped` of https://github.com/testmoapp/junitxml."""

from xml.etree import ElementTree

import pytest
from junitparser import JUnitXml

from reports.gate import junit
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import LATENCY, MEMORY, SKIPPED, SLOWER

COUNTS = {"tests", "failures", "errors", "skipped"}
ATTRIBUTES = {
    "testsuites": (COUNTS, {"name", "time"}),
    "testsuite": (COUNTS | {"name"}, {"time", "timestamp"}),
    "properties": (set(), set()),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname"}, {"time"}),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "skipped": (set(), {"message", "type"}),
}
CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase"],  # in this order
    "properties": ["property"],
    "testcase": ["failure", "error", "skipped"],
}


def check_structure(element):
    needed, allowed = ATTRIBUTES[element.tag]
    assert needed <= set(element.attrib) <= needed | allowed
    kinds = [child.tag for child in element]
    order = CHILDREN.get(element.tag, [])
    assert kinds == sorted(kinds, key=order.index)
    assert element.tag != "testcase" or len(kinds) <= 1
    if "tests" in element.attrib:
        cases = list(element.iter("testcase"))
        assert int(element.attrib["tests"]) == len(cases)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.attrib[attribute]) == sum(case.find(tag) is not None for case in cases)
    for child in element:
        check_structure(child)


@pytest.mark.parametrize(
    "verdict",
    [verdicts.VERDICT, verdicts.hostile(), verdicts.many(), verdicts.of()],
    ids=["plain", "hostile", "many", "empty"],
)
def test_the_structure_is_junits(verdict):
    check_structure(ElementTree.fromstring(junit.xml(verdict)))


def test_junitparser_reads_a_case_for_each_recipe_and_metric():
    whole = JUnitXml.fromstring(junit.xml(verdicts.VERDICT).encode())
    assert (whole.tests, whole.failures, whole.errors, whole.skipped, whole.time) == (5, 1, 1, 1, 240.0)
    cases = {(suite.name, case.name): case for suite in whole for case in suite}
    assert set(cases) == {(check.recipe, check.metric) for check in verdicts.VERDICT.checks}
    assert cases["lora", "size_on_disk"].is_passed
    assert cases["full", "step_flops"].is_skipped
    assert cases["lora", "latency_1x16"].is_error
    (failure,) = cases["lora", "train_tokens_per_second"].result
    assert failure.type == "regression"
    assert failure.message == "lora is 5.1 % slower (4.3 to 5.9 %) in training throughput; 3% is allowed."
    assert "grew: aten::mm, 1.00 ms to 1.50 ms (+500 µs)" in failure.text.splitlines()
    assert "by wall time 6.0 % slower" in failure.text.splitlines()


def test_both_sides_are_properties_of_each_suite():
    for suite in JUnitXml.fromstring(junit.xml(verdicts.VERDICT).encode()):
        found = {each.name: each.value for each in suite.properties()}
        assert found["base.commit"] == "1111111"
        assert found["head.commit"] == "2222222+changes"
        assert found["head.module bench"] == "/head/bench/__init__.py"


@pytest.mark.parametrize("checks", [(), (SKIPPED,)], ids=["none", "skipped"])
def test_a_gate_that_checked_nothing_is_not_green(checks):
    whole = JUnitXml.fromstring(junit.xml(verdicts.of(*checks)).encode())
    assert whole.errors == 1


def test_with_a_doubt_nothing_is_green():
    whole = JUnitXml.fromstring(
        junit.xml(verdicts.of(MEMORY, LATENCY, SLOWER, doubts=("The clock changed.",))).encode()
    )
    assert (whole.failures, whole.errors) == (1, 2)
