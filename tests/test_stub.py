"""`_core.pyi` says what the built module has: names, parameters and their defaults, both ways."""

import ast
import inspect
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bart_fast
from bart_fast import _core

STUB = Path(bart_fast.__file__).with_name("_core.pyi").read_text()
# What every module and class has.
_COMMON = set(dir(types.ModuleType("m"))) | {"__file__", "__all__"}


def differences(stub: str, module: Any) -> list[str]:
    """Everything in which the stub and the module are not of one mind."""
    declared = {name: node for node in ast.parse(stub).body if (name := _public(node))}
    built = set(dir(module)) - _COMMON
    found = _only_one_side("", set(declared), built)
    for name in sorted(set(declared) & built):
        node, value = declared[name], getattr(module, name)
        if isinstance(node, ast.ClassDef) != isinstance(value, type):
            found.append(f"{name}: a class on one side only")
        elif isinstance(node, ast.ClassDef):
            found += _class_differences(node, value)
        elif isinstance(node, ast.FunctionDef):
            found += _signature_differences(name, node, value)
    return found


def _public(node: ast.stmt) -> str | None:
    if isinstance(node, ast.AnnAssign):
        return node.target.id
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
        return node.name
    return None


def _only_one_side(prefix: str, declared: set[str], built: set[str]) -> list[str]:
    missing = [f"{prefix}{name}: not in the module" for name in sorted(declared - built)]
    return missing + [f"{prefix}{name}: not in the stub" for name in sorted(built - declared)]


def _class_differences(node: ast.ClassDef, cls: type) -> list[str]:
    members = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    constructor = members.pop("__new__", None)
    built = {name for name in vars(cls) if not name.startswith("_")}
    found = _only_one_side(f"{node.name}.", set(members), built)
    if constructor is None:
        found.append(f"{node.name}: the stub has no `__new__`")
    else:
        found += _signature_differences(f"{node.name}()", constructor, cls)
    for name in sorted(set(members) & built):
        member, value = members[name], vars(cls)[name]
        decorators = {each.id for each in member.decorator_list}
        if ("property" in decorators) != inspect.isdatadescriptor(value):
            found.append(f"{node.name}.{name}: a property on one side only")
        elif "property" not in decorators:
            found += _signature_differences(f"{node.name}.{name}", member, value)
    return found


def _signature_differences(name: str, node: ast.FunctionDef, value: Any) -> list[str]:
    """Names, order, kinds and defaults of the parameters."""
    text = getattr(value, "__text_signature__", None)
    if text is None:
        return [f"{name}: the module gives no signature"]
    text = text.replace("$", "")
    built = ast.parse(f"def f{text}: ...").body[0]
    declared, actual = _parameters(node), _parameters(built)
    return [] if declared == actual else [f"{name}: the stub has {declared}, the module {actual}"]


def _parameters(node: ast.FunctionDef) -> list[str]:
    arguments = node.args
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(plain, defaults, strict=True)]
    texts = [_parameter(each, default) for each, default in pairs]
    keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    texts += [f"*, {_parameter(each, default)}" for each, default in keyword]
    return [text for text in texts if text not in ("self", "cls")]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return argument.arg if default is None else f"{argument.arg}={ast.unparse(default)}"


def test_stub_and_module_agree():
    found = differences(STUB, _core)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("def encode_batch(", "def encode_all(", "Tokenizer.encode_all: not in the module"),
        ("def encode_batch(", "def encode_all(", "Tokenizer.encode_batch: not in the stub"),
        ("def set_num_threads(n:", "def set_num_threads(count:", "set_num_threads: the stub has"),
        ("def get_num_threads(", "def num_threads(", "get_num_threads: not in the stub"),
        ("def __new__(cls, config: str)", "def __new__(cls, text: str)", "Optimizer(): the stub"),
        ('dtype: str = "float32"', 'dtype: str = "float16"', "Model.save_safetensors: the stub"),
        ("    @property\n", "", "Model.config: a property on one side only"),
        ("class Optimizer:", "class Optimiser:", "Optimiser: not in the module"),
    ],
)
def test_a_difference_is_found(old, new, expected):
    assert old in STUB
    assert any(each.startswith(expected) for each in differences(STUB.replace(old, new), _core))


def test_step_results_have_the_declared_entries():
    tree = ast.parse(STUB).body
    (declared,) = [n for n in tree if isinstance(n, ast.ClassDef) and n.name == "_StepResult"]
    backbone = bart_fast.models.BartBackbone(11, 1, 2, 8, 12, max_sequence_length=9)
    ids, mask = np.array([[0, 5, 2]]), np.ones((1, 3), dtype=bool)
    result = backbone._model.evaluate_step(ids, mask, ids, mask, ids, None)
    assert set(result) == {each.target.id for each in declared.body}


def test_configurations_are_json_both_ways():
    model = bart_fast.models.BartBackbone(11, 1, 2, 8, 12, max_sequence_length=9)._model
    assert json.loads(_core.Model(model.config).config) == json.loads(model.config)
