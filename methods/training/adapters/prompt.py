"""Prompt tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from bench.plan.context import PlanContext
from bench.recipe.declarations import Width
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim, named_tensors
from methods import _added, _peft
from methods._models import own_rows, tokens

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class Prompt(Trainer):
    """Train the embeddings of `n` virtual tokens that stand before the text.

    They start as those of random words, one of the paper's two ways. They take positions, but count in no throughput.
    A classifier that reads the first token reads the first virtual one, as PEFT has it. The rate is far above that of
    weights (the paper's is 0.3, with Adafactor), and is not tuned. Built on PEFT's ``PromptTuningConfig``:
    https://huggingface.co/docs/peft/package_reference/prompt_tuning
    """

    name = "prompt"
    paper = "https://arxiv.org/abs/2104.08691"
    example = "prompt(20)"
    needs = ("peft",)
    adds = frozenset({"adapter"})
    refuses = _peft.REFUSES

    n: Width
    lr: Annotated[float, Gt(0)] = 1e-2
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    @property
    def virtual_tokens(self) -> int:
        """All of them."""
        return self.n

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It must be a model whose head can tell text from padding without its ids, and that reads one row of tokens."""
        if context.structure.encoder_decoder and not context.task.new_head:
            yield f"PEFT makes a {context.model} model two prompts, of which its encoder reads one; use lora"
        yield from own_rows(context)
        yield from tokens(context)
        yield from _peft.without_prompts(context)
        if context.task.new_head and context.structure.needs_ids:
            yield (
                f"PEFT gives a {context.model} classifier embeddings in place of token ids, from which it cannot tell "
                "the last token from the padding; use prefix, or a model like BERT"
            )

    def on_model(self, training: Training) -> None:
        """Put the prompt on."""
        config = _peft.config(
            training,
            "PromptTuningConfig",
            num_virtual_tokens=self.n,
            prompt_tuning_init="SAMPLE_VOCAB",
            **_peft.sizes(training),
        )
        _peft.attach(training, config)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The base is bit-identical, the prompt has n·hidden weights, and the blocks see n more tokens."""
        from bench.models.architecture import blocks

        yield from _added.claims(before, work, "prompt_encoder", every=True)
        table = _peft.virtual_tokens(work.model)
        count = 0 if table is None else table.numel()
        seen: list[torch.Size] = []
        # The last: the first may be given what is not yet a vector for each token.
        last = blocks(work.model)[-1]
        hook = last.register_forward_pre_hook(
            lambda module, args, named: seen.append(_hidden(args, named)), with_kwargs=True
        )
        gradient = None if table is None else _peft.probe_gradient(work, table)
        hook.remove()
        length = work.probe.inputs["input_ids"].shape[1]
        more = {shape[1] - length for shape in seen}
        formula = self.n * (seen[0][2] if seen else 0)
        yield Claim("the prompt has n·hidden weights", 0 < count == formula, f"{count:,} against {formula:,}")
        yield Claim(f"the blocks see {self.n} more tokens", more == {self.n}, f"{sorted(more)} more than {length}")
        reached = 0 if gradient is None else int(gradient.any(-1).sum())
        yield Claim("the loss depends on each of them", reached == self.n, f"a gradient reaches {reached} of {self.n}")
        yield _peft.told(work)
        yield from self._began(before, work)

    def _began(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Of one random vector's products with the first vectors each is that with a word's, and each is another now."""
        import torch

        from bench.models.architecture import embeddings

        names = {id(tensor): name for name, tensor in named_tensors(work.model).items()}
        known = before.projections.get(names.get(id(embeddings(work.model).weight), ""))
        name = names.get(id(_peft.virtual_tokens(work.model)), "")
        began, now = work.began.get(name), work.after.projections.get(name)
        if known is None or now is None or not isinstance(began, torch.Tensor):
            yield Claim("the vectors began as those of words", False, "nothing tells")
            return
        apart = (began[:, None] - known[None]).abs().amin(1)
        words = int((apart <= 1e-5 * known.abs().max()).sum())
        distinct = len(set(began.tolist()))
        yield Claim(
            "the vectors began as those of words, drawn one by one",
            words == self.n and (self.n < 3 or distinct > 1),
            f"{words} of {self.n}, {distinct} different",
        )
        moved = int((began != now).sum())
        yield Claim("each of them moved", moved == self.n, f"{moved} of {self.n}")


def _hidden(args: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> torch.Size:
    return (args[0] if args else named["hidden_states"]).shape
