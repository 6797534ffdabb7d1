"""`docs/arguments.md` is complete, and true: what it calls refused is passed."""

import inspect
import re
from pathlib import Path

import pytest
from good_arguments import find, good_calls

from bart_fast import (
    callbacks,
    cli,
    losses,
    metrics,
    models,
    optimizers,
    pretraining,
    samplers,
)
from bart_fast.optimizers import schedules

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "arguments.md"
# Methods that classes inherit or have alike.
SHARED = ("from_config", "from_preset", "save_to_preset", "export_to_transformers",
          "load_assets", "save_assets", "set_vocabulary_and_merges")  # fmt: skip
MODULES = (models, samplers, optimizers, schedules, losses, metrics, callbacks, pretraining)
TABLE_LINE = r"^\| (.*?) \| (.*?) \|(.*?)\| ?(.*?) ?\|$"


def read_table():
    """(callable's name, argument) -> (type, what is refused, the name of its error)."""
    rows, names = {}, []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            names = re.findall(r"`([^`]+)`", line)
        found = re.match(TABLE_LINE, line)
        if found is None or found[1] in ("argument", "---"):
            continue
        error = re.search(r"\(`(\w+Error)`\)", found[4])
        refused = re.findall(r"`([^`]+)`", re.sub(r" \(`\w+Error`\)", "", found[4]))
        for name in names:
            for argument in re.findall(r"`(\w+)`", found[1]):
                rows[name, argument] = (found[2], refused, error and error[1])
    return rows


TABLE = read_table()


def parameters_of(function):
    """Names of what a caller may pass by name."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(function).parameters.values()
    return [
        p.name
        for p in found
        if p.kind in named and p.name not in ("self", "cls") and p.name[0] != "_"
    ]


# Complete.

# Methods that the package calls, on classes of users; what `generate()` and the like return; and
# methods that say that they are not there.
_CALLED_BY_US = re.compile(r"on_\w+|set_(model|params|state)|get_next_token|compute_probabilities"
                           r"|similarity|draw|normalizer|build|apply|serves|append|add(_\w+)?"
                           r"|adopt_settings|follow")  # fmt: skip
_BASES = ("Callback", "CallbackList", "MonitorCallback", "ProgbarLogger", "LearningRateSchedule",
          "Loss", "Metric", "Optimizer", "TextClassifier", "TextMetric")  # fmt: skip


def public_functions():
    """Name -> function: classes, their methods (where they are defined), functions."""
    for module in MODULES:
        prefix = module.__name__.removeprefix("bart_fast.").removeprefix("models")
        for name in module.__all__:
            value, path = getattr(module, name), f"{prefix}.{name}".lstrip(".")
            if not inspect.isclass(value):
                if callable(value):
                    yield path, value
                continue
            if name.endswith("Output") or name in _BASES:
                continue
            yield path, value
            for method in dir(value):
                function = inspect.getattr_static(value, method)
                function = getattr(function, "__func__", function)
                is_public = method == "__call__" or method[0] != "_"
                is_ours = not _CALLED_BY_US.fullmatch(method) and module is not schedules
                if inspect.isfunction(function) and is_public and is_ours:
                    yield f"{path}.{method}", function


def called(name):
    """One name for the two or three by which objects can be called."""
    return re.sub(r"\.(call|tokenize)$", ".__call__", name)


def test_every_argument_has_a_row():
    rows = {}
    for name, argument in TABLE:
        function = find(name)
        rows.setdefault(getattr(function, "__func__", function), set()).add(argument)
        # What all classes of a kind have alike stands there once.
        for method in SHARED:
            if name.endswith(method):
                rows.setdefault(method, set()).add(argument)
    missing = []
    for name, function in public_functions():
        known = rows.get(function, set()) | rows.get(name.rsplit(".", 1)[-1], set())
        names = (called(name), called(function.__qualname__))
        known |= {argument for other, argument in TABLE if called(other) in names}
        missing += [f"{name}({a})" for a in parameters_of(function) if a not in known]
    assert not missing, f"without a row in docs/arguments.md: {missing}"


def test_every_row_is_of_an_argument():
    wrong = [f"{name}({argument})" for name, argument in TABLE if not has_row(name, argument)]
    assert not wrong


def has_row(name, argument):
    """Whether one of the callables of its table has it."""
    return any(is_taken(other, argument) for other, listed in TABLE if listed == argument)


def test_options_of_the_command():
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| .*? \| .*? \| (.*) \|$", text, flags=re.MULTILINE))
    known = {o for action in cli._parser()._actions for o in action.option_strings if o[1] == "-"}
    assert set(rows) == known - {"--help", "--version"}
    for option, refused in rows.items():
        for value in re.findall(r"`([^`]+)`", refused):
            arguments = [option, value] if option == "--file" else [option, value, "text"]
            try:
                assert cli.main(arguments) == 1, (option, value)
            except SystemExit as stopped:
                assert stopped.code == 2, (option, value)


# True.

# What messages call an argument that stands for something else.
OTHER = {
    "config": ("sampler", "optimizer", "loss", "metric", "schedule"),
    "metrics": ("metric",),
    "weighted_metrics": ("metric",),
    "learning_rate_schedule": ("schedule",),
    "identifier": ("sampler", "optimizer", "loss", "metric", "config"),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Name -> (callable, good arguments)."""
    # Of those that are not among them no argument is needed.
    free = {name: (find(name), {}) for name, _ in TABLE}
    return {**free, **good_calls(tmp_path_factory.mktemp("arguments"))}


def is_taken(name, argument):
    """Whether this one of the callables that share a table has the argument."""
    taken = parameters_of(find(name))
    common = parameters_of(optimizers.Optimizer)
    return argument in taken or (re.fullmatch(r"optimizers\.\w+", name) and argument in common)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "argument"), [row for row in TABLE if is_taken(*row)])
def test_refused_values_are_refused(calls, name, argument, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    function, good = calls[name]
    kind, refused, error = TABLE[name, argument]
    allowed = DOCUMENT.read_text(encoding="utf-8")
    if not refused:
        line = next(x for x in allowed.splitlines() if f"`{argument}`" in x and x.endswith("| |"))
        assert "anything" in line, "a row without a value that is refused"
        if kind == "anything" and argument != "cache":
            function(**{**good, argument: object()})
        return
    for text in refused:
        value = eval(text, {"nan": float("nan"), "inf": float("inf")})
        with pytest.raises(ValueError if error is None else (ValueError, TypeError)) as caught:
            result = function(**{**good, argument: value})
            if inspect.isgenerator(result):
                list(result)
        message = str(caught.value)
        assert f"`{argument}`" in message or any(
            f"`{w}`" in message for w in OTHER.get(argument, ())
        ), f"{text}: {message}"
