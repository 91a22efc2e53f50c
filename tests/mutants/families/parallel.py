"""Mistakes in how processes share a training."""

from tests.mutants.planting import Mutant

_COMPRESSED = "methods/training/parallel/compressed_gradients.py"
_DATA = "methods/training/parallel/data_parallel.py"
_GROUP = "bench/distributed/group.py"
_PIPE = "methods/training/parallel/_shared/pipeline.py"
_SHARDED = "methods/training/parallel/fully_sharded.py"
_SHARED = "methods/training/parallel/_shared/divided.py"
_STAGE = "bench/stage/stage.py"
_TENSORS = "methods/training/parallel/_shared/tensors.py"
_TENSOR = "methods/training/parallel/tensor_parallel.py"

_TESTS = ("tests/methods/training/parallel/test_divided.py",)
_REPLICAS = "full + data_parallel(2)"
_HALF = 'full + data_parallel(2) + compressed_gradients("fp16")'
_POWER = 'full + data_parallel(2) + compressed_gradients("powersgd", rank=2)'
_SHARDS = "full + fully_sharded(2)"
_PIECES = "full + pipeline_parallel(2, 2)"
_PARTS = "full + tensor_parallel(2)"
_BESIDE = "lora(r=2) + tensor_parallel(2)"
_HOOK = 'replica.register_comm_hook(group, getattr(default_hooks, f"{self.to}_compress_hook"))'


def _mutant(method: str, file: str, old: str, new: str, recipe: str, why: str, **more: object) -> Mutant:
    return Mutant(method, file, old, new, recipe, why, tests=_TESTS, **more)  # type: ignore[arg-type]


MUTANTS = [
    # -- data_parallel
    _mutant("data_parallel", _DATA, "            find_unused_parameters=_unused(training),\n        )\n", "            find_unused_parameters=_unused(training),\n        )\n        import torch.distributed as dist\n\n        def summed(state: Any, bucket: Any) -> Any:\n            return dist.all_reduce(bucket.buffer(), group=training.group.processes('replicas'), async_op=True).get_future().then(lambda f: f.value()[0])\n\n        training.forward.register_comm_hook(None, summed)\n", _REPLICAS, "gradients are a sum and no mean"),
    _mutant("data_parallel", _DATA, "            flat /= group.size()\n", "", "full + data_parallel(2) + pipeline_parallel(2, 2)", "gradients of pipelines are a sum and no mean"),
    _mutant("data_parallel", _DATA, "            with replica.no_sync():\n                return compute(batch)\n\n        def of_shards", "            return compute(batch)\n\n        def of_shards", "full + data_parallel(2) + accumulate(2)", "gradients are exchanged for each micro-batch"),
    _mutant("data_parallel", _DATA, "            if not training.more_to_come:\n                return compute(batch)\n            with", "            with", _REPLICAS, "gradients are never exchanged"),
    _mutant("data_parallel", _GROUP, "mine = batch.split(slices)[self.local_rank(split)]", "mine = batch.split(slices)[0]", _REPLICAS, "all have the first slice"),
    _mutant("data_parallel", _GROUP, "return mine, slices * mine.weight / batch.weight", "return mine, 1.0", "full + data_parallel(2)", "slices of language weigh alike", model="llama", keys={"task": "prose"}),
    _mutant("data_parallel", _SHARED, "return compute(part, scale * weight) * weight", "return compute(part, scale * weight)", "full + data_parallel(2)", "the returned loss has no weight", model="llama", keys={"task": "prose"}),
    _mutant("data_parallel", _SHARED, "        part, weight = training.group.part(batch, split)\n", "        part, weight = batch, 1.0\n", _REPLICAS, "each has the whole batch"),
    _mutant("data_parallel", _STAGE, "seed_everything(training.seed + 2**20 * training.group.batch_part)", "seed_everything(training.seed)", _REPLICAS, "replicas drop out alike"),
    _mutant("data_parallel", _DATA, "        training.forward = None\n", "        pass\n", _REPLICAS, "DistributedDataParallel stays around the model"),
    _mutant("data_parallel", _GROUP, "mine = batch.split(slices)[self.local_rank(split)]", "mine = batch.split(slices + 1)[self.local_rank(split)]", _REPLICAS, "a third of the items is left out"),
    _mutant("data_parallel", _SHARED, "return compute(part, scale * weight) * weight", "return compute(part, scale * weight / training.group.layout[split]) * weight", _REPLICAS, "gradients are divided twice"),
    # -- compressed_gradients
    _mutant("compressed_gradients", _COMPRESSED, "start_powerSGD_iter=_START,", "start_powerSGD_iter=_START, use_error_feedback=False,", _POWER, "PowerSGD forgets its error"),
    _mutant("compressed_gradients", _COMPRESSED, "start_powerSGD_iter=_START,", "start_powerSGD_iter=_START, warm_start=False, use_error_feedback=False,", _POWER, "PowerSGD forgets its factors and its error"),
    _mutant("compressed_gradients", _COMPRESSED, "matrix_approximation_rank=self._rank,", "matrix_approximation_rank=1,", _POWER, "one direction whatever the rank"),
    _mutant("compressed_gradients", _COMPRESSED, "return self.rank or 1", "return self.rank or 2", 'full + data_parallel(2) + compressed_gradients("powersgd")', "another default rank"),
    _mutant("compressed_gradients", _COMPRESSED, _HOOK, "import torch\n            import torch.distributed as dist\n\n            def summed(state: Any, bucket: Any) -> Any:\n                half = bucket.buffer().half()\n                return dist.all_reduce(half, group=group, async_op=True).get_future().then(lambda f: bucket.buffer().copy_(f.value()[0]))\n\n            replica.register_comm_hook(group, summed)", _HALF, "gradients in half precision are a sum and no mean"),
    _mutant("compressed_gradients", _COMPRESSED, "return _ended(future) if on_cpu else future", "return _ended(future.then(lambda f: f.value() * 2))", _POWER, "PowerSGD's gradients are a sum and no mean"),
    _mutant("compressed_gradients", _COMPRESSED, "return _ended(future) if on_cpu else future", "return _ended(future.then(lambda f: -f.value()))", _POWER, "PowerSGD's gradients point the other way"),
    _mutant("compressed_gradients", _COMPRESSED, 'getattr(default_hooks, f"{self.to}_compress_hook")', "default_hooks.allreduce_hook", _HALF, "nothing is compressed"),
    _mutant("compressed_gradients", _COMPRESSED, "                future = powerSGD_hook.powerSGD_hook(state, bucket)\n", "                state.error_dict.clear()\n                future = powerSGD_hook.powerSGD_hook(state, bucket)\n", _POWER, "the error is thrown away before each step"),
    # -- fully_sharded
    _mutant("fully_sharded", _SHARDED, "for module in (*blocks(training.model), training.model):", "for module in (training.model,):", _SHARDS, "the model is gathered at once"),
    _mutant("fully_sharded", _SHARDED, "reshard_after_forward=True", "reshard_after_forward=False", _SHARDS, "weights stay gathered after the forward pass"),
    _mutant("fully_sharded", _SHARDED, "fully_shard(module, mesh=mesh, reshard_after_forward=True, offload_policy=policy)", "fully_shard(module, mesh=mesh, reshard_after_forward=True, offload_policy=policy)\n                module.set_gradient_divide_factor(1.0)", _SHARDS, "gradients of shards are a sum and no mean"),
    _mutant("fully_sharded", _SHARDED, 'return _parallel.sliced(training, self.name, "shards", compute)', "training.state[self.name] = compute\n        return compute", _SHARDS, "each has the whole batch"),
    _mutant("fully_sharded", _STAGE, "seed_everything(training.seed + 2**20 * training.group.batch_part)", "seed_everything(training.seed + 2**20 * training.group.local_rank('replicas') if 'replicas' in training.group.layout else training.seed)", _SHARDS, "shards drop out alike"),
    _mutant("fully_sharded", _SHARDED, "return torch.nn.Parameter(whole(parameter.detach()).to(device), requires_grad=parameter.requires_grad)", "return torch.nn.Parameter(whole(parameter.detach()).to(device).half().float(), requires_grad=parameter.requires_grad)", _SHARDS, "gathered weights are rounded"),
    _mutant("fully_sharded", _SHARDED, 'mesh = training.group.mesh[("replicas", "shards") if "replicas" in training.group.layout else "shards"]', 'mesh = training.group.mesh["shards"]', "full + data_parallel(2) + fully_sharded(2)", "replicas of shards exchange nothing"),
    # -- pipeline_parallel
    _mutant("pipeline_parallel", _PIPE, "return output.sum() * self._scale * self._shares[int(which)]", "return output.sum() * self._scale", _PIECES, "gradients of micro-batches are a sum"),
    _mutant("pipeline_parallel", _PIPE, "return output.sum() * self._scale * self._shares[int(which)]", "return output.sum() * self._scale / self._microbatches", "full + pipeline_parallel(2, 2)", "micro-batches of language weigh alike", model="llama", keys={"task": "prose"}),
    _mutant("pipeline_parallel", _PIPE, "return torch.stack(self._losses).sum() * self.processes", "return torch.stack(self._losses).sum()", _PIECES, "the returned loss is divided by the processes"),
    _mutant("pipeline_parallel", _PIPE, "self._losses.append(result.detach() * self._shares[number])", "self._losses.append(result.detach())", _PIECES, "the returned loss is a sum over micro-batches"),
    _mutant("pipeline_parallel", _PIPE, "self._scale, self._shares = scale, [part.weight / batch.weight for part in self._batches]", "self._scale, self._shares = 1.0, [part.weight / batch.weight for part in self._batches]", "full + pipeline_parallel(2, 2) + accumulate(2)", "the scale of a micro-batch is lost"),
    _mutant("pipeline_parallel", _PIPE, 'return {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[self._kind]', 'return {"gpipe": ScheduleGPipe, "1f1b": ScheduleGPipe}[self._kind]', "full + pipeline_parallel(2, 4)", "GPipe for 1F1B"),
    _mutant("pipeline_parallel", _PIPE, "result if self.differentiable[piece.number] else result.detach()", "result.bfloat16().float() if self.differentiable[piece.number] else result.detach()", _PIECES, "hidden states are rounded on their way"),
    _mutant("pipeline_parallel", _PIPE, "own = range(len(layers) * number // count, len(layers) * (number + 1) // count)", "own = range(len(layers) - len(layers) * (number + 1) // count, len(layers) - len(layers) * number // count)", _PIECES, "the blocks are in another order"),
    # -- tensor_parallel
    _mutant("tensor_parallel", _TENSORS, "run_check=False).to_local(grad_placements=[Partial()])", "run_check=False).to_local(grad_placements=[Replicate()])", _PARTS, "gradients below are not added up"),
    _mutant("tensor_parallel", _TENSORS, "return output if self.bias is None else output + self.bias.to(output.dtype)", "return output if self.bias is None else output + self.mesh.size() * self.bias.to(output.dtype)", _PARTS, "the bias is added by each process"),
    _mutant("tensor_parallel", _TENSORS, "return output if self.bias is None else output + self.bias.to(output.dtype)", "return output if self.bias is None else output + self.bias.detach().to(output.dtype)", _PARTS, "biases of what is added up get no gradient"),
    _mutant("tensor_parallel", _TENSORS, 'return args, {**named, "hidden_states": shared(named["hidden_states"], self.mesh)}', "return args, named", _PARTS, "attention's input is not shared", model="llama"),
    _mutant("tensor_parallel", _TENSORS, "return nn.functional.linear(input, shared(self.weight, self.mesh))", "return nn.functional.linear(input, self.weight)", _BESIDE, "LoRA's A has the gradient of its own part alone"),
    _mutant("tensor_parallel", _STAGE, "seed_everything(training.seed + 2**20 * training.group.batch_part)", "seed_everything(training.seed + 2**20 * training.group.rank)", _PARTS, "processes with the same items drop other things"),
    _mutant("tensor_parallel", _TENSORS, "DTensor.from_local(whole(part.detach()), mesh, [Shard(dim)], run_check=False).full_tensor()", "DTensor.from_local(whole(part.detach()), mesh, [Shard(dim)], run_check=False).full_tensor().half().float()", _PARTS, "gathered weights are rounded"),
    _mutant("tensor_parallel", _TENSORS, "return DTensor.from_local(tensor, mesh, [Partial()], run_check=False).full_tensor()", "return DTensor.from_local(tensor / mesh.size(), mesh, [Partial()], run_check=False).full_tensor()", _PARTS, "activations are a mean and no sum"),
    _mutant("tensor_parallel", _TENSORS, "return DTensor.from_local(tensor, mesh, [Partial()], run_check=False).full_tensor()", "whole = DTensor.from_local(tensor, mesh, [Partial()], run_check=False).full_tensor()\n    return whole.detach() + (tensor - tensor.detach()) * mesh.size()", _PARTS, "gradients of what is added up are times the processes"),
]  # fmt: skip
