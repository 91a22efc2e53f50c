"""What tests of several commands share."""

import pytest

from bench.testing import jobs


@pytest.fixture
def suite(tiny_bert, tmp_path):
    def write(recipes='full = "full"\nlora = "lora(r=2)"', **replace):
        text = f"""
title = "Tiny"
model = "{tiny_bert}"
[task]
kind = "classification"
data = "{jobs.table(tmp_path).data}"
[budget]
steps = 4
batch_size = 8
max_length = 32
[measure]
references = false
latency = [[1, 8]]
latency_samples = 3
turns = 0
[recipes]
{recipes}
"""
        for old, new in replace.items():
            text = text.replace(old, new)
        (tmp_path / "suite.toml").write_text(text)
        return tmp_path / "suite.toml"

    return write
