"""Mistakes in how a step is made."""

from tests.mutants.planting import Mutant

_ACCUMULATE = "methods/training/accumulate.py"
_DIVIDED = ("tests/methods/training/test_divided.py",)

MUTANTS = [
    Mutant(
        "accumulate", _ACCUMULATE,
        "losses.append(compute(part, scale * fraction) * fraction)",
        "losses.append(compute(part, scale / self.k) * fraction)",
        "full + accumulate(3)", "micro-batches weigh alike",
    ),
    Mutant(
        "accumulate", _ACCUMULATE,
        "parts = batch.split(self.k)", "parts = batch.split(2)",
        "full + accumulate(3)", "two micro-batches whatever k is",
    ),
    Mutant(
        "compressed_gradients", "methods/training/compressed_gradients.py",
        "start_powerSGD_iter=_START,", "start_powerSGD_iter=_START, use_error_feedback=False,",
        'full + data_parallel(2) + compressed_gradients("powersgd", rank=2)', "PowerSGD forgets its error",
        tests=_DIVIDED,
    ),
]  # fmt: skip
