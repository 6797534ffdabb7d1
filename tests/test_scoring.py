"""`score()` and `encode()` of a model: given targets, and the encoder's output."""

import numpy as np
import pytest
from tiny_models import END, START, TEXTS, tiny_model, token_arrays

TARGETS = ["a whale", "", "the", "over it"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def log_softmax(logits):
    logits = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_scores_of_token_arrays_are_those_of_the_logits(model):
    arrays = token_arrays(rows=5)
    ids = np.roll(arrays["decoder_token_ids"], -1, axis=1)
    expected = np.take_along_axis(log_softmax(model(arrays)), ids[..., None], -1)[..., 0]
    for batch_size in (1, 2, 32):
        scores = model.score(arrays, ids, batch_size=batch_size)
        real = arrays["decoder_padding_mask"].astype(bool)
        np.testing.assert_array_equal(scores.mask, real)
        np.testing.assert_allclose(scores.token_logprobs, np.where(real, expected, 0), atol=1e-6)
        np.testing.assert_allclose(scores.logprobs, np.where(real, expected, 0).sum(1), atol=1e-5)
    counted = np.zeros(ids.shape, dtype=bool)
    counted[:, 1] = True
    scores = model.score(arrays, ids, sample_weight=counted)
    np.testing.assert_allclose(scores.logprobs, expected[:, 1], atol=1e-6)


def test_scores_of_strings_are_minus_the_loss_of_training(model):
    scores = model.score(TEXTS, TARGETS)
    assert scores.token_ids[1, : scores.mask[1].sum()].tolist() == [START, END]
    for row, (text, target) in enumerate(zip(TEXTS, TARGETS, strict=True)):
        pairs = {"encoder_text": [text], "decoder_text": [target]}
        loss = model.test_on_batch(pairs, return_dict=True)["loss"]
        width = model.preprocessor.decoder_sequence_length
        assert scores.logprobs[row] == pytest.approx(-loss * width, abs=1e-4)
        alone = model.score(text, target)
        assert alone.logprobs == scores.logprobs[row]
        count = scores.mask[row].sum()
        np.testing.assert_array_equal(alone.token_logprobs, scores.token_logprobs[row, :count])
    assert model.score([], []).logprobs.shape == (0,)


def test_encoded_strings_are_what_the_backbone_gives(model):
    arrays = model.preprocessor.generate_preprocess(TEXTS)
    states = model.backbone(arrays)["encoder_sequence_output"]
    real = [row[mask] for row, mask in zip(states, arrays["encoder_padding_mask"], strict=True)]
    for batch_size in (1, 3, 32):
        for got, expected in zip(model.encode(TEXTS, batch_size=batch_size), real, strict=True):
            np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(model.encode(TEXTS[1]), real[1])
    for pooling, pool in {
        "mean": lambda rows: rows.mean(axis=0),
        "max": lambda rows: rows.max(axis=0),
        "first": lambda rows: rows[0],
        "last": lambda rows: rows[-1],
    }.items():
        pooled = model.encode(TEXTS, pooling=pooling)
        np.testing.assert_array_equal(pooled, np.stack([pool(rows) for rows in real]))
        np.testing.assert_array_equal(model.encode(TEXTS[1], pooling), pooled[1])
        sources = {name: each for name, each in arrays.items() if name.startswith("encoder")}
        np.testing.assert_array_equal(model.encode(sources, pooling), pooled)
    np.testing.assert_array_equal(model.encode(sources), states)
    assert model.encode([]) == []
    assert model.encode([], "mean").shape == (0, model.backbone.hidden_dim)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.score("a", ["b"]), "`targets` must have a text for each of `inputs`"),
        (lambda m: m.score("a", "b", [[1]]), "`sample_weight` is for token arrays"),
        (lambda m: m.score(token_arrays(), [[1]]), "`targets` must have the shape of"),
        (lambda m: m.score(3, "b"), "`inputs` must be a string"),
        (lambda m: m.score("a", "b", batch_size=0), "`batch_size` must be a whole number"),
        (lambda m: m.encode("a", "sum"), "`pooling` must be `None` or one of 'mean', 'max'"),
        (lambda m: m.encode({"encoder_token_ids": [[1]]}), "encoder_padding_mask"),
        (
            lambda m: m.encode(
                {"encoder_token_ids": [[1]], "encoder_padding_mask": [[False]]}, "mean"
            ),
            "`encoder_padding_mask` must be True at one position of each row",
        ),
    ],
)
def test_wrong_arguments_are_named(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_without_a_preprocessor_strings_are_refused():
    bare = tiny_model(preprocessor=None)
    for call in (lambda: bare.score("a", "b"), lambda: bare.encode("a")):
        with pytest.raises(ValueError, match="the model has no preprocessor"):
            call()
