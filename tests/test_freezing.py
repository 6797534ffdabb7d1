"""Which weights training changes: all, layers, patterns; summaries, copies, classifiers."""

import copy
import pickle

import numpy as np
import pytest
from tiny_models import SIZES, TEXTS, tiny_backbone, tiny_model, token_arrays

import bart_fast


def weights(model):
    core = model.backbone._model
    return {name: core.get_parameter(name) for name, _ in core.parameters()}


def changed(model):
    """Names of the weights that two steps change."""
    x = token_arrays()
    before = weights(model)
    model.compile(optimizer=bart_fast.optimizers.Adam(0.01))
    for _ in range(2):
        model.train_on_batch(x, np.roll(x["decoder_token_ids"], -1, axis=1))
    after = weights(model)
    return {name for name in before if (before[name] != after[name]).any()}


def test_layers_have_keras_names_and_all_weights():
    backbone = tiny_backbone()
    layers = backbone.layers
    assert [layer.name for layer in layers][:2] == ["token_embedding", "encoder_position_embedding"]
    assert "transformer_decoder_layer_1" in [layer.name for layer in layers]
    assert sum(layer.count_params() for layer in layers) == backbone.count_params()
    assert [n for layer in layers for n in layer.parameters] == [
        n for n, _ in backbone._model.parameters()
    ]
    assert backbone.get_layer(index=-1).name == layers[-1].name
    for arguments, message in (
        ({"name": "layer_9"}, "`name` must be one of token_embedding, "),
        ({"index": 99}, "`index` must be below"),
        ({}, "either `name` or `index`"),
        ({"name": "a", "index": 1}, "either `name` or `index`"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.get_layer(**arguments)


def test_only_what_is_not_frozen_changes():
    model = tiny_model()
    every = set(weights(model))
    assert changed(model) == every
    for layer in model.backbone.layers[:-1]:
        layer.trainable = False
    last = set(model.backbone.layers[-1].parameters)
    assert changed(model) == last == set(model.backbone.trainable_parameters)
    model.backbone.trainable = True
    frozen = model.backbone.freeze("encoder.*", "transformer_decoder_layer_0", "*norm*")
    thawed = model.backbone.unfreeze("encoder.layers.1.fc?.*")
    assert changed(model) == every - set(frozen) | set(thawed)
    assert model.backbone.get_layer("transformer_encoder_layer_1").trainable
    for patterns, message in (((), "`patterns` must name"), (("encoder",), "`patterns` must fit")):
        with pytest.raises(ValueError, match=message):
            model.backbone.freeze(*patterns)


def test_copies_and_summaries_say_what_is_frozen():
    model = tiny_model()
    frozen = model.backbone.freeze("shared.weight")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert set(other.backbone.trainable_parameters) == set(weights(model)) - set(frozen)
    text = []
    model.summary(print_fn=text.append)
    count = SIZES["vocabulary_size"] * SIZES["hidden_dim"]
    assert f"Non-trainable params: {count:,} " in text[0]
    backbone = tiny_backbone(trainable=False)
    assert backbone.trainable_parameters == [] and not backbone.get_config()["trainable"]


def test_training_nothing_is_said():
    model = tiny_model()
    model.backbone.trainable = False
    with pytest.warns(UserWarning, match="nothing is trained"):
        assert changed(model) == set()
    with pytest.warns(UserWarning, match="nothing is trained"):
        model.fit({"encoder_text": TEXTS, "decoder_text": TEXTS}, verbose=0)


def test_a_frozen_backbone_has_its_classifier_trained_alone():
    model = bart_fast.BartTextClassifier(tiny_backbone(), num_classes=2, preprocessor=None)
    model.backbone.trainable = False
    preprocessor = bart_fast.models.BartTextClassifierPreprocessor(
        tiny_model().preprocessor.tokenizer, sequence_length=24
    )
    model.preprocessor = preprocessor
    before, head = weights(model), [values.copy() for values in model.get_weights()]
    model.compile(optimizer=bart_fast.optimizers.Adam(0.05))
    model.fit(TEXTS, [0, 1, 0, 1], epochs=2, verbose=0)
    for name, values in weights(model).items():
        np.testing.assert_array_equal(values, before[name])
    assert any((a != b).any() for a, b in zip(head, model.get_weights(), strict=True))
