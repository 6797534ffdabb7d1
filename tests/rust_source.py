"""Just enough of a Rust reader for the layout tests: comments, strings, braces and paths."""

import re
from dataclasses import dataclass
from pathlib import Path

# What is no code, longest forms first: comments, raw strings, strings, characters (not lifetimes).
_NO_CODE = re.compile(
    r"""//[^\n]*
      | /\*.*?\*/
      | \bb?r(\#*)".*?"\1
      | \bb?"(?:\\.|[^"\\])*"
      | "(?:\\.|[^"\\])*"
      | '(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'
    """,
    re.VERBOSE | re.DOTALL,
)
_SCOPE = re.compile(r"\b(?P<kind>mod|trait|impl)\b(?P<head>[^;{}]*)\{|\{|\}")
_PATH = re.compile(r"\b(?P<root>crate|super)(?P<rest>(?:\s*::\s*(?:\w+|\{))+)")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Scope:
    """A `mod`, `trait` or `impl` (or a bare pair of braces, of no kind) and where its head is."""

    kind: str
    head: str
    start: int


class RustFile:
    """One source file, its text and the same text with comments and strings blanked out."""

    def __init__(self, path: Path, source: Path):
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.code = _NO_CODE.sub(_blank, self.text)
        parts = list(path.relative_to(source).with_suffix("").parts)
        if parts[-1] in ("mod", "lib"):
            parts.pop()
        #: The module the file is, as a path from the crate's root.
        self.module = tuple(parts)

    @property
    def layer(self) -> str:
        """The top-level module the file belongs to; "" for `lib.rs`."""
        return self.module[0] if self.module else ""

    def line(self, position: int) -> int:
        """The number of the line that `position` is on."""
        return self.text.count("\n", 0, position) + 1

    def scopes(self, position: int) -> list[Scope]:
        """The scopes around `position`, outermost first."""
        stack: list[Scope] = []
        for match in _SCOPE.finditer(self.code, 0, position):
            if match.group() == "}":
                stack.pop()
            else:
                head = (match["head"] or "").strip()
                stack.append(Scope(match["kind"] or "", head, match.start()))
        return stack

    def imports(self) -> list[tuple[str, int]]:
        """Names right below the crate's root that the file reaches for, with their lines."""
        found = []
        for match in _PATH.finditer(self.code):
            segments = [each.strip() for each in match["rest"].split("::") if each.strip()]
            depth = 0
            if match["root"] == "super":
                ups = 1 + next((i for i, s in enumerate(segments) if s != "super"), len(segments))
                inner = sum(scope.kind == "mod" for scope in self.scopes(match.start()))
                depth = len(self.module) + inner - ups
                segments = segments[ups - 1 :]
            if depth > 0 or not segments:
                continue
            line = self.line(match.start())
            if segments[0] == "{":
                found += [(name, line) for name in self._group(match.end())]
            else:
                found.append((segments[0], line))
        return found

    def _group(self, start: int) -> list[str]:
        """First names of the entries of a `{...}` group whose inside begins at `start`."""
        names, depth, fresh = [], 0, True
        for match in re.finditer(r"\w+|[{},]", self.code[start:]):
            token = match.group()
            if token == "}" and depth == 0:
                break
            depth += {"{": 1, "}": -1}.get(token, 0)
            if token == "," and depth == 0:
                fresh = True
            elif fresh and _WORD.fullmatch(token):
                names.append(token)
                fresh = False
        return names

    def statement(self, position: int) -> str:
        """The text from where the statement or item around `position` begins, up to there.

        It takes in the comments above the statement, since nothing but code ends one.
        """
        start = max(self.code.rfind(mark, 0, position) for mark in ";{}")
        return self.text[start + 1 : position]


def read_crate(source: Path) -> list[RustFile]:
    """Every Rust file below `source`."""
    return [RustFile(path, source) for path in sorted(source.rglob("*.rs"))]


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match.group())
