"""The GPUs that are not there: what they refuse, as CUDA does, and what is counted as waiting for them."""

import pytest

from bench.execute.forkserver import prepared

WAITING = {
    "a number is read": "float(x.sum())",
    "it is asked whether": "bool((x > 0).all())",
    "a list is made": "x.tolist()",
    "two are compared as a whole": "torch.equal(x, x + 1)",
    "places are found": "(x > 0).nonzero()",
    "a mask picks": "x[x > 0]",
    "a mask is written through": "x.index_put_((x > 0,), x.new_ones(()))",
    "a copy to the CPU": "x.cpu()",
    "a copy from the CPU": "torch.ones(2).to(x.device)",
    "a number from the CPU": "torch.tensor(2.0, device=x.device)",
    "a scale": "torch.as_tensor(2.0, dtype=x.dtype, device=x.device)",
    "what is distinct": "x.unique()",
    "places on the CPU": "x[torch.tensor([0, 1])]",
}
FREE = {
    "sums": "x + x.sum() * 2",
    "a number of Python": "x * 2.5",
    "made there": "torch.full((), 2.5, device=x.device)",
    "a mask that fills": "x.masked_fill(x > 0, 0.0)",
    "places there": "x[torch.arange(2, device=x.device)]",
    "a slice": "x[:2]",
    "a copy into pinned memory": "x.to('cpu', non_blocking=True)",
    "another type": "x.half()",
    "random numbers": "torch.nn.functional.dropout(x, 0.5)",
}
WRONG = {
    "x + torch.ones(3)": "Expected all tensors to be on the same device",
    "x + torch.ones(3, device=pretend.gpu(1))": "Expected all tensors to be on the same device",
    "torch.ones(3)[torch.zeros(1, dtype=torch.long, device=x.device)]": "Expected all tensors to be on the same device",
    "x.numpy()": "can't convert",
    "torch.ones(2, 2, dtype=torch.long, device=x.device) @ torch.ones(2, 2, dtype=torch.long, device=x.device)": "not impl",
    "torch.randn(3, device=x.device, generator=torch.Generator().manual_seed(5))": "Expected a 'pretend:0' device type",
}
RIGHT = {
    "draws of its own": "(torch.manual_seed(0), torch.rand(2, device=x.device), a := torch.rand(3), torch.manual_seed(0),"
    " torch.equal(a, torch.rand(3)))[-1]",
    "a swap of data": "[setattr(y := x.clone(), 'data', x + 1), float(y.sum()) == float((x + 1).sum())][1]",
    "another type in place": "str(torch.nn.Linear(2, 2).to(x.device).to(torch.bfloat16)(x.new_ones(1, 2).bfloat16()).dtype)[6:] == 'bfloat16'",
    "a copy": "float(copy.deepcopy(torch.nn.Parameter(x)).sum()) == float(x.sum())",
    "inference mode": "torch.inference_mode()(lambda: torch.ones(2).to(x.device).device == x.device)()",
    "gradients": "torch.autograd.grad((w := x.clone().requires_grad_()).square().sum(), w)[0].tolist() == (2 * x).tolist()",
    "autocast": "torch.autocast('pretend', torch.bfloat16)(lambda: torch.nn.Linear(3, 2).to(x.device)(x).dtype)() == torch.bfloat16",
    "what autocast leaves": "torch.autocast('pretend', torch.bfloat16)(lambda: x.bfloat16().softmax(0).dtype)() == torch.float32",
}


def tried(connection, codes):
    import copy

    import torch

    from tests import pretend

    pretend.start()
    answers = {}
    for code in codes:
        pretend.waits = None
        x = torch.tensor([1.0, -2.0, 3.0]).to("pretend")
        pretend.waits = []
        try:
            found = eval(code, {"torch": torch, "x": x, "pretend": pretend, "copy": copy})
        except Exception as error:
            answers[code] = f"{type(error).__name__}: {error}", pretend.waits
        else:
            answers[code] = (found if isinstance(found, bool) else type(found).__name__, pretend.waits)
    connection.send(answers)


@pytest.fixture(scope="module")
def run():
    """What comes of each line, and what waited meanwhile; all in one process, which torch tells of the GPUs once."""
    context = prepared()
    ours, theirs = context.Pipe(duplex=False)
    codes = [*WAITING.values(), *FREE.values(), *WRONG, *RIGHT.values()]
    process = context.Process(target=tried, args=(theirs, codes))
    process.start()
    theirs.close()
    try:
        assert ours.poll(120), "it hangs"
        return ours.recv().__getitem__
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("what", WAITING)
def test_it_is_counted_that(what, run):
    found, waits = run(WAITING[what])
    assert "Error" not in str(found)
    assert len(waits) == 1, waits
    assert "test_pretend" in waits[0] or "<string>" in waits[0]


@pytest.mark.parametrize("what", FREE)
def test_nobody_waits_for(what, run):
    found, waits = run(FREE[what])
    assert found == "OnGpu" or what == "a copy into pinned memory", found
    assert waits == []


@pytest.mark.parametrize(("code", "says"), WRONG.items())
def test_it_is_refused_as_on_a_gpu(code, says, run):
    found, _ = run(code)
    assert says in str(found)


@pytest.mark.parametrize("what", RIGHT)
def test_it_is_right_of(what, run):
    found, _ = run(RIGHT[what])
    assert found is True
