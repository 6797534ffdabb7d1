"""The README's Python runs as written, and its commands are the ones that are promised."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL_AND_RUN = re.compile(r'^pip install \. && bart-fast ".+"$', re.MULTILINE)
INSTALL_AND_TEST = 'pip install ".[test]" && pytest'


def blocks(language: str, text: str = README) -> list[tuple[int, str]]:
    """The fenced blocks of a language, each with the line that its code starts on."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def test_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """In one namespace, as a reader would type it."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    python = blocks("python")
    assert len(python) >= 5
    for line, code in python:
        # Line numbers of a traceback are those of the file.
        exec(compile("\n" * (line - 1) + code, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].strip(), "the first example prints nothing"
    assert (tmp_path / "my_preset" / "model.weights.h5").is_file()


def test_the_guide_to_training_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    namespace = {"__name__": "training"}
    python = blocks("python", text)
    assert len(python) >= 6
    for line, code in python:
        exec(compile("\n" * (line - 1) + code, "training.md", "exec"), namespace)


def test_the_two_commands_stand_alone_and_first():
    shell = [code.strip() for _, code in blocks("sh")]
    assert INSTALL_AND_RUN.fullmatch(shell[0])
    assert shell[1] == INSTALL_AND_TEST


def test_the_command_line_is_the_one_the_program_has():
    from bart_fast.cli import _parser

    calls = [call for _, code in blocks("sh") for call in re.findall(r"bart-fast [^|>&\n]+", code)]
    assert len(calls) >= 4
    for call in calls:
        words = shlex.split(call, comments=True)[1:]
        if "--help" not in words:
            _parser().parse_args(words)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs"])
def test_links_lead_somewhere(document):
    path = ROOT / document
    pages = sorted(path.glob("*.md")) if path.is_dir() else [path]
    assert pages
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md", "docs/formats.md"])
def test_paths_that_documents_name_exist(page):
    """Files and folders of the project in backticks; the house moves, its map must follow."""
    text = (ROOT / page).read_text(encoding="utf-8")
    places = r"(?:src|python|tests|benches|examples|docs)/"
    named = set(re.findall(rf"`({places}[\w./]*\w/?)`", text))
    assert len(named) >= 5
    missing = [name for name in sorted(named) if not (ROOT / name).exists()]
    assert not missing, f"{page} names {missing}"
