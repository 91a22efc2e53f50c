"""A proof that says nothing is none, and what is shipped is what `save` says."""

import pytest
from torch import nn

from bench.recipe import registry
from bench.stage import evidence
from bench.stage.evidence import Claim
from bench.stage.stage import _saver


@pytest.mark.parametrize("hook", ["evidence", "removal_evidence", "retention_evidence", "serving_evidence"])
def test_a_hook_that_claims_nothing_is_a_claim_that_does_not_hold(hook, monkeypatch):
    method = registry.methods()["magnitude"](0.5)
    monkeypatch.setattr(type(method), hook, lambda self, *given: ())
    ((name, claim),) = evidence.claims(method, hook, None, None)
    assert (name, claim.holds) == ("magnitude", False)
    assert hook in claim.text


def test_a_hook_that_a_method_does_not_have_need_not_claim_anything(monkeypatch):
    assert evidence.claims(registry.methods()["magnitude"](0.5), "removal_evidence", None) == []
    claim = Claim("it is", True, "")
    monkeypatch.setattr(registry.methods()["magnitude"], "removal_evidence", lambda self, work: [claim])
    assert evidence.claims(registry.methods()["magnitude"](0.5), "removal_evidence", None) == [("magnitude", claim)]


@pytest.mark.parametrize(
    ("said", "writes", "holds"),
    [(True, True, True), (False, False, True), (True, False, False), (False, True, False), (None, False, False)],
)
def test_what_save_says_is_what_it_did(said, writes, holds, tmp_path):
    class Saves:
        name = "saves"

        def save(self, model, folder):
            if writes:
                (folder / "model.pt").write_bytes(b"weights")
            return said

    unsaid: list[tuple[str, Claim]] = []
    assert _saver(Saves(), unsaid)(nn.Linear(1, 1), tmp_path) is writes
    assert (not unsaid) is holds
    assert not any(claim.holds for _, claim in unsaid)
