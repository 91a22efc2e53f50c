"""Metrics that others register, and what is wrong with some."""

import contextlib
import subprocess
import sys
from types import ModuleType

import pytest

from bench.metrics import registry
from bench.metrics.metric import Metric, MetricError, MetricSeries, of_method, of_task
from bench.recipe import registry as methods
from bench.recipe.registry import RegistryError
from bench.tasks.registry import tasks
from tests import synthetic
from tests.packages import installed


def make(name="exact_match", **keys):
    given = {"title": "Exact match", "unit": "fraction", "better": "higher", "family": "quality", "formula": "f"}
    return Metric(**({"name": name, "read": of_task(name)} | given | keys))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Register what a module of another package has, by the entry point ``other = VALUE``."""

    with contextlib.ExitStack() as until_the_end:

        def register(value="others_metrics", **variables):
            module = ModuleType("others_metrics")
            vars(module).update(variables)
            monkeypatch.setitem(sys.modules, "others_metrics", module)
            until_the_end.enter_context(installed(tmp_path, {"methodbench.metrics": {"other": value}}))

        yield register


def test_a_variable_a_list_and_one_metric_alone_are_registered(install):
    install(ONE=make("one"), SEVERAL=[make("two"), make("three")])
    assert {"one", "two", "three", "accuracy"} <= registry.metrics().keys()
    assert registry.metric("two").name == "two"


def test_an_entry_point_may_name_one_metric_of_a_module(install):
    install("others_metrics:ONE", ONE=make("one"), OTHER=make("two"))
    assert "one" in registry.metrics()
    assert "two" not in registry.metrics()


def test_metrics_stand_by_their_families(install):
    install(LAST=make("slow", family="time"), FIRST=make("own_match"))
    found = [metric.family for metric in registry.metrics().values()]
    assert sorted(found, key=found.index) == found
    assert found[0] == "quality"


def test_two_of_one_name_are_refused_with_both_places(install):
    install(MINE=make("accuracy"))
    with pytest.raises(RegistryError, match="`accuracy` is registered twice") as error:
        registry.metrics()
    assert all(place in str(error.value) for place in ("bench.metrics.families.quality", "others_metrics"))


def test_a_name_that_a_series_makes_is_refused(install):
    install(MINE=make("latency_1x16"))
    with pytest.raises(RegistryError, match="`latency_1x16` has a name of the series `latency`"):
        registry.metrics()


def test_an_entry_point_that_does_not_load_is_named(install):
    install("others_metrics:NOT_THERE")
    with pytest.raises(RegistryError, match=r"`other = others_metrics:NOT_THERE` of methodbench.metrics does not load"):
        registry.metrics()


def test_a_series_of_others_is_measured_and_found_by_name(install):
    def named(name):
        return make(name) if name.startswith("deep_") else None

    install(DEEP=MetricSeries("deep", named, lambda records: [make(f"deep_{len(record)}") for record in records]))
    assert registry.metric("deep_3").name == "deep_3"
    assert registry.measured([{"status": "ok"}])[-1].name == "deep_1"


def test_an_unknown_name_is_no_metric():
    with pytest.raises(KeyError):
        registry.metric("no_such_thing")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"better": "up"}, "`exact_match`: better is one of higher, lower, found 'up'"),
        ({"family": "speed"}, "family is one of quality, throughput"),
        ({"about": "everything"}, "about is one of model, training, compression"),
        ({"unit": "%"}, "`exact_match`: unit `%` is written `fraction`"),
        ({"name": "Exact match"}, "metric `Exact match`: a name is of lower case letters"),
    ],
)
def test_what_reports_cannot_show_is_no_metric(keys, said):
    with pytest.raises(MetricError, match=said):
        make(**keys)


def test_a_methods_figure_is_the_sum_over_trainings_and_transforms():
    path = [
        {"training": {"figures": {"swaps": 2.0}}},
        {"transform": {"peak_bytes": 1, "figures": {"swaps": 3.0}}},
        {"training": {"figures": {}}},
    ]
    assert of_method("swaps")(path) == 5.0
    assert of_method("swaps")(path[2:]) is None


def test_what_is_declared_is_registered():
    for cls in methods.methods().values():
        assert registry.unregistered(cls.figures) == [], cls
    for task in tasks().values():
        assert registry.unregistered(task.metrics) == [], task
        assert task.primary in task.metrics


def test_a_figure_that_no_metric_is_registered_for_is_named_with_the_mend():
    (said,) = registry.unregistered(["acuracy"])
    assert said.startswith("it declares `acuracy`, and no metric of that name is registered; did you mean `accuracy`?")


def test_every_figure_of_records_is_known():
    nodes = synthetic.records().nodes.values()
    assert not set().union(*map(registry.unknown, nodes))
    assert registry.unknown({"quality": {"metrics": {"accuracy": 1.0, "novel": 2.0}}}) == {"novel"}
    assert registry.unknown({"training": {"figures": {"compile_seconds": 1.0, "new": 2.0}}}) == {"new"}


def test_what_is_counted_is_exact_and_what_is_measured_is_not():
    assert registry.metric("weight_bytes").exact
    assert not registry.metric("train_peak_bytes").exact
    assert not registry.metric("latency_1x1").exact


def test_reading_metrics_imports_no_torch():
    code = "import sys; from bench.metrics.registry import metrics; assert metrics()['compile_seconds']; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda path: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda path: path[-1]["nothing"], "KeyError: 'nothing'"),
        (lambda path: "far", "ValueError: could not convert"),
    ],
)
def test_a_metric_that_cannot_be_read_is_named(read, says):
    broken = Metric("mine", "Mine", "s", "lower", "time", "as it comes", read)
    with pytest.raises(MetricError, match=r"metric `mine` cannot be read.*mend its `read`") as raised:
        broken.value([{}])
    assert says in str(raised.value)
    assert Metric("mine", "Mine", "s", "lower", "time", "as it comes", lambda path: None).value([{}]) is None
