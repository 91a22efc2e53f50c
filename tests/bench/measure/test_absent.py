"""What could not be measured, and which errors say that memory ran out."""

import errno
import gc
import weakref

import pytest
import torch

from bench.measure.absent import Absent, out_of_memory
from bench.recipe.errors import Refusal

NCCL = """NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error, NCCL version 2.27.5
ncclUnhandledCudaError: Call to CUDA function failed.
Last error:
Cuda failure 2 'out of memory'"""


def raised_from(cause):
    try:
        raise RuntimeError("backend='inductor' raised") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 69.00 GiB"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (torch.distributed.DistBackendError(NCCL), True),
        (torch.distributed.DistBackendError("ncclUnhandledCudaError\nFailed to CUDA calloc 6291456 bytes"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (raised_from(torch.OutOfMemoryError("CUDA out of memory")), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (torch.distributed.DistBackendError("NCCL error: unhandled system error"), False),
        (ValueError("the text says out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error, is_so):
    assert out_of_memory(error) is is_so


def test_what_fails_is_absent_with_its_reason_and_the_rest_goes_on():
    measured = {"training": 1}
    absent = Absent(measured)
    with absent("size_on_disk"):
        measured["size"] = 2
    with absent("quality"):
        raise torch.AcceleratorError("CUDA error: out of memory\nmore of it")
    with absent("parameters", "nonzero_parameters"):
        raise KeyError("weight")
    assert measured == {
        "training": 1,
        "size": 2,
        "absent": {
            "quality": "out of memory: CUDA error: out of memory",
            "parameters": "KeyError: 'weight'",
            "nonzero_parameters": "KeyError: 'weight'",
        },
    }


def test_what_says_that_the_recipe_is_unfit_goes_on():
    with pytest.raises(Refusal), Absent({})("quality"):
        raise Refusal("this model is none")
    with pytest.raises(RuntimeError), Absent({}, strict=True)("quality"):
        raise RuntimeError("one of several processes")


def test_what_a_failed_measure_held_is_let_go_of():
    class Tensors:
        pass

    def measure():
        held = Tensors()
        held.itself = held  # a circle, as a training is
        seen.append(weakref.ref(held))
        raise RuntimeError("CUDA error: out of memory")

    seen = []
    gc.disable()
    try:
        with Absent({})("quality"):
            measure()
        assert seen[0]() is None
    finally:
        gc.enable()
