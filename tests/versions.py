"""What is known not to work with the installed versions, said apart from what the methods declare of it."""

from importlib.metadata import version

import pytest
from packaging.version import Version

from bench.recipe import recipe

PREFIX_ON_CLASSIFIERS = Version(version("transformers")) < Version("5.24") or Version(version("peft")) > Version(
    "0.21.2"
)
"""Whether PEFT puts prefixes on a model with a new head."""


def skip_broken(text: str, kind: str) -> None:
    """Skip the test where planning must refuse `text` on a task of `kind` for the installed versions."""
    names = {method.name for stage in recipe.parse(text).stages for method in stage.methods}
    if "prefix" in names and kind != "causal_lm" and not PREFIX_ON_CLASSIFIERS:
        pytest.skip("PEFT and transformers as installed have no prefix on classifiers")
