"""Sequence classifiers compute what Hugging Face computes, and answer as its pipelines do
(recorded by make_classifiers.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch_files import save_archive, save_safetensors, stored_tensors, tensor

from bart_fast import optimizers
from bart_fast.models import (
    BartSeq2SeqLM,
    BartTextClassifier,
    BartTextClassifierPreprocessor,
    BartTokenizer,
    TextClassifier,
)

NAMES = ("mnli", "uneven", "regression")


@pytest.fixture(scope="module")
def arrays():
    with np.load(Path(__file__).with_name("classifiers.npz")) as recorded:
        return {name: recorded[name] for name in recorded.files}


@pytest.fixture(scope="module")
def recorded(arrays):
    return json.loads(str(arrays["json"]))


def tensors(arrays, name):
    start = f"{name}/weights/"
    return {
        key.removeprefix(start): values.astype(np.float32)
        for key, values in arrays.items()
        if key.startswith(start)
    }


def write(folder, arrays, recorded, name, save=save_safetensors, file="model.safetensors"):
    """A directory of Hugging Face with a recorded model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(recorded["configs"][name]))
    for text, content in recorded["files"].items():
        (folder / text).write_text(content)
    weights = tensors(arrays, name)
    if save is not save_safetensors:
        weights = {key: tensor(values) for key, values in weights.items()}
    save(folder / file, weights)
    return folder


@pytest.fixture(scope="module", params=NAMES)
def case(request, arrays, recorded, tmp_path_factory):
    """Name, directory and model of each recorded classifier."""
    folder = tmp_path_factory.mktemp("classifiers") / request.param
    write(folder, arrays, recorded, request.param)
    return request.param, folder, TextClassifier.from_preset(str(folder))


def close(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def assert_same_labels(got, expected, where):
    """Of dicts of label and score, or of lists of such."""
    if isinstance(expected, list):
        assert len(got) == len(expected), where
        for left, right in zip(got, expected, strict=True):
            assert_same_labels(left, right, where)
        return
    assert got["label"] == expected["label"], where
    assert got["score"] == pytest.approx(expected["score"], abs=1e-5), where


def test_logits(case, arrays, recorded):
    name, _, model = case
    assert type(model) is BartTextClassifier
    texts, pairs = recorded["texts"]
    close(model.predict(texts), arrays[f"{name}/texts"])
    close(model.predict((texts, pairs)), arrays[f"{name}/pairs"])
    close(
        model.predict(list(zip(texts, pairs, strict=True)), batch_size=3), arrays[f"{name}/pairs"]
    )
    close(
        model.predict({k: np.array(v) for k, v in recorded["arrays"].items()}),
        arrays[f"{name}/arrays"],
    )
    # A text gives the same bits alone, and padded to any width, where our kernels compute.
    allowed = 0.0 if model.device == "cpu" else 1e-5
    whole = model.predict(texts)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(model.predict(text), whole[row : row + 1], 0, allowed)
    np.testing.assert_allclose(model.predict(model.preprocessor(texts)), whole, 0, allowed)


def test_packing(arrays, recorded, tmp_path):
    folder = write(tmp_path / "model", arrays, recorded, "mnli")
    tokenizer = BartTokenizer.from_preset(str(folder))
    texts, pairs = recorded["texts"]
    packed = BartTextClassifierPreprocessor(tokenizer, 64)((texts, pairs))
    rows = [row[mask].tolist() for row, mask in zip(*packed.values(), strict=True)]
    assert rows == recorded["packed"]
    lengths, expected = recorded["cuts"]
    expected = iter(expected)
    for first, second in lengths:
        for width, how in ((12, "longest_first"), (13, "longest_first"), (14, "only_first")):
            if how == "only_first" and second >= 9:
                continue
            preprocessor = BartTextClassifierPreprocessor(tokenizer, width, how)
            packed = preprocessor(("a" * first, "b" * second))
            assert packed["token_ids"][packed["padding_mask"]].tolist() == next(expected)


def test_pipelines(case, recorded):
    name, _, model = case
    answers, texts = recorded["answers"][name], recorded["texts"][0]
    assert_same_labels(model.classify(texts), answers["classify"], "classify")
    assert_same_labels(model.classify(texts, top_k=None), answers["classify_all"], "classify_all")
    assert_same_labels(model.classify(texts[0], top_k=2), answers["classify_all"][0][:2], "two")
    for call, expected in zip(recorded["zero_shot"], answers.get("zero_shot", ()), strict=False):
        call = dict(call)
        sequences = call.pop("sequences")
        cut = any(len(text) > 100 for text in sequences)
        if cut:
            with pytest.warns(UserWarning, match="the end of 3 of 6 rows is left out"):
                got = model.classify_zero_shot(sequences, **call, batch_size=4)
        else:
            got = model.classify_zero_shot(sequences, **call)
        assert isinstance(got, list) == isinstance(expected, list)
        got, expected = ([x] if isinstance(x, dict) else x for x in (got, expected))
        for ours, theirs in zip(got, expected, strict=True):
            assert (ours["sequence"], ours["labels"]) == (theirs["sequence"], theirs["labels"])
            close(ours["scores"], theirs["scores"], 1e-6)


def test_files(case, arrays, recorded, tmp_path):
    """Both formats, weights alone, and what torch saves."""
    name, folder, model = case
    texts = recorded["texts"][0]
    expected = model.predict(texts)
    model.export_to_transformers(tmp_path / "hf")
    again = BartTextClassifier.from_preset(tmp_path / "hf")
    np.testing.assert_array_equal(again.predict(texts), expected)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["BartForSequenceClassification"]
    assert config["id2label"] == {str(k): v for k, v in model.id2label.items()}
    for field in ("label2id", "problem_type"):
        assert config[field] == recorded["configs"][name].get(field)
    model.save_weights(tmp_path / "all.safetensors")
    other = BartTextClassifier.from_preset(str(folder), num_classes=model.num_classes)
    assert (other.predict(texts) != expected).any()
    other.load_weights(tmp_path / "all.safetensors")
    np.testing.assert_array_equal(other.predict(texts), expected)
    torch_folder = tmp_path / "torch"
    write(torch_folder, arrays, recorded, name, save_archive, "pytorch_model.bin")
    np.testing.assert_array_equal(
        BartTextClassifier.from_preset(torch_folder).predict(texts), expected
    )
    if name == "uneven":
        with pytest.raises(ValueError, match="a Keras preset cannot describe this model"):
            model.save_to_preset(tmp_path / "keras")
        return
    model.save_to_preset(tmp_path / "keras")
    again = TextClassifier.from_preset(tmp_path / "keras")
    np.testing.assert_array_equal(again.predict(texts), expected)
    assert again.get_config()["label2id"] == model.get_config()["label2id"]
    again.save_weights(tmp_path / "all.weights.h5")
    other.load_weights(tmp_path / "all.weights.h5")
    np.testing.assert_array_equal(other.predict(texts), expected)


def test_training(arrays, recorded, tmp_path):
    """Three steps of SGD without dropout: losses, and weights of every kind."""
    folder = write(tmp_path / "model", arrays, recorded, "mnli")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout": 0.0}))
    model = BartTextClassifier.from_preset(str(folder))
    model.compile(optimizer=optimizers.SGD(0.1))
    texts, labels = recorded["texts"][0], np.array(recorded["labels"])
    losses = [model.train_on_batch(texts, labels)[0] for _ in range(3)]
    close(losses, arrays["train/losses"])
    assert losses[2] < losses[0]
    model.save_weights(tmp_path / "trained.safetensors")
    trained = stored_tensors(tmp_path / "trained.safetensors")
    for name, expected in arrays.items():
        if name.startswith("train/") and name != "train/losses":
            close(trained[name.removeprefix("train/")], expected, 5e-6)


def test_a_language_model_leaves_the_head_out(case):
    _, folder, model = case
    with pytest.warns(UserWarning, match="the classification head of .* is left out") as warned:
        language_model = BartSeq2SeqLM.from_preset(str(folder))
    assert len(warned) == 1
    table = "shared.weight"
    np.testing.assert_array_equal(
        language_model.backbone._model.get_parameter(table),
        model.backbone._model.get_parameter(table),
    )


def test_heads_of_fairseq(arrays, recorded, tmp_path):
    """fairseq keeps the head under a name of its own."""
    folder = write(tmp_path / "model", arrays, recorded, "mnli")
    expected = TextClassifier.from_preset(str(folder)).predict("the ants")
    named = {
        key.replace("classification_head.", "classification_heads.mnli."): values
        for key, values in tensors(arrays, "mnli").items()
    }
    save_safetensors(folder / "model.safetensors", named)
    np.testing.assert_array_equal(
        TextClassifier.from_preset(str(folder)).predict("the ants"), expected
    )
