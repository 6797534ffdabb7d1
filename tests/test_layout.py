"""The rules of the house that no compiler checks: `docs/design.md` says why they are there."""

import ast
import re
from pathlib import Path

import pytest
from rust_source import RustFile, read_crate

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
MOST_LINES = 500
MOST_FUNCTION_LINES = 60

# Module -> the modules it may use. The order is the order of the layers.
_BELOW = {"error", "config", "random", "text"}
MAY_USE = {
    "error": set(),
    "config": {"error"},
    "random": set(),
    "text": {"config", "error"},
    "kernels": {"error", "random"},
    "ops": {"kernels", "random", "error"},
    "model": {"ops", "kernels", "random", "config", "error"},
    "weights": {"model", "kernels", "config", "error"},
    "generation": {"model", "ops", "kernels"} | _BELOW,
    "training": {"model", "ops", "kernels"} | _BELOW,
    "python": {"model", "ops", "kernels", "weights", "generation", "training"} | _BELOW,
}
# The model's one word with the kernels: the layout in which its parameters are stored.
ONLY_FOR = {("model", "kernels"): {"src/model/parameter.rs", "src/model/parameter/assign.rs"}}

# Files that may be longer, with the reason. Keep it empty.
LONG_FILES: dict[str, str] = {}


@pytest.fixture(scope="module")
def crate() -> list[RustFile]:
    files = read_crate(SOURCE)
    assert len(files) > 50, "the sources are not where this test looks"
    return files


def read(tmp_path: Path, name: str, text: str) -> RustFile:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return RustFile(path, tmp_path)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Direction of imports ----------------------------------------------------------------------------


def wrong_imports(file: RustFile, name: str) -> list[str]:
    wrong = []
    for used, line in file.imports():
        if used == file.layer or used not in MAY_USE:
            continue  # within the layer, or a name that the root exports: `crate::Error`
        allowed = used in MAY_USE[file.layer]
        if not allowed or name not in ONLY_FOR.get((file.layer, used), {name}):
            wrong.append(f"{name}:{line}: `{file.layer}` uses `{used}`")
    return wrong


def test_modules_use_only_what_lies_below_them(crate):
    known = {file.layer for file in crate} - {""}
    assert known == set(MAY_USE), "a module of the root has no place in the order"
    found = [wrong for f in crate if f.layer for wrong in wrong_imports(f, relative(f.path))]
    assert not found, "\n".join(found)


def test_the_order_has_no_circle():
    seen: set[str] = set()
    for layer, used in MAY_USE.items():
        assert used <= seen, f"`{layer}` may use {sorted(used - seen)}, which lie above it"
        seen.add(layer)


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("use crate::model::Batch;", ["model"]),
        ("use crate::{error::{Error, Result}, model, ops::with_floats as f};", 3),
        ("fn f() { crate::ops::way() }", ["ops"]),
        ("use super::super::generation::Options;", ["generation"]),
        ("mod tests { use super::super::super::python::x; }", ["python"]),
        ("mod tests { use super::super::python::x; }", []),
        ("use super::{python, model};", []),
        ("use super::super::{python, model};", ["python", "model"]),
        ('// use crate::python;\nlet s = "crate::python"; let c = \'"\'; /* crate::ops */', []),
        ('let r = r#"crate::ops " crate::python"#; crate::text::x();', ["text"]),
    ],
)
def test_the_reader_sees_every_way_of_importing(tmp_path, text, used):
    file = read(tmp_path, "kernels/gelu.rs", text)
    names = [name for name, _ in file.imports()]
    assert names == (["error", "model", "ops"] if used == 3 else used)


def test_an_import_upwards_is_found(tmp_path):
    file = read(tmp_path, "ops/linear.rs", "use crate::error::Result;\nuse crate::model::Batch;")
    assert wrong_imports(file, "src/ops/linear.rs") == ["src/ops/linear.rs:2: `ops` uses `model`"]
    file = read(tmp_path, "model/encoder.rs", "use crate::kernels::gelu;")
    assert wrong_imports(file, "src/model/encoder.rs")
    assert not wrong_imports(file, "src/model/parameter.rs")


def test_the_root_is_a_map(crate):
    (root,) = [file for file in crate if not file.layer]
    assert not re.search(r"\b(fn|struct|enum|impl|trait)\b", root.code), "lib.rs holds logic"
    assert re.search(r"#!\[deny\([^)]*\bunsafe_code\b[^)]*\bmissing_docs\b", root.code)


# Unsafe code -------------------------------------------------------------------------------------


def unsafe_without_reason(file: RustFile) -> list[str]:
    """Lines of `unsafe` that say neither `SAFETY:` nor, for a contract, `# Safety`."""
    wrong = []
    for match in re.finditer(r"\bunsafe\b\s*(extern\s+)?(\w+|\{)(\s*\()?", file.code):
        kind = match[2]
        if kind == "fn" and match[3]:
            continue  # the type of a pointer
        reason = file.statement(match.start())
        if kind in ("fn", "trait"):
            holder = next((s for s in reversed(file.scopes(match.start())) if s.kind), None)
            if holder and holder.kind == "impl" and re.search(r"\bfor\b", holder.head):
                continue  # the contract is the trait's
            if holder and holder.kind == "trait":
                reason += file.statement(holder.start)
            fine = "# Safety" in reason
        else:
            fine = "SAFETY:" in reason
        if not fine:
            wrong.append(f"{file.path.name}:{file.line(match.start())}: unsafe {kind}")
    return wrong


def test_unsafe_is_in_the_kernels_only(crate):
    outside = [relative(f.path) for f in crate if f.layer != "kernels" and _has_unsafe(f)]
    assert not outside, f"unsafe code outside src/kernels: {outside}"
    switches = [f for f in crate if re.search(r"allow\([^)]*unsafe_", f.code) and f.layer]
    assert not switches, f"lints about unsafe code are off in {switches}"


def _has_unsafe(file: RustFile) -> bool:
    return bool(re.search(r"\bunsafe\b", file.code))


def test_every_unsafe_has_its_reason(crate):
    found = [wrong for file in crate for wrong in unsafe_without_reason(file)]
    assert not found, "\n".join(found)
    count = sum(len(re.findall(r"\bunsafe\b", file.code)) for file in crate)
    assert count > 20, "the test no longer sees the unsafe code"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("fn f() {\n    // SAFETY: in bounds.\n    g(1, unsafe { *p });\n}", 0),
        ("fn f() {\n    g(1, unsafe { *p });\n}", 1),
        ("// SAFETY: of another.\nfn f() { unsafe { *p } }", 1),
        ("// SAFETY: a number.\nunsafe impl Send for A {}", 0),
        ("/// Does.\nunsafe impl Send for A {}", 1),
        ("/// Reads.\n///\n/// # Safety\n/// - `p` is valid.\n#[inline]\npub unsafe fn f() {}", 0),
        ("/// Reads.\npub unsafe fn f() {}", 1),
        ("/// # Safety\n/// - Valid.\ntrait T {\n    unsafe fn f();\n}", 0),
        ("impl T for A {\n    unsafe fn f() {}\n}", 0),
        ("impl A {\n    unsafe fn f() {}\n}", 1),
        ("type F = unsafe fn(*const f32);", 0),
        ('let x = "unsafe { }"; // unsafe {', 0),
    ],
)
def test_the_reader_tells_reasons_apart(tmp_path, text, wrong):
    assert len(unsafe_without_reason(read(tmp_path, "kernels/a.rs", text))) == wrong


# Sizes and stubs ---------------------------------------------------------------------------------


def own_files() -> list[Path]:
    folders = ("src", "python", "tests", "examples", "benches")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    made = ROOT / "examples" / "text_repair" / "work"
    return [
        path for path in paths if path.suffix in (".rs", ".py", ".pyi") and made not in path.parents
    ]


def test_files_are_short():
    lengths = {relative(path): path.read_text().count("\n") for path in own_files()}
    assert len(lengths) > 100
    long = {name: n for name, n in lengths.items() if n >= MOST_LINES and name not in LONG_FILES}
    assert not long, f"{MOST_LINES} lines or more: {long}"
    stale = [name for name in LONG_FILES if lengths.get(name, 0) < MOST_LINES]
    assert not stale, f"no longer long: {stale}"


def long_rust_functions(file: RustFile) -> list[str]:
    """Functions over the limit whose first line gives no reason for it."""
    wrong = []
    for match in re.finditer(r"\bfn\s+(\w+)", file.code):
        opening = re.compile(r"[{;]").search(file.code, match.end())
        if opening is None or opening.group() == ";":
            continue
        depth, end = 0, opening.start()
        for brace in re.compile(r"[{}]").finditer(file.code, opening.start()):
            depth += 1 if brace.group() == "{" else -1
            end = brace.start()
            if depth == 0:
                break
        first = file.text[opening.end() : end].lstrip()
        lines = file.line(end) - file.line(match.start()) + 1
        if lines > MOST_FUNCTION_LINES and not first.startswith("//"):
            wrong.append(f"{relative(file.path)}:{file.line(match.start())}: {match[1]}, {lines}")
    return wrong


def long_python_functions(path: Path) -> list[str]:
    """The same for Python; docstrings do not count."""
    text = path.read_text()
    lines, wrong = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        body = node.body
        if ast.get_docstring(node, clean=False) is not None:
            body = body[1:] or body
        before = lines[body[0].lineno - 2].strip()
        length = node.end_lineno - body[0].lineno + 1
        if length > MOST_FUNCTION_LINES and not before.startswith("#"):
            wrong.append(f"{relative(path)}:{node.lineno}: {node.name}, {length}")
    return wrong


def test_functions_fit_a_screen(crate):
    """A longer one says why in its first comment."""
    python = [path for path in own_files() if path.suffix == ".py"]
    found = [wrong for file in crate for wrong in long_rust_functions(file)]
    found += [wrong for path in python for wrong in long_python_functions(path)]
    assert not found, f"over {MOST_FUNCTION_LINES} lines:\n" + "\n".join(found)


def test_nothing_is_left_to_be_written(crate):
    left = [
        f"{relative(file.path)}:{file.line(match.start())}: {match.group()}"
        for file in crate
        for match in re.finditer(r"\b(todo|unimplemented|dbg)!", file.code)
    ]
    assert not left, "\n".join(left)


def test_a_long_function_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_layout.ROOT", tmp_path)
    body = "    step();\n" * MOST_FUNCTION_LINES
    assert long_rust_functions(read(tmp_path, "a.rs", f"fn f() {{\n{body}}}\nfn g() {{}}\n"))
    assert not long_rust_functions(
        read(tmp_path, "a.rs", f"fn f() {{\n    // One table.\n{body}}}")
    )
    body = "    step()\n" * (MOST_FUNCTION_LINES + 1)
    path = tmp_path / "a.py"
    path.write_text(f'def f():\n    """Does."""\n{body}')
    assert long_python_functions(path)
    path.write_text(f'def f():\n    """Does."""\n    # One table.\n{body}')
    assert not long_python_functions(path)
