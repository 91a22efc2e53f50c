"""``methodbench site``."""

from tests import synthetic
from tests.command import methodbench


def test_it_writes_an_index_and_says_where(tmp_path):
    for name in ("a", "b"):
        synthetic.write(synthetic.records(seeds=(0,)), tmp_path / name)
    assert methodbench("site", "a", "b", "--out", "out", cwd=tmp_path) == "wrote out/index.html, with 2 reports\n"
    assert (tmp_path / "out" / "b" / "report.html").is_file()


def test_a_folder_without_records_is_2(tmp_path):
    assert "nowhere: no such folder" in methodbench("site", "nowhere", cwd=tmp_path, status=2)
