"""Models that another runtime runs, in the place of a torch model."""

from __future__ import annotations

import abc
import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from bench.stage.evidence import Claim, difference, projection

if TYPE_CHECKING:
    from bench.stage.evidence import Snapshot
    from bench.stage.export import Loading
    from bench.stage.work import Work


@dataclass(frozen=True)
class Matrix:
    """A weight matrix in a runtime's file, rows and columns as there: what it multiplies by, in float32.

    ``codes`` are its integers where it is quantized, ``scales`` the numbers that the file multiplies them by, and ``steps``
    what one more in a code adds to its weight, in a shape that broadcasts to that of the codes.
    """

    values: torch.Tensor
    codes: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    steps: torch.Tensor | None = None

    def turned(self) -> Matrix:
        """Its rows for its columns."""
        codes, steps = (None if each is None else each.T for each in (self.codes, self.steps))
        return Matrix(self.values.T, codes, self.scales, steps)

    def rounding(self) -> float:
        """How far rounding to these steps takes the weights from what they were, of their norm, on average."""
        if self.steps is None:
            return 0.0
        squares = (self.steps**2 / 12).expand_as(self.values).sum() / self.values.square().sum().clamp(min=1e-30)
        return float(squares.sqrt())

    def fills(self) -> bool:
        """Whether each row's largest is the last code.

        NNCF makes no scale shorter than a hundredth of the longest, which smoothing can make of some columns' weights.
        """
        assert self.codes is not None
        assert self.scales is not None
        largest = self.codes.abs().amax(1)
        if len(largest) != self.scales.numel():
            return False
        least = self.scales.flatten() <= 0.0101 * self.scales.max()
        return bool(((largest == 127) | (largest == 0) | (least & (largest < 127))).all())


class Exported(nn.Module):
    """A model in another runtime's files, with the inputs and outputs of the torch model that it was made from.

    The files are buffers, so that they are counted and stored. The runtime opens them when first asked, and again when
    torch's number of threads has changed, which is the number that it uses.
    """

    format: ClassVar[str]
    """What ``methodbench export`` calls it."""

    def __init__(self, files: Mapping[str, bytes], inputs: tuple[str, ...], config: Any) -> None:
        super().__init__()
        self.config = config
        self.inputs = inputs
        self.suffixes = tuple(files)
        self.path: Path | None = None
        for suffix, content in files.items():
            self.register_buffer(suffix, torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._opened: tuple[int, Any] | None = None

    @abc.abstractmethod
    def open(self, threads: int) -> Any:
        """The runtime's own object, with so many threads."""

    @abc.abstractmethod
    def run(self, opened: Any, feeds: dict[str, Any]) -> Any:
        """The logits, as NumPy has them."""

    @property
    @abc.abstractmethod
    def loading(self) -> Loading:
        """How others load what :meth:`save` writes."""

    def fed(self) -> str:
        """For that: the inputs that there are, in Python."""
        return "{name: inputs[name] for name in (" + ", ".join(f'"{name}"' for name in self.inputs) + ")}"

    @abc.abstractmethod
    def matrices(self) -> list[Matrix]:
        """The weight matrices in the file. For evidence."""

    @property
    def opened(self) -> Any:
        """The runtime's own object, with torch's number of threads."""
        threads = torch.get_num_threads()
        if self._opened is None or self._opened[0] != threads:
            self._opened = None  # so that there are never two
            self._opened = threads, self.open(threads)
        return self._opened[1]

    def forward(self, input_ids: torch.Tensor, **given: torch.Tensor) -> Any:
        """As the torch model; what it was not given is zeros, as there."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        given = {"input_ids": input_ids, **given}
        feeds = {name: given.get(name, torch.zeros_like(input_ids)).numpy() for name in self.inputs}
        return SequenceClassifierOutput(logits=torch.from_numpy(self.run(self.opened, feeds)))

    def write(self, folder: Path) -> Path:
        """Write the files; the first of them."""
        for suffix in self.suffixes:
            (folder / f"model.{suffix}").write_bytes(self.get_buffer(suffix).numpy().data)
        return folder / f"model.{self.suffixes[0]}"

    def content(self, suffix: str) -> bytes:
        """A file."""
        return self.get_buffer(suffix).numpy().tobytes()

    def serve(self, folder: Path) -> None:
        """Open the files from disk and hold them no more: what is in memory then is the runtime's."""
        self.path = self.write(folder)
        for suffix in self.suffixes:
            self.register_buffer(suffix, torch.empty(0, dtype=torch.uint8))
        _ = self.opened

    def from_disk(self) -> Claim:
        """That it was opened as a server would."""
        held = sum(self.get_buffer(suffix).numel() for suffix in self.suffixes)
        opened = "opened from disk" if self.path else "not opened from disk"
        text = "the runtime opened its files from disk, and no copy is held"
        return Claim(text, self.path is not None and not held, f"{opened}, {held:,} B held")

    def save(self, folder: Path) -> None:
        """Write what a user would ship."""
        self.write(folder)
        self.config.to_json_file(folder / "config.json")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def trace(work: Work) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """The model's forward pass to its logits for any batch and length, and the names of its inputs."""
    inputs = tuple(work.probe.inputs)
    example = {name: torch.zeros(2, 8, dtype=torch.long) for name in inputs}
    example["attention_mask"] = torch.ones(2, 8, dtype=torch.long)
    example["attention_mask"][0, 6:] = 0  # a mask of ones alone could be left out
    longest = getattr(work.model.config, "max_position_embeddings", None)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
    config: Any = work.model.config
    cache = getattr(config, "use_cache", None)
    config.use_cache = False
    try:
        module = _Logits(work.model.eval())
        shapes = dict.fromkeys(example, sizes)
        program = torch.export.export(module.eval(), (), kwargs=example, dynamic_shapes=shapes)
    finally:
        config.use_cache = cache
    return program, inputs


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    # With their names written out, for the exporter does not follow dynamic shapes through `**inputs`.
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **more).logits
        return logits


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of each other's deprecations, which is nobody's concern here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same_outputs(before: Snapshot, work: Work, kind: type[Exported], limit: float | None) -> Iterator[Claim]:
    """The runtime answers, without a torch weight left, as the torch model did: to `limit`, or where None by direction."""
    model = work.model
    weights = sum(1 for _ in model.parameters())
    yield Claim(
        "the runtime holds the model", isinstance(model, kind) and not weights, f"{weights} torch parameters are left"
    )
    assert before.logits is not None
    assert work.after.logits is not None
    ours, theirs = work.after.logits.flatten(), before.logits.flatten()
    if limit is not None:
        error = float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs))
        yield Claim(
            f"its outputs are the torch model's to {limit:g}", error <= limit, f"relative difference {error:.1e}"
        )
        return
    cosine = float(torch.cosine_similarity(ours, theirs, 0))
    agree = float((work.after.logits.argmax(-1) == before.logits.argmax(-1)).float().mean())
    seen = f"cosine {cosine:.4f}, the same class for {agree:.0%}"
    yield Claim("its outputs are near the torch model's", cosine > 0.9, seen)


def same_weights(before: Snapshot, work: Work, *, quantized: bool) -> Iterator[Claim]:
    """Each matrix of a layer that was called is in the file: as it was, or in 8 bits with a scale for each output.

    Tables of embeddings may have one scale.
    """
    stored = work.model.matrices() if isinstance(work.model, Exported) else []
    wanted = {name: along for name, along in before.projections.items() if name.rpartition(".")[0] in before.inputs}
    missing, coarse = [], []
    far = longer = squares = 0.0
    for name, expected in wanted.items():
        shape = before.shapes[name]
        # A file may have a weight turned round.
        turned = [each for matrix in stored for each in (matrix, matrix.turned()) if tuple(each.values.shape) == shape]
        fitting = [(difference(projection(matrix.values), expected), matrix) for matrix in turned]
        off, found = min(fitting, key=lambda pair: pair[0], default=(1.0, None))
        far = max(far, off)
        if found is None or off > (2 * found.rounding() + 1e-5):
            missing.append(name)
            continue
        squares += off**2 * len(expected)
        longer += float((projection(found.values) * expected).sum() / expected.square().sum() - 1) * len(expected)
        if quantized and found.codes is not None and "Embedding" not in before.classes[name.rpartition(".")[0]]:
            fine = found.scales is not None and found.scales.numel() == len(expected) and found.fills()
        else:
            fine = quantized == (found.codes is not None)
        if not fine:
            coarse.append(name)
    count = max(sum(map(len, wanted.values())), 1)
    longer, noise = longer / count, squares**0.5 / count
    yield Claim(
        "each weight matrix is in the file, and is what it was",
        bool(wanted) and not missing and abs(longer) <= 4 * noise + 1e-6,
        f"{len(wanted) - len(missing)} of {len(wanted)}, to {far:.1g}; longer by {longer:.1g}"
        + (f"; not {missing[0]}" if missing else ""),
    )
    what = "in 8 bits, a scale for each output of a layer" if quantized else "in float32"
    yield Claim(
        f"each of them is {what}",
        bool(wanted) and not coarse,
        f"{len(wanted) - len(coarse)} of {len(wanted)}" + (f"; not {coarse[0]}" if coarse else ""),
    )
