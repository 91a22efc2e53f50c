"""What methods say of models that they do not know. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.method import Place


def unknown(place: Place, models: Sequence[str]) -> Iterator[str]:
    """That the model is of none of the types `models`, which a method is tested on."""
    if place.model not in models:
        yield f"a model of type {place.model} may be built otherwise than those that it knows: {', '.join(models)}"
