"""What a method declares of itself as data, so that planning can read it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Le

Fact = Literal[
    "adapter",  # the model carries a PEFT adapter
    "mergeable",  # and that adapter can be folded into the weights
    "quantized",  # some weights are stored in fewer bits
    "inference_only",  # gradients cannot flow through the model any more; only who takes this fact can come after
    "half",  # its weights are held in 16 bits, in which nothing trains; only who works on these can come after
    "exported",  # another runtime than torch runs the model
    "sparse",  # some weights are held at zero
    "factored",  # some linear layers are the product of two
    "reshaped",  # some layers are of other sizes than :attr:`PlanContext.config` says
    "uneven",  # the attention heads together are not as wide as the hidden size
    "ensemble",  # several models answer together; nothing can come after
    "sparse_rows",  # some layers hold compressed rows, of values that are not zero
    "no_head",  # the weights belong to another objective than the task's
]
"""What a stage may leave true of the model, known at planning. ``adds``, ``removes`` and ``tolerates`` are sets of these."""


Trait = Literal[
    "compiles",  # it trains on compiled code
    "micro_batches",  # it shows the others parts of a batch, one after the other
    "one_pass",  # though it wraps passes, a step is one pass, and shapes are known
    "own_items",  # it makes training items of its own, whose labels are not the task's
    "frozen_body",  # nothing of the body trains
    "key_value_cache",  # what it trains reaches the blocks through their cache of keys and values
    "prunes_ranks",  # it makes its adapter smaller while it trains
    "sets_dropout",  # its ``p`` is the dropout of the model
    "several_models",  # it trains several models, one after the other
    "softens_labels",  # it mixes the labels with others
    "stops_early",  # it may end a training, or go back, by the validation loss
]
"""What of a method matters to those that stand in a stage with it."""


Axis = Literal[
    "replicas",  # the batch; each process holds the whole model
    "shards",  # the batch; parameters, gradients and optimizer state are divided too
    "tensors",  # the blocks' layers, by outputs and inputs; each process sees the whole batch, or slice
    "layers",  # the blocks, one behind the other; each process sees the whole batch, or slice
]
"""What several processes divide among them when they work on one stage."""


Width = Annotated[int, Ge(1), Le(2**16)]
"""How wide what a method puts on is: a rank, a bottleneck, virtual tokens. Beyond is a slip of the keys."""


Samples = Annotated[int, Ge(1), Le(2**20)]
"""How many training items a method looks at. They come from an endless stream, which so many end in hours."""


Spread = Axis | Literal["devices"]  # the blocks of one process over several GPUs
"""How a stage may be spread over more than one device."""


@dataclasses.dataclass(frozen=True)
class Broken:
    """Versions of packages that together are known to break a method, why, and the mend.

    ``versions`` are requirements as pip spells them, such as ``"transformers>=5.24"``; all of them must hold. Where
    only some kinds of task are affected, ``tasks`` names them.

    Raises:
        InvalidRequirement: one of ``versions`` is not a requirement.
    """

    versions: tuple[str, ...]
    why: str
    mend: str
    tasks: frozenset[str] | None = None

    def __post_init__(self) -> None:
        from packaging.requirements import Requirement

        for version in self.versions:
            Requirement(version)

    def __str__(self) -> str:
        on = f" on {', '.join(sorted(self.tasks))}" if self.tasks else ""
        return f"it does not work{on} with {' and '.join(self.versions)}: {self.why}; {self.mend}"
