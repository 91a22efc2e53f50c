"""What training, compressing, loading and serving hold."""

from __future__ import annotations

from bench.metrics.metric import Metric, Summary, largest, last, last_training

METRICS = [
    Metric(
        "train_peak_bytes", "Training memory", "B", "lower", "memory",
        "peak bytes while training above what the process held before the model was loaded, weights included: on a GPU "
        "the allocator's peak, on a CPU the kernel's resident high-water mark over the first step and one more on the largest "
        "batch, without freed memory that malloc would keep; the highest of all training stages",
        largest("training", "peak_bytes"), about="training",
        summary=Summary(order=30, heading="train\nmemory", best="needs least memory to train"),
    ),
    Metric(
        "weight_bytes", "Weights", "B", "lower", "memory",
        "storage of parameters and buffers, packed weights included, after the last stage",
        last("weight_bytes"), exact=True,
    ),
    Metric(
        "gradient_bytes", "Gradients", "B", "lower", "memory", "storage of the gradients of one step, last training stage",
        last_training("gradient_bytes"), exact=True, about="training",
    ),
    Metric(
        "optimizer_bytes", "Optimizer state", "B", "lower", "memory", "storage of the optimizer's state, last training stage",
        last_training("optimizer_bytes"), exact=True, about="training",
    ),
    Metric(
        "activation_bytes", "Saved activations", "B", "lower", "memory",
        "storage of the tensors that autograd saves for the backward pass of the probe batch, parameters left out",
        last_training("activation_bytes"), exact=True, about="training",
    ),
    Metric(
        "inference_peak_bytes", "Inference memory", "B", "lower", "memory",
        "peak bytes during inference above what the process held before the model was loaded, weights included",
        last("inference", "peak_bytes"), summary=Summary(order=60, best="needs least memory to run"),
    ),
    Metric(
        "load_peak_bytes", "Memory to load", "B", "lower", "memory",
        "peak bytes while the model, as it was left, is loaded for inference, above what the process held before",
        last("inference", "load_peak_bytes"),
    ),
    Metric(
        "transform_peak_bytes", "Memory to compress", "B", "lower", "memory",
        "peak bytes while a model was compressed, above what the process held before that model was loaded, which is in; "
        "the highest of all compressing stages",
        largest("transform", "peak_bytes"), about="compression",
    ),
]  # fmt: skip
