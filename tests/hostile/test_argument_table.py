"""`docs/arguments.md` is complete, and true: what it calls refused is passed."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_models import (
    SIZES,
    VOCABULARY,
    tiny_backbone,
    tiny_model,
    tiny_preprocessor,
    token_arrays,
)

import bart_fast
from bart_fast import callbacks, cli, losses, metrics, models, optimizers, samplers
from bart_fast.optimizers import schedules

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "arguments.md"
# Methods that classes inherit or have alike.
SHARED = ("from_config", "from_preset", "save_to_preset", "export_to_transformers",
          "load_assets", "save_assets", "set_vocabulary_and_merges")  # fmt: skip
MODULES = (models, samplers, optimizers, schedules, losses, metrics, callbacks)
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


def find(name):
    """`samplers.get`, `BartBackbone` or `BartBackbone.predict`."""
    found = bart_fast
    for part in name.split("."):
        found = getattr(found, part)
    return found


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
                           r"|similarity|draw|normalizer|build|apply|serves|append|add"
                           r"|adopt_settings")  # fmt: skip
_BASES = ("Callback", "CallbackList", "MonitorCallback", "ProgbarLogger", "LearningRateSchedule",
          "Loss", "Metric", "Optimizer")  # fmt: skip


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
                is_ours = not _CALLED_BY_US.fullmatch(method)
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
        known |= {a for n, a in TABLE if called(n) == called(name)}
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
    "weighted_metrics": ("metric",),
    "learning_rate_schedule": ("schedule",),
    "identifier": ("sampler", "optimizer", "loss", "metric", "config"),
}
PAIRS = {"encoder_text": ["ab", "cd"], "decoder_text": ["ab", "cd"]}


def following(prompt, cache, index):
    return np.zeros((len(prompt), 5)), np.ones((len(prompt), 4)), cache


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Name -> (callable, good arguments)."""
    folder = tmp_path_factory.mktemp("arguments")
    model, tokenizer = tiny_model(), tiny_preprocessor().tokenizer
    arrays = token_arrays()
    model.save_to_preset(folder / "preset")
    model.save_weights(folder / "all.weights.h5")
    model.backbone.save_weights(folder / "backbone.weights.h5")
    tokenizer.save_assets(folder)
    classes = models.BartTextClassifierPreprocessor
    classifier = models.BartTextClassifier(
        tiny_backbone(), 2, classes(tokenizer, 12), label2id={"entailment": 1, "other": 0},
        id2label=["other", "entailment"],
    )  # fmt: skip
    classifier.save_to_preset(folder / "classifier")
    found = {}

    def add(names, arguments, owner=None):
        for name in names.split():
            target = find(name) if owner is None else getattr(owner, name.rsplit(".", 1)[1])
            found[name] = (target, arguments)

    backbone = {**SIZES}
    add("BartBackbone", backbone)
    add("BartSeq2SeqLM Seq2SeqLM", {"backbone": model.backbone})
    add("BartTextClassifier", {"backbone": model.backbone, "num_classes": 2})
    add("BartBackbone.__call__ BartBackbone.predict", {"x": arrays}, model.backbone)
    add("BartSeq2SeqLM.__call__", {"x": arrays}, model)
    add("BartTextClassifier.__call__ BartTextClassifier.predict", {"x": ["ab"]}, classifier)
    add("BartSeq2SeqLM.predict", {"x": PAIRS, "verbose": 0}, model)
    add("BartSeq2SeqLM.generate BartSeq2SeqLM.stream", {"inputs": "ab"}, model)
    texts = {"inputs": ["ab"], "targets": ["cd"]}
    add("BartSeq2SeqLM.score BartSeq2SeqLM.cross_attention", texts, model)
    add("BartSeq2SeqLM.encode", {"inputs": ["ab"]}, model)
    add("BartTextClassifier.classify", {"inputs": ["ab"]}, classifier)
    zero_shot = {"texts": ["ab"], "candidate_labels": ["a", "b"], "hypothesis_template": "c {}"}
    add("BartTextClassifier.classify_zero_shot", zero_shot, classifier)
    add("BartBackbone.resize_token_embeddings", {"new_num_tokens": 30}, tiny_backbone())
    add("BartSeq2SeqLM.resize_token_embeddings", {"new_num_tokens": 30}, tiny_model())
    add("BartSeq2SeqLM.set_weights", {"weights": model.get_weights()}, model)
    add("BartSeq2SeqLM.summary", {"print_fn": len}, model)
    add("BartSeq2SeqLM.compile", {}, tiny_model())
    silent = {"x": PAIRS, "verbose": 0}
    add("BartSeq2SeqLM.fit BartSeq2SeqLM.evaluate", silent, tiny_model())
    add("BartSeq2SeqLM.train_on_batch BartSeq2SeqLM.test_on_batch", {"x": PAIRS}, tiny_model())
    preset, of_classes = {"preset": str(folder / "preset")}, {"preset": str(folder / "classifier")}
    add("BartSeq2SeqLM.from_preset BartBackbone.from_preset BartTokenizer.from_preset", preset)
    add("BartSeq2SeqLMPreprocessor.from_preset", preset)
    add("BartTextClassifier.from_preset BartTextClassifierPreprocessor.from_preset", of_classes)
    for method, arguments in (
        ("save_to_preset", {"preset_dir": str(folder / "new")}),
        ("export_to_transformers", {"path": str(folder / "exported")}),
        ("save_weights", {"filepath": str(folder / "new.weights.h5")}),
    ):
        add(f"BartSeq2SeqLM.{method}", arguments, model)
        add(f"BartBackbone.{method}", arguments, model.backbone)
        if method != "save_weights":
            add(f"BartTokenizer.{method}", arguments, tokenizer)
    new = {"preset_dir": str(folder / "new")}
    add("BartSeq2SeqLMPreprocessor.save_to_preset", new, model.preprocessor)
    add("BartTextClassifierPreprocessor.save_to_preset", new, classifier.preprocessor)
    add("BartSeq2SeqLM.load_weights", {"filepath": str(folder / "all.weights.h5")}, model)
    file = {"filepath": str(folder / "backbone.weights.h5")}
    add("BartBackbone.load_weights", file, model.backbone)
    add("BartSeq2SeqLM.from_config", {"config": model.get_config()})
    add("BartBackbone.from_config", {"config": model.backbone.get_config()})
    add("BartTokenizer.from_config", {"config": tokenizer.get_config()})
    for cls, made in (
        ("BartSeq2SeqLMPreprocessor", model.preprocessor),
        ("BartTextClassifierPreprocessor", classifier.preprocessor),
    ):
        add(f"{cls}.from_config", {"config": {**made.get_config(), "tokenizer": tokenizer}})
        add(cls, {"tokenizer": tokenizer})
    files = {"vocabulary": VOCABULARY, "merges": []}
    add("BartTokenizer", files)
    add("BartTokenizer.set_vocabulary_and_merges", files, models.BartTokenizer())
    add("UnigramTokenizer", {})
    add("BartTokenizer.tokenize BartTokenizer.offsets", {"inputs": "ab"}, tokenizer)
    add("BartTokenizer.detokenize", {"inputs": [5]}, tokenizer)
    add("BartTokenizer.id_to_token", {"id": 5}, tokenizer)
    add("BartTokenizer.token_to_id", {"token": "a"}, tokenizer)
    add("BartTokenizer.save_assets BartTokenizer.load_assets", {"dir_path": folder}, tokenizer)
    add("BartSeq2SeqLMPreprocessor.call", {"x": PAIRS}, model.preprocessor)
    add("BartSeq2SeqLMPreprocessor.generate_preprocess", {"x": ["ab"]}, model.preprocessor)
    ids = {"decoder_token_ids": np.ones((1, 2), int), "decoder_padding_mask": np.ones((1, 2))}
    add("BartSeq2SeqLMPreprocessor.generate_postprocess", {"x": ids}, model.preprocessor)
    add("BartTextClassifierPreprocessor.call", {"x": ["ab"]}, classifier.preprocessor)
    return {**found, **keras_calls(str(folder))}


def keras_calls(folder):
    """As `calls`, of what stands in submodules of Keras' names."""
    made = {
        "samplers": samplers.GreedySampler(),
        "optimizers": optimizers.SGD(),
        "losses": losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": metrics.Mean(),
        "optimizers.schedules": schedules.CosineDecay(0.1, 3),
    }
    found = {}
    for module, value in made.items():
        kind = "learning_rate_schedule" if "schedules" in module else module.rstrip("s")
        kind = {"losse": "loss"}.get(kind, kind)
        found[f"{module}.serialize"] = (find(f"{module}.serialize"), {kind: value})
        config = {"config": find(f"{module}.serialize")(value)}
        found[f"{module}.deserialize"] = (find(f"{module}.deserialize"), config)
        if "schedules" not in module:
            found[f"{module}.get"] = (find(f"{module}.get"), {"identifier": value})
    prompt = {"next": following, "prompt": np.zeros((2, 4), int), "index": 1}
    for sampler in (samplers.GreedySampler(), samplers.BeamSampler(2)):
        found[f"samplers.{type(sampler).__name__}.__call__"] = (sampler, prompt)
    states = {**prompt, "hidden_states": np.ones((2, 4, 4))}
    found["samplers.ContrastiveSampler.__call__"] = (samplers.ContrastiveSampler(2), states)
    decay = {"initial_learning_rate": 0.1, "decay_steps": 3}
    for name in ("CosineDecay", "ExponentialDecay", "InverseTimeDecay", "PolynomialDecay"):
        rate = {"decay_rate": 0.5} if name in ("ExponentialDecay", "InverseTimeDecay") else {}
        path = f"optimizers.schedules.{name}"
        found[path] = (find(path), {**decay, **rate})
    pieces = {"boundaries": [1, 2], "values": [0.1, 0.2, 0.3]}
    found["optimizers.schedules.PiecewiseConstantDecay"] = (
        schedules.PiecewiseConstantDecay,
        pieces,
    )
    path = "optimizers.AdamW.exclude_from_weight_decay"
    found[path] = (optimizers.AdamW().exclude_from_weight_decay, {})
    batch = {"y_true": np.zeros((2, 3), int), "y_pred": np.zeros((2, 3, 5))}
    path = "losses.SparseCategoricalCrossentropy.__call__"
    found[path] = (losses.SparseCategoricalCrossentropy(from_logits=True), batch)
    path = "metrics.SparseCategoricalAccuracy.update_state"
    found[path] = (metrics.SparseCategoricalAccuracy().update_state, batch)
    found["metrics.Mean.update_state"] = (metrics.Mean().update_state, {"values": [1.0, 2.0]})
    found["callbacks.ModelCheckpoint"] = (callbacks.ModelCheckpoint, {"filepath": folder})
    found["callbacks.LearningRateScheduler"] = (callbacks.LearningRateScheduler, {"schedule": len})
    # The others want nothing.
    return {**{name: (find(name), {}) for name, _ in TABLE if name[0].islower()}, **found}


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
