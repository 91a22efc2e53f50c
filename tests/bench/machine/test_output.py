"""Text to terminals, pipes and logs."""

import os
import subprocess
import sys

import pytest

from bench.machine import output


def test_a_log_on_a_full_disk_takes_what_it_can():
    with output.unfailing(output.Path("/dev/full")) as log:
        log.write("a line\n")
        print("another", file=log)


def test_a_log_that_cannot_be_opened_is_no_error(tmp_path):
    with output.unfailing(tmp_path) as log:
        print("a line", file=log)


PRINTS = """
import sys
from bench.machine import output
output.open_streams()
print("✓ 335 ± 8.60" * 1000)
print("error", file=sys.stderr)
lost = output.unwritten()
print(lost.strerror if lost else "all", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("redirect", "says"),
    [("", "all"), (">/dev/full", "No space left on device"), (">&-", "all"), ("| true", "all"), (">&- 2>&-", None)],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_no_print_raises(redirect, says, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "CODE": PRINTS}
    command = f'set -o pipefail; {sys.executable} -c "$CODE" {redirect}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, errors="replace")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == (["error", says] if says else [])


def test_a_file_is_never_taken_for_a_standard_output_that_was_closed(tmp_path):
    code = "import os, sys; from bench.machine import output; output.open_streams(); f = open(sys.argv[1], 'w'); print('lost'); os.write(1, b'lost')"
    command = f'{sys.executable} -c "{code}" {tmp_path}/file >&-'
    subprocess.run(["bash", "-c", command], check=True, env=os.environ.copy())
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ± ✓ 😀\n\ttwo", "plain ± ✓ 😀\n\ttwo"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y", "xy"),
        ("\x1b[2J\x1b(Bx\x1bc", "x"),
        ("\x9b31mx\x00\x08", "\ufffd31mx\ufffd\ufffd"),
        ("10 %\r20 %\r\nend", "10 %\n20 %\nend"),
        ("\udcff", "\ufffd"),
        ("שלום a\u202eb\u2069", "שלום a\ufffdb\ufffd"),
    ],
)
def test_what_commands_a_terminal_is_not_shown(text, shown):
    assert output.visible(text) == shown
