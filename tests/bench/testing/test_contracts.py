"""The contract itself: what it takes, and that it fails where it should."""

import pytest

from bench.recipe import registry
from bench.recipe.method import Method, Transform
from bench.stage.evidence import Claim
from bench.testing import contract
from bench.testing.contracts import hooks_of


def test_a_name_that_is_not_registered_is_an_error_with_the_mend():
    with pytest.raises(ValueError, match=r"no method `lorra` is registered; did you mean `lora`\?.*entry-points"):
        contract({"lorra": "lorra"})


def test_a_method_has_a_usual_recipe():
    with pytest.raises(ValueError, match="lora: give its usual recipe"):
        contract({"lora": {"on_model": "lora(r=2)"}})


def test_hooks_are_those_that_a_method_has_itself():
    methods = registry.methods()
    assert hooks_of(methods["weight_decay"]) == ["make_optimizer"]
    assert {"apply", "retention_evidence", "on_step"} <= set(hooks_of(methods["magnitude"]))
    assert {"save", "on_serve", "serving_evidence"} <= set(hooks_of(methods["onnx"]))


def test_every_hook_of_a_stages_process_is_sabotaged():
    from bench.testing.contracts import HOOKS

    planned = {"problems", "reads", "leaves_blocks", "virtual_tokens", "maintained"}
    language = {"build", "spell", "arguments_given", "overrides"}
    known = {name for kind in (Method, Transform) for name in vars(kind) if callable(getattr(kind, name))}
    hooks = {name for name in known if not name.startswith("_")} - planned - language
    assert hooks - {"evidence"} == set(HOOKS)  # of evidence, that it proves something is asked where the method works


def test_evidence_that_holds_whatever_happens_does_not_pass(tiny_bert, tmp_path, monkeypatch):
    cls = registry.methods()["weight_decay"]
    monkeypatch.setattr(cls, "evidence", lambda self, before, work: [Claim("all is well", True, "")])
    tests = contract({"weight_decay": "full + weight_decay(0.1)"})()
    with pytest.raises(AssertionError, match="ok"):
        tests.test_a_hook_that_does_nothing_ends_invalid(
            cls, "make_optimizer", "full + weight_decay(0.1)", tiny_bert, tmp_path, monkeypatch
        )


def counting(state):
    """A hook that makes each loss larger than the last, and counts in what `state` gives."""

    def wrap_loss(self, training, compute):
        counted = state(training)

        def larger(batch):
            counted.append(None)
            return compute(batch) * len(counted)

        return larger

    return wrap_loss


def test_a_method_that_counts_where_nobody_looks_is_found_out(tiny_bert, tmp_path, monkeypatch):
    cls = registry.methods()["weight_decay"]
    text = "full + weight_decay(0.1)"
    tests = contract({"weight_decay": text})()

    def check():
        tests.test_a_training_goes_on_after_a_kill_as_if_there_had_been_none(text, tiny_bert, tmp_path, monkeypatch)

    monkeypatch.setattr(cls, "wrap_loss", counting(lambda training: []))
    with pytest.raises(AssertionError):
        check()
    monkeypatch.setattr(cls, "begins_anew", "it counts where nobody looks")
    check()
    monkeypatch.setattr(cls, "begins_anew", "")
    monkeypatch.setattr(cls, "wrap_loss", counting(lambda training: training.state.setdefault("count", [])))
    check()
