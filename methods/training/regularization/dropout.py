"""The probability of dropout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

from bench.recipe.method import Modifier
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class Dropout(Modifier):
    """Train with a dropout probability of `p` wherever the model has dropout, in attention too.

    An adapter's own dropout is among them where it has one. Without this method the model's configuration decides,
    0.1 in BERT and 0 in Llama. Afterwards the old probabilities are back.
    """

    name = "dropout"
    traits = frozenset({"sets_dropout"})
    paper = "https://jmlr.org/papers/v15/srivastava14a.html"
    example = "full + dropout(0.2)"
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})

    p: Annotated[float, Ge(0), Lt(1)]

    def on_model(self, training: Training) -> None:
        """Set it everywhere."""
        from bench.models.architecture import dropouts

        training.state[self.name] = old = list(dropouts(training.model))
        for module, name, _ in old:
            setattr(module, name, self.p)

    def on_end(self, training: Training) -> None:
        """Put the old ones back."""
        for module, name, p in training.state.get(self.name, ()):
            setattr(module, name, p)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Every dropout that runs in a training step's forward pass, in attention too, has the probability."""
        import torch
        from torch.overrides import TorchFunctionMode

        ran: list[float] = []

        class Watch(TorchFunctionMode):
            def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                kwargs = kwargs or {}
                if not torch.is_grad_enabled():  # a teacher's pass: that is not what trains
                    pass
                elif function is torch.nn.functional.dropout:
                    ran.append(kwargs.get("p", args[1] if len(args) > 1 else 0.5))
                elif function is torch.nn.functional.scaled_dot_product_attention:
                    ran.append(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
                return function(*args, **kwargs)

        with torch.random.fork_rng(), Watch():
            work.loss(work.probe)
        seen = ", ".join(f"{p:g}" for p in sorted(set(ran))) or "none"
        yield Claim(
            f"dropout drops with a probability of {self.p:g}", set(ran) == {self.p}, f"{len(ran)} ran, with {seen}"
        )

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The old probabilities are back."""
        old = work.state.get(self.name, [])
        left = [name for module, name, p in old if getattr(module, name) != p]
        yield Claim("the old probabilities are back", bool(old) and not left, f"{len(left)} of {len(old)} are not")
