"""`bart-fast --bench`: what it measures is asserted, no time is."""

import subprocess
import sys

import pytest

from bart_fast import _core, benchmark, cli
from bart_fast._costs import Size

TINY = Size(103, 36, 2, 3, 70, 48)


def test_every_row_has_its_rate_and_limit(capsys):
    lines = []
    benchmark.run(size=TINY, new_tokens=4, encoder_source=11, write=lines.append)
    assert _core.runtime_info()["instruction_set"] in lines[0]
    assert "GB/s" in lines[1]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    titles = [row[0] for row in table[2:]]
    assert len(titles) == 2 + 3 + 2
    assert all(any(precision in title for title in titles) for precision in benchmark.PRECISIONS)
    assert all("tokens/s" in row[1] and row[2] for row in table[2:])
    assert all(bool(row[3]) == bool(row[4]) == ("random" in row[0]) for row in table[2:])
    # Progress is not among the answers.
    printed = capsys.readouterr()
    assert printed.out == "" and "measuring" in printed.err


def test_the_command(monkeypatch, capsys):
    threads = _core.get_num_threads()
    monkeypatch.setattr(benchmark, "run", lambda: print(_core.get_num_threads(), "threads"))
    try:
        assert cli.main(["--bench", "--threads", "3"]) == 0
    finally:
        _core.set_num_threads(threads)
    assert capsys.readouterr().out == "3 threads\n"


@pytest.mark.parametrize("arguments", [["a text"], ["--file", "x"], ["--threads", "0"]])
def test_wrong_arguments(arguments):
    command = [sys.executable, "-m", "bart_fast.cli", "--bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and arguments[0].removesuffix(" text") in done.stderr


def test_too_many_threads():
    command = [sys.executable, "-m", "bart_fast.cli", "--threads", "1000000", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--threads" in done.stderr
