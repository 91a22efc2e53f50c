"""Knowledge distillation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim, digest, take
from methods import _classes, _structured
from methods._models import known, masked_items, one_stack

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Criterion, Training
    from bench.tasks.base import Batch
    from methods.training.objectives._shared.distillation import Teaching


_TEACHERS: frozenset[Fact] = frozenset(
    {"adapter", "mergeable", "quantized", "inference_only", "half", "exported", "sparse", "sparse_rows"}
)
_SHAPES: frozenset[Fact] = frozenset({"factored", "reshaped", "uneven"})


@dataclass(frozen=True)
class Distill(Trainer):
    """Train a smaller student on the task and on the answers of the model so far, and go on with the student.

    The loss is alpha · T² · KL(teacher/T ‖ student/T) + (1 − alpha) · the task's own (Hinton et al.). The student has
    ``layers`` of the teacher's blocks, evenly spread, with its embeddings and head, as DistilBERT
    (https://arxiv.org/abs/1910.01108) starts; half of them where nothing is said. Or it is another ``student``: a
    registered model, or a directory seen from the suite's folder, with the same tokenizer; its head is new.

    ``match="hidden"`` adds the mean square difference of the blocks' outputs, uniformly mapped, through a learned
    projection that is dropped at the end (TinyBERT, https://arxiv.org/abs/1909.10351); ``match="attention"`` the
    divergence of the last blocks' attention maps (MiniLM, https://arxiv.org/abs/2002.10957), for which both models run
    plain attention instead of fused kernels while training: slower, and with the maps in memory.

    Temperature 2 is DistilBERT's. ``alpha`` weighs both losses alike; Hinton et al. found the most weight on the
    teacher best. The rate is that of full fine-tuning here, for every weight of the student trains. The teacher's
    forward pass is inside the clock, without gradients.
    """

    name = "distill"
    paper = "https://arxiv.org/abs/1503.02531"
    example = "full >> distill(layers=3)"
    refuses_beside = (
        ("softens_labels", "the teacher's answers are soft already, and {other} would smooth these too; leave it out"),
    )
    updates_all_weights = True
    replaces_model = True

    student: str | None = None
    layers: Annotated[int, Ge(1)] | None = None
    temperature: Annotated[float, Gt(0)] = 2.0
    alpha: Annotated[float, Gt(0), Le(1)] = 0.5
    match: Literal["logits", "hidden", "attention"] = "logits"
    lr: Annotated[float, Gt(0)] = 2e-4
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    @property
    def removes(self) -> frozenset[Fact]:
        """The teacher's own; a student that is made of its blocks has their shapes."""
        return _TEACHERS if self.student is None else _TEACHERS | _SHAPES

    @property
    def refuses(self) -> tuple[tuple[Fact, str], ...]:
        """What a student cannot be copied from, and a teacher that does not show what is to be matched."""
        reasons: list[tuple[Fact, str]] = []
        if self.student is None:
            plain = "the student copies plain blocks; fold the adapter first, as in `lora >> merge >> {method}`, or name a `student`"
            train = "the student copies blocks that must train; distill first, as in `full >> {method} >> …`, or name a `student`"
            reasons += [("adapter", plain), ("quantized", train), ("inference_only", train), ("half", train)]
        if self.match != "logits":
            alone = f'the teacher runs in another runtime, which shows its logits alone; leave out match="{self.match}"'
            reasons += [("exported", alone)]
        if self.match == "attention":
            maps = 'its attention is not made of plain layers here, whose maps could be compared; distill before that, or match="hidden"'
            reasons += [("factored", maps), ("inference_only", maps), ("half", maps)]
            reasons += [("adapter", "an adapter may add to what is attended to; fold it first, as in `lora >> merge`")]
        if self.match == "attention" and self.student is not None:
            heads = 'the model may have other heads than the student after such pruning; leave out match="attention"'
            reasons += [("uneven", heads)]
        return tuple(reasons)

    def problems(self, context: PlanContext) -> Iterator[str]:
        """A teacher that knows the task, and a student that can be made."""
        yield from _classes.problems(context)
        trainers = [stage.main for stage in context.before if isinstance(stage.main, Trainer)]
        if self.match != "logits":
            yield from _classes.one_text(context)
        new_head = context.task.new_head or context.structure.head == "new"
        if new_head and all("own_items" in trainer.traits for trainer in trainers):
            yield f"the teacher's head is untrained and has nothing to teach; train it first, as in `full >> {self}`"
        if self.student is None or self.match != "logits":
            yield from one_stack(context)
        if self.match != "logits":
            yield from masked_items(context)
        if self.match == "attention":
            yield from known(context, "attention")
        if self.student is not None:
            yield from self._named(context)
        elif self.layers is not None and (count := context.blocks) is not None and self.layers > count:
            yield f"the teacher has {count} blocks, of which the student cannot have {self.layers}"

    def _named(self, context: PlanContext) -> Iterator[str]:
        from bench.models import structure
        from bench.models.base import ModelError
        from bench.models.registry import open_model

        assert self.student is not None
        if self.layers is not None:
            yield "the student has `layers` of the teacher, or is another model by its name; give one of the two"
        try:
            model = open_model(self.student, context.suite_folder)
            problems, ours, theirs = model.problems(), model.config(), context.config
            tokens = [each.vocabulary() for each in (model, context.given) if each is not None]
        except ModelError as error:
            problems, ours, theirs, tokens = [str(error)], {}, {}, []
        yield from (f"student: {problem}" for problem in problems)
        if all(tokens) and any(each != tokens[0] for each in tokens):
            yield (
                f"the student {self.student} has another tokenizer than the model, and would read other tokens; "
                f"name a student with the same one, or give `layers`"
            )
        if (
            not problems
            and context.task.generates
            and structure.of(model, self.student, context.suite_folder, context.task.auto_class, {}).both_ways
        ):
            yield f"the student {self.student} reads in both directions, and cannot predict the next token"
        # A head that is not the task's own answers with the vocabulary's tokens.
        same = ["vocab_size"] * (not context.task.new_head) + ["num_attention_heads"] * (self.match == "attention")
        for key in same:
            if ours.get(key) != theirs.get(key):
                yield f"the student has {key} = {ours.get(key)} and the model {theirs.get(key)}; they must be the same"

    def leaves_blocks(self, count: int | None) -> int | None:
        """The student's."""
        if self.student is not None:
            return None
        return self.layers or (count and max(1, count // 2))

    def reads(self, suite_folder: Path) -> Mapping[str, str]:
        """The student's weights."""
        if self.student is None:
            return {}
        from bench.models.base import ModelError
        from bench.models.registry import open_model

        try:
            return {self.student: open_model(self.student, suite_folder).fingerprint()}
        except ModelError:  # it is refused, and `problems` says why
            return {self.student: "cannot be read"}

    def on_model(self, training: Training) -> None:
        """Make the student, and put it in the teacher's place."""
        from methods.training.objectives._shared import distillation

        teacher = training.model.eval()
        student = training.model = self._student(training, teacher)
        student.requires_grad_(True)
        training.state[f"{self.name} start"] = {name: digest(weight) for name, weight in student.named_parameters()}
        # Kernels for packed weights take what they were made for, and no autocast's.
        plain = not training.facts & {"quantized", "inference_only", "half"}
        teaching = training.state[self.name] = distillation.Teaching(teacher, autocast=plain)
        if self.match == "hidden":
            teaching.match = distillation.Hidden(student, teacher)
        if self.match == "attention":
            teaching.match = distillation.Attention(student, teacher)

    def wrap_criterion(self, training: Training, criterion: Criterion) -> Criterion:
        """Ask the teacher about every batch."""
        from methods.training.objectives._shared import distillation

        teaching: Teaching = training.state[self.name]

        def taught(outputs: Any, batch: Batch) -> torch.Tensor:
            student, teacher = (training.task.logits(each, batch) for each in (outputs, teaching.outputs(batch)))
            loss = self.alpha * distillation.soft_loss(student, teacher, self.temperature)
            if self.alpha < 1:
                loss = loss + (1 - self.alpha) * criterion(outputs, batch)
            return loss + teaching.match.loss(batch) if teaching.match else loss

        return taught

    def on_end(self, training: Training) -> None:
        """Let the teacher go, and what was only for training."""
        if (match := training.state.pop(self.name).match) is not None:
            match.remove()

    def save(self, model: nn.Module, folder: Path) -> bool:
        """Pickle a student of blocks whose shape the configuration cannot tell."""
        return _structured.save(model, folder)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The teacher is bit-identical, the student as small as said, trained, and its gradient is the teacher's doing."""
        import torch

        from methods.training.objectives._shared import distillation

        teaching: Teaching = work.state[self.name]
        teacher = teaching.teacher
        same = take(teacher, None).digests == before.digests
        yield Claim("the teacher is bit-identical", same, f"{len(before.digests)} tensors")
        drops = sum(module.training for module in teacher.modules())
        yield Claim("the teacher answers in evaluation mode", not drops, f"{drops} of its modules are in training mode")

        with torch.random.fork_rng():
            fresh = dict(self._student(work, teacher).named_parameters())
        ours = {name: weight for name, weight in work.model.named_parameters() if distillation.PROJECTION not in name}
        small, large = (sum(weight.numel() for weight in weights) for weights in (ours.values(), teacher.parameters()))
        if self.student is None:
            yield from self._copied(work.model, teacher, small, large)
            yield self._began(before, work, teacher)
        else:
            shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (ours, fresh)]
            seen = f"{small:,} parameters, the teacher {large:,}"
            yield Claim(f"the student has the shapes of {self.student}", shapes[0] == shapes[1], seen)
        matrices = {name for name, weight in ours.items() if weight.dim() > 1}
        moved = {name for name in matrices & fresh.keys() if not torch.equal(ours[name], fresh[name])}
        yield Claim("every weight matrix of the student moved", moved == matrices, f"{len(moved)} of {len(matrices)}")
        frozen = [name for name, weight in ours.items() if not weight.requires_grad]
        yield Claim("all of the student trains", not frozen, f"{len(ours) - len(frozen)} of {len(ours)} tensors")
        yield from self._objective(work, teacher)
        if isinstance(teaching.match, distillation.Hidden):
            weight = getattr(work.model, distillation.PROJECTION).weight
            learned = not torch.equal(weight, torch.nn.init.eye_(torch.empty_like(weight)))
            yield Claim("the projection was trained along", learned, f"{' × '.join(map(str, weight.shape))}")

        true = distillation.gradient(work)
        noise = float(torch.linalg.vector_norm(distillation.gradient(work) - true))
        inside = {"logits": None} | ({self.match: teaching.match.inside} if teaching.match else {})
        for what, module in inside.items():
            with distillation.answering_otherwise(teacher, work.task.logit_names, module):
                change = float(torch.linalg.vector_norm(distillation.gradient(work) - true))
            relative = change / float(torch.linalg.vector_norm(true))
            other = change > 10 * noise and relative > 1e-6
            yield Claim(
                f"with other {what} of the teacher the gradient is another",
                other,
                f"relative difference {relative:.1e}",
            )

    def _began(self, before: Snapshot, work: Training, teacher: nn.Module) -> Claim:
        """That the student's blocks were the teacher's, evenly spread from first to last, and all else the teacher's too."""
        from bench.models.architecture import stack

        count, layers = len(stack(teacher)), stack(work.model)
        prefix = next(plain(name) for name, module in work.model.named_modules() if module is layers)
        kept = [round(number * (count - 1) / max(1, len(layers) - 1)) for number in range(len(layers))]
        start: dict[str, str] = work.state.get(f"{self.name} start", {})
        wrong = 0
        for name, found in start.items():
            source = plain(name)
            if source.startswith(f"{prefix}."):
                own, _, rest = source.removeprefix(f"{prefix}.").partition(".")
                source = f"{prefix}.{kept[int(own)]}.{rest}" if int(own) < len(kept) else ""
            wrong += before.digests.get(source) != found
        return Claim(
            f"it began with the weights of the teacher's blocks {', '.join(map(str, kept))} and of all around them",
            bool(start) and not wrong,
            f"{len(start) - wrong} of {len(start)} tensors",
        )

    def _objective(self, work: Training, teacher: nn.Module) -> Iterator[Claim]:
        """The criterion and its gradient at the student's weights, with random answers of the teacher, by the formula."""
        import torch

        from bench.models.modes import evaluating
        from methods.training.objectives._shared import distillation_formula as formula

        probe = work.probe
        weights = dict(work.model.named_parameters())
        with evaluating(work.model), formula.observed(work, teacher, self.match == "hidden") as seen:
            outputs = work.outputs(probe)
            value = work.criterion(outputs, probe)
            slopes = torch.autograd.grad(value, [*weights.values()], retain_graph=True, allow_unused=True)
        found = dict(zip(weights, slopes, strict=True))
        asked = bool(seen.logits)
        ours = work.task.logits(outputs, probe)
        theirs = work.task.logits(seen.outputs, probe) if asked else ours
        wanted = self.alpha * formula.divergence(ours, theirs, self.temperature)
        if self.alpha < 1:
            wanted = wanted + (1 - self.alpha) * work.task.criterion(outputs, probe)
        if self.match == "hidden" and seen.teacher:
            wanted = wanted + formula.hidden(seen, work.model, probe)
        expected = dict(zip(weights, torch.autograd.grad(wanted, [*weights.values()], allow_unused=True), strict=True))
        if self.match == "attention":
            maps, of = formula.maps(work, teacher, probe)
            named = dict(of.named_parameters())
            slopes = torch.autograd.grad(maps, [*named.values()], allow_unused=True)
            wanted = wanted.detach() + maps.detach()
            for name, slope in zip(named, slopes, strict=True):
                if slope is not None:
                    expected[name] = slope if expected[name] is None else expected[name] + slope
        seen_loss, loss = float(value.detach()), float(wanted.detach())
        yield Claim(
            "with random answers of the teacher the criterion is the formula's",
            asked and abs(seen_loss - loss) <= 1e-3 * abs(loss),
            f"{seen_loss:.6g} against {loss:.6g}",
        )
        pairs = [
            [torch.zeros_like(weight) if slope is None else slope for slope in (found[name], expected[name])]
            for name, weight in weights.items()
        ]
        error = sum(float((one - other).double().square().sum()) for one, other in pairs) ** 0.5
        size = sum(float(other.double().square().sum()) for _, other in pairs) ** 0.5
        yield Claim(
            "and its gradient at the student's weights",
            error <= 1e-3 * size,
            f"relative difference {error / size if size else math.inf:.1e}",
        )

    def _copied(self, student: nn.Module, teacher: nn.Module, small: int, large: int) -> Iterator[Claim]:
        from bench.models.architecture import stack
        from methods.training.objectives._shared import distillation

        ours, theirs = stack(student), stack(teacher)
        kept = distillation.spread(len(theirs), len(ours))
        left = sum(p.numel() for number, block in enumerate(theirs) if number not in kept for p in block.parameters())
        yield Claim(
            f"the student has {self._count(teacher)} of the teacher's blocks, and all its other parameters",
            len(ours) == self._count(teacher) and small == large - left,
            f"{len(ours)} of {len(theirs)} blocks, {small:,} of {large:,} parameters",
        )
        sources = [distillation.nearest(block, theirs) for block in ours]
        came = all(number in source for number, source in zip(kept, sources, strict=True))
        yield Claim(
            "each block came from the teacher's that it should", came, ", ".join(str(source[0]) for source in sources)
        )

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """No teacher is held any more, and the student is a plain model."""
        from methods.training.objectives._shared import distillation

        held = self.name in work.state
        yield Claim("the teacher is let go", not held, "held" if held else "gone")
        left = distillation.left(work.model)
        yield Claim("nothing of distillation is left in the student", not left, ", ".join(left) or "nothing")

    def _count(self, teacher: nn.Module) -> int:
        from bench.models.architecture import stack

        return self.layers or max(1, len(stack(teacher)) // 2)

    def _student(self, training: Training, teacher: nn.Module) -> nn.Module:
        import copy

        from bench.models.architecture import stack
        from bench.models.registry import open_model
        from methods.training.objectives._shared import distillation

        if self.student is None:
            count, kept = len(stack(teacher)), self._count(teacher)
            if kept > count:
                raise ValueError(f"the teacher has {count} blocks, of which the student cannot have {kept}")
            student = copy.deepcopy(teacher)
            distillation.keep_blocks(student, distillation.spread(count, kept))
            return student
        auto_class, options = training.task.model_options()
        student, tokenizer = open_model(self.student, training.suite_folder).load(auto_class, options)
        if tokenizer.get_vocab() != training.tokenizer.get_vocab():
            raise ValueError(f"the student {self.student} has another tokenizer than the teacher")
        return student.to(training.device)
