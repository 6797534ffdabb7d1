"""The command `bart-fast`, run as users run it, with a small preset."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_model

import bart_fast
from bart_fast import cli
from bart_fast.models import BartSeq2SeqLM

LINES = ["the whale", "a fox", "jumps over it", "the whale", "zebra", "q", "ab", "cd", "ef", "gh"]


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("presets") / "tiny")
    tiny_model().save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def answers(preset):
    """What the command must print for `LINES`."""
    model = BartSeq2SeqLM.from_preset(preset)
    model.compile(sampler="greedy")
    answers = [model.generate(line) for line in LINES]
    assert len(set(answers)) > 2
    return answers


def command(*arguments):
    return [sys.executable, "-m", "bart_fast.cli", *arguments]


def run(*arguments, input="", **options):
    options.setdefault("encoding", "utf-8")
    return subprocess.run(
        command(*arguments), input=input, capture_output=True, timeout=60, **options
    )


def lines_of(answers):
    return "".join(f"{answer}\n" for answer in answers)


def test_a_text_gives_one_line(preset, answers):
    result = run("--preset", preset, LINES[0])
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{answers[0]}\n", "")
    words = run("--preset", preset, *LINES[2].split())
    assert words.stdout == f"{answers[2]}\n"
    several = run("--preset", preset, LINES[2].replace(" ", "\n"))
    assert several.stdout == f"{answers[2]}\n"


@pytest.mark.parametrize("arguments", [[], ["-"], ["--file", "-"]])
def test_piped_lines(preset, answers, arguments):
    result = run("--preset", preset, *arguments, input="\n".join(LINES))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == lines_of(answers)


def test_blank_lines_stay(preset, answers):
    result = run("--preset", preset, input=f"{LINES[0]}\n\n   \n{LINES[1]}\n")
    assert result.stdout == f"{answers[0]}\n\n\n{answers[1]}\n"
    assert run("--preset", preset, "").stdout == "\n"
    assert run("--preset", preset, input="").stdout == ""


def test_files_in_order(preset, answers, tmp_path):
    (tmp_path / "one").write_text("\n".join(LINES[:7]), encoding="utf-8")
    # A byte order mark and Windows' line ends, as Windows' editors write them.
    (tmp_path / "two").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LINES[7:]).encode())
    files = ["--file", str(tmp_path / "one"), "--file", str(tmp_path / "two")]
    result = run("--preset", preset, *files)
    assert (result.returncode, result.stdout) == (0, lines_of(answers))
    piped = run("--preset", preset, *files, "-", input=LINES[0])
    assert piped.stdout == lines_of([*answers, answers[0]])


def test_each_line_is_answered_before_the_next_comes(preset, answers):
    process = subprocess.Popen(
        command("--preset", preset),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        bufsize=1,
    )
    with process:
        for line, answer in zip(LINES[:3], answers, strict=False):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{answer}\n"
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_a_reader_that_leaves_is_no_error(preset, tmp_path):
    (tmp_path / "long").write_text("the whale\n" * 500, encoding="utf-8")
    process = subprocess.Popen(
        command("--preset", preset, "--file", str(tmp_path / "long")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_ends_it_quietly(preset):
    process = subprocess.Popen(
        command("--preset", preset),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        process.stdin.write("the whale\n")
        process.stdin.flush()
        assert process.stdout.readline()  # it is past its start
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 1
        assert "Traceback" not in process.stderr.read()


def test_options(preset):
    short = run("--preset", preset, "--max-length", "4", LINES[0]).stdout
    assert len(short) <= 3  # two tokens start the answer, a letter is one
    drawn = [
        run("--preset", preset, "--sampler", "random", "--seed", seed, LINES[0]).stdout
        for seed in ("1", "1", "2", "3", "4")
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert run("--preset", preset, "--sampler", "beam", LINES[0]).returncode == 0
    long = " ".join(LINES)
    assert "the end of a text is left out" in run("--preset", preset, long).stderr
    assert "the end of" not in run("--preset", preset, "--overlap", "2", long).stderr


def test_version_and_help():
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"bart-fast {bart_fast.__version__}\n")
    assert "--preset" in run("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "magic", "text"], "invalid choice: 'magic'"),
        (["--max-length", "0", "text"], "whole number of at least 1, received '0'"),
        (["--max-length", "many", "text"], "received 'many'"),
        (["--seed", "-1", "text"], "at least 0, received '-1'"),
        (["--overlap", "half", "text"], "at least 0, received 'half'"),
        (["--unknown", "text"], "--unknown"),
        (["--file", "somewhere", "text"], "TEXT and --file cannot be used together"),
        (["--max-length", "1000", "text"], "--max-length: expected 2 to 24 for this model"),
        (["--max-length", "1", "text"], "--max-length: expected 2 to 24 for this model"),
    ],
)
def test_wrong_arguments_exit_with_2(preset, arguments, message):
    result = run("--preset", preset, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr


def test_nothing_to_do_exits_with_2(monkeypatch, capsys):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2
    assert "nothing to do" in capsys.readouterr().err


def test_a_text_that_is_not_utf8_exits_with_2(preset):
    result = run("--preset", preset, os.fsdecode(b"caf\xe9"))
    assert (result.returncode, result.stdout) == (2, "")
    assert "TEXT is not UTF-8" in result.stderr


@pytest.mark.parametrize("program", [["-m", "bart_fast.cli"], None])
def test_a_bad_environment_is_an_error_without_a_traceback(program):
    """Though it is found before the command begins."""
    script = Path(sys.executable).parent / "bart-fast"
    if program is None and not script.exists():
        pytest.skip("the command is not installed here")
    result = subprocess.run(
        [sys.executable, *(program or [str(script)]), "text"],
        env={**os.environ, "BART_FAST_NUM_THREADS": "many"},
        capture_output=True,
        encoding="utf-8",
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("bart-fast: error: `BART_FAST_NUM_THREADS`: received `many`")
    assert "Traceback" not in result.stderr


def test_failures_exit_with_1(preset, tmp_path):
    unknown = run("--preset", "no_such_preset", "text")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("bart-fast: error: `preset` must be one of")
    missing = run("--preset", preset, "--file", str(tmp_path / "missing"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "missing" in missing.stderr
    for result in (unknown, missing):
        assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_an_error_without_a_traceback(preset):
    for arguments in (["--version"], ["--preset", preset, "text"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command(*arguments), stdout=full, stderr=subprocess.PIPE, encoding="utf-8"
            )
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_a_named_pipe_is_answered_line_by_line(preset, answers, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.Popen(
        command("--preset", preset, "--file", str(tmp_path / "pipe")),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    with process, (tmp_path / "pipe").open("w", encoding="utf-8") as pipe:
        for line, answer in list(zip(LINES, answers, strict=True))[:3]:
            pipe.write(f"{line}\n")
            pipe.flush()
            assert process.stdout.readline() == f"{answer}\n"
        pipe.close()
        assert process.wait(timeout=30) == 0


def test_bytes_that_are_not_utf8_name_file_and_line(preset, answers, tmp_path):
    """What comes before the bad line is answered."""
    (tmp_path / "latin").write_bytes(b"the whale\na fox\ncaf\xe9\n")
    result = run("--preset", preset, "--file", str(tmp_path / "latin"))
    assert (result.returncode, result.stdout) == (1, lines_of(answers[:2]))
    assert f"{tmp_path / 'latin'}, line 3: not UTF-8" in result.stderr
    assert "hint: " in result.stderr
    piped = run("--preset", preset, input=b"the whale\ncaf\xe9\n", encoding=None)
    assert (piped.returncode, piped.stdout.decode()) == (1, lines_of(answers[:1]))
    assert b"standard input, line 2: not UTF-8" in piped.stderr


def test_answers_are_utf8_whatever_the_locale(preset, answers):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run("--preset", preset, LINES[0], env=environment)
    assert (result.returncode, result.stdout) == (0, f"{answers[0]}\n")
