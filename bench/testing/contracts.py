"""One contract for every method: it works, and when one of its hooks does nothing it ends ``invalid``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.recipe import recipe, registry
from bench.recipe.errors import nearest
from bench.recipe.method import TRAINING_HOOKS, Method, Modifier, Trainer, Transform
from bench.testing import jobs

HOOKS = (*TRAINING_HOOKS, "apply", "save", "retention_evidence", "removal_evidence", "on_serve", "serving_evidence")
"""The hooks that are sabotaged, where a method has them."""

SERVING = {"on_serve", "serving_evidence"}
"""Those that are called in the process that measures inference."""

Cases = str | Mapping[str, str]


def contract(methods: Mapping[str, Cases], *, slow: Collection[str] = ()) -> type:
    """A class of tests that hold `methods` to the contract; give it a name that begins with ``Test``.

    ``TestContract = contract({"nudge": "full + nudge(0.5)"})`` is all that a package's test of its method needs.

    Args:
        methods: by the method's name, a recipe in which it takes part; or several by what they are of: ``""`` is the
            usual one, one under a hook's name is run with that hook sabotaged, all must work. None at all: not tested.
        slow: methods whose tests are marked ``slow``.

    Raises:
        ValueError: no method of that name is registered, or its recipes have no usual one.
    """
    recipes = {name: {"": given} if isinstance(given, str) else dict(given) for name, given in methods.items()}
    for name, given in recipes.items():
        _checked(name, given)
    known = {name: registry.methods()[name] for name in recipes}

    def marks(name: str) -> list[pytest.MarkDecorator]:
        return [pytest.mark.slow] if name in slow else []

    def sabotages() -> Iterator[Any]:
        for name, cls in known.items():
            for hook in hooks_of(cls) if recipes[name] else ():
                text = recipes[name].get(hook, recipes[name][""])
                yield pytest.param(cls, hook, text, id=f"{name}.{hook}", marks=marks(name))

    def trainings() -> Iterator[Any]:
        for name in recipes:
            for number, text in enumerate(dict.fromkeys(recipes[name].values())):
                if jobs.trains_alone(text):
                    # Recipes that are for one hook each are many, and most are like the first.
                    slowly = [pytest.mark.slow] if number else marks(name)
                    yield pytest.param(text, id=f"{name}: {text}", marks=slowly)

    class Contract:
        """What each method must do."""

        def test_every_method_is_of_one_kind_and_changes_something(self) -> None:
            for name, cls in known.items():
                assert sum(issubclass(cls, kind) for kind in (Trainer, Modifier, Transform)) == 1, name
                assert hooks_of(cls), f"{name} does nothing"

        @pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in recipes])
        def test_it_works(self, name: str, tiny_bert: Path, tmp_path: Path) -> None:
            serve = not SERVING.isdisjoint(hooks_of(known[name]))
            for text in dict.fromkeys(recipes[name].values()):
                status, reason, records = jobs.run(text, tiny_bert, tmp_path, serve=serve)
                assert status == "ok", reason
                proven = {claim["method"] for record in records for claim in record["evidence"]}
                assert name in proven

        @pytest.mark.parametrize(("cls", "hook", "text"), list(sabotages()))
        def test_a_hook_that_does_nothing_ends_invalid(
            self,
            cls: type[Method],
            hook: str,
            text: str,
            tiny_bert: Path,
            tmp_path: Path,
            monkeypatch: pytest.MonkeyPatch,
        ) -> None:
            monkeypatch.setattr(cls, hook, jobs.nothing(hook))
            serve = hook in SERVING
            status, reason, _ = jobs.run(text, tiny_bert, tmp_path, without=(cls.name, hook), serve=serve)
            assert status == "invalid", f"{status} {reason}"
            assert cls.name in reason

        @pytest.mark.parametrize("text", list(trainings()))
        def test_a_training_goes_on_after_a_kill_as_if_there_had_been_none(
            self, text: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
        ) -> None:
            at_once, stopped = jobs.trained_in_pieces(text, tiny_bert, tmp_path, monkeypatch)
            anew = any(method.begins_anew for method in recipe.parse(text).stages[-1].methods)
            assert stopped.resumed == ([] if anew else [3])
            if not anew:
                assert stopped.losses == at_once.losses
                assert stopped.tensors == at_once.tensors

    return Contract


def hooks_of(cls: type[Method]) -> list[str]:
    """The hooks that a method has, its own or from a base that it shares with others."""
    kind = next((kind for kind in (Trainer, Modifier, Transform) if issubclass(cls, kind)), Method)
    return [hook for hook in HOOKS if getattr(cls, hook, None) is not getattr(kind, hook, None)]


def _checked(name: str, recipes: Mapping[str, str]) -> None:
    if name not in registry.methods():
        raise ValueError(
            f"no method `{name}` is registered{nearest(name, registry.methods())}; "
            'a package names its methods under [project.entry-points."methodbench.methods"] and is installed'
        )
    if recipes and "" not in recipes:
        raise ValueError(f'{name}: give its usual recipe, under ""')
