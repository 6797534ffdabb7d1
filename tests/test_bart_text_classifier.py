"""`BartTextClassifier` and its preprocessor: arguments, inputs, files, copies; what is refused.

The numbers are in `golden/test_classifiers.py`.
"""

import copy
import json
import pickle

import h5py
import numpy as np
import pytest
from tiny_models import END, PAD, START, TEXTS, VOCABULARY, tiny_backbone, tiny_model

import bart_fast
from bart_fast.models import (
    Backbone,
    BartSeq2SeqLM,
    BartTextClassifier,
    BartTextClassifierPreprocessor,
    BartTokenizer,
    Seq2SeqLM,
    TextClassifier,
    TextClassifierPreprocessor,
)

NLI = ["contradiction", "neutral", "entailment"]


def preprocessor(length=24, truncate="longest_first"):
    return BartTextClassifierPreprocessor(BartTokenizer(VOCABULARY, []), length, truncate)


def classifier(backbone=None, **arguments):
    """With a head large enough that classes differ."""
    arguments = {"num_classes": 3, "preprocessor": preprocessor(), **arguments}
    model = BartTextClassifier(backbone or tiny_backbone(), **arguments)
    random = np.random.default_rng(7)
    core = model._core_head
    core.set_parameters(
        {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in core.parameters()}
    )
    return model


@pytest.fixture(scope="module")
def model():
    return classifier(id2label=NLI)


# Inputs.


def test_inputs_of_all_kinds_agree(model):
    expected = model.predict(TEXTS)
    assert expected.shape == (4, 3)
    assert expected.dtype == np.float32
    arrays = model.preprocessor(TEXTS)
    assert {name: each.dtype for name, each in arrays.items()} == {
        "token_ids": np.int32,
        "padding_mask": bool,
    }
    as_encoder = dict(
        zip(("encoder_token_ids", "encoder_padding_mask"), arrays.values(), strict=True)
    )
    for x in (np.array(TEXTS), [t.encode() for t in TEXTS], (TEXTS,), arrays, as_encoder):
        np.testing.assert_array_equal(model.predict(x), expected)
        np.testing.assert_array_equal(model(x), expected)
    np.testing.assert_array_equal(model.predict(TEXTS, batch_size=1), expected)
    np.testing.assert_array_equal(model.predict(TEXTS, batch_size=2, steps=1), expected[:2])
    np.testing.assert_array_equal(model.predict("a fox"), expected[1:2])
    pair = model.predict(("a fox", "the whale"))
    np.testing.assert_array_equal(model.predict([("a fox", "the whale")]), pair)
    assert (pair != expected[1:2]).any()
    assert model.predict([]).shape == (0, 3)
    assert model.classify([]) == []
    assert model.classify_zero_shot([], ["a"]) == []


def test_the_last_end_token_is_classified(model):
    """Whatever their number in a row, and whatever stands behind it."""
    rows = [[START, 9, END, 5, 6, END, PAD], [START, 9, 12, 7, END, PAD, PAD]]
    mask = np.array(rows) != PAD
    together = model.predict({"token_ids": np.array(rows), "padding_mask": mask})
    for row, real in zip(rows, mask, strict=True):
        alone = {"token_ids": np.array([row])[:, real], "padding_mask": np.ones((1, real.sum()))}
        np.testing.assert_array_equal(model.predict(alone), together[rows.index(row)][None])
    beyond = {"token_ids": np.array([[*rows[1][:5], 8, 8]]), "padding_mask": mask[1:]}
    np.testing.assert_array_equal(model.predict(beyond), together[1:])


def test_without_special_ids_the_last_real_token_counts():
    bare, known = classifier(preprocessor=None), classifier()
    arrays = known.preprocessor(TEXTS)
    np.testing.assert_array_equal(bare.predict(arrays), known.predict(TEXTS))


@pytest.mark.parametrize("truncate", ["longest_first", "only_first", "round_robin", "waterfall"])
def test_pairs_fill_the_length(truncate):
    packer = preprocessor(12, truncate)
    for first, second in [(1, 1), (20, 2), (2, 7), (20, 6), (5, 4), (4, 4), (0, 8)]:
        packed = packer(("a" * first, "b" * second))
        row = packed["token_ids"][packed["padding_mask"]].tolist()
        assert len(row) == min(first + second, 8) + 4
        kept = row.count(VOCABULARY["a"]), row.count(VOCABULARY["b"])
        ids = [VOCABULARY["a"]] * kept[0], [VOCABULARY["b"]] * kept[1]
        assert row == [START, *ids[0], END, END, *ids[1], END]
        if truncate == "round_robin":
            # keras-hub gives one place after the other.
            places = [0, 0]
            while sum(places) < min(8, first + second):
                for side, length in enumerate((first, second)):
                    if places[side] < length and sum(places) < 8:
                        places[side] += 1
            assert kept == tuple(places)
        if truncate == "waterfall":
            assert kept[0] == min(first, 8)
        if truncate == "only_first":
            assert kept[1] == second


def test_what_is_cut_is_said(model):
    long = "a" * 40
    with pytest.warns(UserWarning, match="the end of 1 of 2 rows is left out, 18 tokens"):
        model.predict([long, "b"])
    assert preprocessor(8)(long)["token_ids"].tolist() == [START, *[VOCABULARY["a"]] * 6, END]
    assert preprocessor(8)("a", 1)[1] == 1
    assert preprocessor(8)("a", 1, 0.5)[1:] == (1, 0.5)
    assert preprocessor().from_config(preprocessor().get_config()).get_config() == (
        preprocessor().get_config()
    )


# Answers.


def test_activations_and_labels():
    logits = classifier().predict(TEXTS).astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for activation, expected in {
        "softmax": softmax,
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "tanh": np.tanh(logits),
        "linear": logits,
    }.items():
        model = classifier(activation=activation)
        np.testing.assert_allclose(model.predict(TEXTS), expected, atol=1e-6)
        assert model.classify(TEXTS)[0]["score"] == pytest.approx(softmax[0].max(), abs=1e-6)
    assert (classifier(activation=lambda x: x * 2).predict(TEXTS) == 2 * logits).all()
    best = classifier(id2label={"2": "c", "0": "a", "1": "b"}).classify(TEXTS, top_k=None)
    for row, answers in zip(softmax, best, strict=True):
        assert [each["label"] for each in answers] == ["abc"[i] for i in np.argsort(-row)]
    assert classifier().classify("a fox")["label"].startswith("LABEL_")


def test_zero_shot_scores_are_those_of_pairs(model):
    labels, template = ["sea", "wood", "air"], "in {}"
    answers = model.classify_zero_shot(TEXTS[:3], labels, template)
    for text, answer in zip(TEXTS, answers, strict=False):
        logits = model.predict([(text, template.format(label)) for label in labels])
        scores = np.exp(logits[:, 2]) / np.exp(logits[:, 2]).sum()
        order = np.argsort(-scores)
        assert answer["labels"] == [labels[i] for i in order]
        np.testing.assert_allclose(answer["scores"], scores[order], atol=1e-6)
        assert answer["sequence"] == text
        assert model.classify_zero_shot(text, ", ".join(labels), template) == answer


# Presets and copies.


def test_keras_presets(tmp_path):
    model = classifier(id2label=NLI, hidden_dim=5, activation="softmax", dropout=0.25)
    model.preprocessor = preprocessor(20, "round_robin")
    model.save_to_preset(tmp_path)
    with h5py.File(tmp_path / "task.weights.h5") as file:
        shapes = {}
        file.visititems(lambda n, item: shapes.update({n: getattr(item, "shape", None)}))
        names = [file[f"layers/{each}/vars"].attrs["name"] for each in ("dense", "dense_1")]
    assert names == ["pooled_dense", "logits"]
    assert {name: shape for name, shape in shapes.items() if shape} == {
        "layers/dense/vars/0": (16, 5),
        "layers/dense/vars/1": (5,),
        "layers/dense_1/vars/0": (5, 3),
        "layers/dense_1/vars/1": (3,),
    }
    saved = json.loads((tmp_path / "task.json").read_text())
    assert saved["registered_name"] == "keras_hub>BartTextClassifier"
    assert saved["config"]["num_classes"] == 3
    for cls in (BartTextClassifier, TextClassifier):
        again = cls.from_preset(tmp_path)
        assert type(again) is BartTextClassifier
        assert again.get_config() == model.get_config()
        np.testing.assert_array_equal(again.predict(TEXTS), model.predict(TEXTS))
    assert TextClassifierPreprocessor.from_preset(tmp_path).truncate == "round_robin"
    assert Backbone.from_preset(tmp_path).count_params() == model.backbone.count_params()
    # As in keras-hub, a number of classes asks for a new head.
    new = TextClassifier.from_preset(tmp_path, num_classes=3, preprocessor=None)
    assert (new._head.weights()["classification_head.dense.weight"] != 0).any()
    assert new.preprocessor is None
    with pytest.warns(UserWarning, match="the classification head of .* is left out"):
        assert type(Seq2SeqLM.from_preset(tmp_path)) is BartSeq2SeqLM
    with pytest.raises(ValueError, match="`hidden_dim` must be the backbone's"):
        model.export_to_transformers(tmp_path / "hf")
    # A language model in the same place takes the head away.
    tiny_model().save_to_preset(tmp_path)
    assert not (tmp_path / "task.weights.h5").exists()


def test_presets_of_language_models_need_a_number_of_classes(tmp_path):
    tiny_model().save_to_preset(tmp_path / "keras")
    tiny_model().export_to_transformers(tmp_path / "hf")
    for folder in ("keras", "hf"):
        with pytest.raises(ValueError, match="`num_classes` must be given"):
            TextClassifier.from_preset(tmp_path / folder)
        model = TextClassifier.from_preset(tmp_path / folder, num_classes=2)
        assert model.predict(TEXTS).shape == (4, 2)
        assert model.preprocessor.sequence_length == 16 if folder == "keras" else 24
    heads = []
    for _ in range(2):
        bart_fast.set_random_seed(5)
        heads.append(TextClassifier.from_preset(tmp_path / "hf", num_classes=2).predict(TEXTS))
    np.testing.assert_array_equal(*heads)


def test_exports_keep_how_texts_are_packed(tmp_path):
    model = classifier(preprocessor=preprocessor(20, "only_first"), activation="sigmoid")
    model.export_to_transformers(tmp_path)
    again = TextClassifier.from_preset(tmp_path)
    assert again.preprocessor.get_config() == model.preprocessor.get_config()
    np.testing.assert_array_equal(again.predict(TEXTS), model.predict(TEXTS))


def test_copies(model):
    expected = model.predict(TEXTS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict(TEXTS), expected)
        assert other.get_config() == model.get_config()
    other.backbone._model.set_parameters({"shared.weight": np.zeros((30, 16), np.float32)})
    np.testing.assert_array_equal(model.predict(TEXTS), expected)
    fresh = BartTextClassifier.from_config(model.get_config())
    assert fresh.get_config() == model.get_config()
    assert fresh.count_params() == model.count_params() == 11392 + 17 * 16 + 17 * 3


def test_summary(model):
    lines = []
    model.summary(print_fn=lines.append)
    for part in ("pooled_dense (Dense)", "logits (Dense)", "272", "51", "Total params: 11,715"):
        assert part in lines[0], part


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be a whole number of at least 1"),
        ({"activation": "swish"}, "`activation` must be `None`, a function, or one of"),
        ({"hidden_dim": -1}, "`hidden_dim`"),
        ({"dropout": 1.0}, "`dropout` must be from 0 to below 1"),
        ({"id2label": ["a"]}, "`id2label` must give each of the 3 classes a name"),
        ({"id2label": {0: "a", 1: "b", 3: "c"}}, "`id2label` must give each of the 3 classes"),
        ({"label2id": {"a": 3}}, "`label2id` must be a dict from name to one of the 3 classes"),
        ({"problem_type": "ranking"}, "`problem_type` must be `None` or one of"),
        ({"preprocessor": BartTokenizer(VOCABULARY, [])}, "`BartTextClassifierPreprocessor`"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BartTextClassifier(tiny_backbone(), **{"num_classes": 3, **arguments})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(3), "`x` must be a string"),
        (lambda m: m.predict((["a"], ["b", "c"])), "`x` must have a second text for each first"),
        (lambda m: m.predict(("a", ["b"])), "`x` must have a second text"),
        (lambda m: m.predict(("a", "b", "c")), "`x` must be texts, or a tuple of one or two"),
        (lambda m: m.predict({"token_ids": [[1]]}), "`x` must be texts, or a dict of `token_ids`"),
        (
            lambda m: m.predict({"token_ids": [[0, 5]], "padding_mask": [[1, 1]]}),
            "`token_ids` must have the end token, 2 in each row",
        ),
        (lambda m: m.predict({"token_ids": [[99]], "padding_mask": [[1]]}), "ids from 0 to 29"),
        (lambda m: m.predict("a", batch_size=0), "`batch_size`"),
        (lambda m: m.predict("a", callbacks=[1]), "`callbacks` must be instances of"),
        (lambda m: m.classify("a", top_k=0), "`top_k`"),
        (lambda m: m.classify_zero_shot("a", []), "`candidate_labels` must name one label"),
        (lambda m: m.classify_zero_shot("a", " , "), "`candidate_labels` must name one label"),
        (lambda m: m.classify_zero_shot("a", ["b"], "no place"), "`hypothesis_template` must be"),
        (lambda m: m.classify_zero_shot("a", ["b"], "{x} {"), "`hypothesis_template` must be"),
        (lambda m: m.classify_zero_shot("a", ["b" * 30]), "`candidate_labels` must leave room"),
        (lambda m: m.classify_zero_shot("a", ["b"], "{}", "yes"), "`multi_label` must be"),
        (lambda m: m(TEXTS, training=True), "`training` must be False"),
    ],
)
def test_wrong_calls(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_what_a_classifier_lacks(model):
    with pytest.raises(ValueError, match="the model has no class for entailment"):
        classifier().classify_zero_shot("a", ["b"])
    with pytest.raises(ValueError, match="the model has no preprocessor of texts"):
        classifier(preprocessor=None).predict("a")
    with pytest.raises(ValueError, match=r"`backbone` must be a BART: .*mbart"):
        BartTextClassifier(tiny_backbone(core_config={"model_type": "mbart"}), 2)
    with pytest.raises(ValueError, match="`activation` must be a name for `save_to_preset"):
        classifier(activation=np.tanh).save_to_preset("nowhere")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": {"1": "a"}}, "`id2label` must name every class from 0 on"),
        ({"id2label": "abc"}, "`id2label` must name every class"),
        ({"num_labels": -1, "id2label": None}, "`num_classes` must be a positive integer"),
        ({"label2id": {"a": 9}}, "`label2id` must be a dict from name"),
        ({"problem_type": "x"}, "`problem_type` must be"),
        ({"classifier_dropout": "much"}, "`dropout`"),
    ],
)
def test_damaged_configurations(model, tmp_path, fields, message):
    model.export_to_transformers(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(ValueError, match=message):
        TextClassifier.from_preset(tmp_path)


def test_a_preset_without_its_head(model, tmp_path):
    model.save_to_preset(tmp_path)
    (tmp_path / "task.weights.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"task\.weights\.h5"):
        TextClassifier.from_preset(tmp_path)
