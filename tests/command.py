"""The command as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

METHODBENCH = Path(sys.executable).parent / "methodbench"


def methodbench(*words, cwd=None, status=0, errors=False, columns=80):
    """What it prints; where it fails, or `errors`, what it says on standard error."""
    done = subprocess.run(
        [METHODBENCH, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "COLUMNS": str(columns)},
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 and not errors else done.stderr
