#!/usr/bin/env bash
# On a machine with a GPU: the contract on it, what is said of CUDA, and the default suite; the result goes into docs/gpu.md.
# `bash tests/on_gpu.sh`, with methodbench and its tests' packages installed; PYTHON is the interpreter, python3 by default.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
results=results/on-gpu

if ! about=$("$python" - <<'END'
import platform
from importlib.metadata import version

import pynvml
import torch

if not torch.cuda.is_available():
    raise SystemExit("torch finds no GPU; see `methodbench doctor`")
pynvml.nvmlInit()
driver = pynvml.nvmlSystemGetDriverVersion()
packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes", "torchao"))
print(f"{torch.cuda.get_device_name()} (driver {driver}, CUDA {torch.version.cuda}), Python {platform.python_version()}, {packages}")
END
); then
    echo "nothing was run, and docs/gpu.md is as it was" >&2
    exit 2
fi

mkdir -p "$results"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
METHODBENCH_GPU=cuda "$python" -m pytest -m "" tests/contract/test_on_gpu.py 2>&1 | tee "$results/contract.log"
contract=${PIPESTATUS[0]}
"$python" -P -c "from bench.cli.main import main; main()" run suites/encoder.toml --device cuda --out "$results" 2>&1 | tee "$results/suite.log"
suite=${PIPESTATUS[0]}

"$python" - "$about" "$contract" "$suite" "$results" <<'END'
import datetime
import sys
from pathlib import Path

about, contract, suite, results = sys.argv[1:]
said = [line for line in Path(results, "contract.log").read_text().splitlines() if line.strip()]
page = Path("docs/gpu.md")
before, mark, rest = page.read_text(encoding="utf-8").partition("## On a real GPU\n")
rows = [line for line in rest.splitlines() if line.startswith("| 2")]
text = rest.partition("| date")[0].replace(" So far: never run.", "").strip()
ended = [f"status {contract}: {said[-1].strip('= ') if said else 'nothing'}", f"status {suite}"]
rows.append(f"| {datetime.date.today()} | {about} | {' | '.join(ended)} |")
head = ["| date | on | contract | default suite |", "| --- | --- | --- | --- |"]
page.write_text(f"{before}{mark}\n{text}\n\n" + "\n".join(head + rows) + "\n", encoding="utf-8")
END

exit $(( contract || suite ))
