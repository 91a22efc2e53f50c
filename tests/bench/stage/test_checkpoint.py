"""Checkpoints: what a process that reads one can do with the model."""

import subprocess
import sys

from bench.models.registry import open_model
from bench.stage import checkpoint


def test_a_model_that_no_process_built_gives_its_hidden_states_and_attentions(tiny_bert, tmp_path):
    model, tokenizer = open_model(str(tiny_bert), tmp_path).load(
        "AutoModelForSequenceClassification", {"num_labels": 2}
    )
    model.set_attn_implementation("eager")
    file = checkpoint.path(tmp_path, "node")
    checkpoint.folder(tmp_path)
    checkpoint.save(file, model, tokenizer)
    code = (
        "import sys; from pathlib import Path; import torch; from bench.stage import checkpoint\n"
        "model, _ = checkpoint.load(Path(sys.argv[1]))\n"
        "out = model(torch.ones(1, 3, dtype=torch.long), output_hidden_states=True, output_attentions=True)\n"
        "print(len(out.hidden_states), len(out.attentions))"
    )
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "2"]
