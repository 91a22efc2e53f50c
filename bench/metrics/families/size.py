"""What a user would ship, and how many weights there are."""

from __future__ import annotations

from bench.metrics.metric import Metric, Summary, last, last_training

METRICS = [
    Metric(
        "size_on_disk", "Size on disk", "B", "lower", "size", "bytes of the files a user would ship (an adapter without its base)",
        last("size", "bytes"), exact=True, summary=Summary(order=70, heading="size", best="is smallest on disk"),
    ),
    Metric(
        "parameters", "Parameters", "count", "lower", "size", "elements of all weights, at their unpacked shapes",
        last("parameters", "total"), exact=True,
    ),
    Metric(
        "nonzero_parameters", "Non-zero parameters", "count", "lower", "size", "elements of all weights that are not 0",
        last("parameters", "nonzero"), exact=True,
    ),
    Metric(
        "trainable_parameters", "Trainable parameters", "count", "lower", "size", "elements that the last training stage updated",
        last_training("trainable"), exact=True, about="training",
    ),
]  # fmt: skip
