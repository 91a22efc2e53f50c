"""For tests of methods, those of other packages too: the contract, tiny models, an executor that runs nothing.

pytest loads :mod:`bench.testing.plugin` wherever this package is installed, so nothing is imported here before it is
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.testing.contracts import contract
    from bench.testing.fake import Fake

__all__ = ["Fake", "contract"]


def __getattr__(name: str) -> Any:
    if name == "contract":
        from bench.testing.contracts import contract

        return contract
    if name == "Fake":
        from bench.testing.fake import Fake

        return Fake
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
