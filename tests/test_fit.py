"""The training loop, with a model of one table (bigram_core.py) and runs recorded from Keras."""

import numpy as np
import pytest
from bigram_core import BigramModel, LetterPreprocessor, token_arrays
from keras_runs import GOLDEN, QUIET, WEIGHT, X, Y, make_model

from bart_fast import callbacks, losses, metrics, optimizers, samplers
from bart_fast.training import NonFiniteLossError
from bart_fast.training.batch import BatchMaker, pad_rows

TEXTS = {
    "encoder_text": ["hello", "a", "", "training", "fits", "well", "now"],
    "decoder_text": ["hullo", "b", "c", "trainings", "", "wells", "then"],
}


def text_model(**arguments):
    table = np.random.default_rng(1).normal(size=(30, 30))
    return BigramModel(table, LetterPreprocessor(), **arguments)


def some(rows):
    """The first rows of the recorded data."""
    return {key: value[:rows] for key, value in X.items()}, Y[:rows]


# Equal to Keras.


@pytest.mark.parametrize("name", ["weighted", "plain"])
def test_a_run_equals_keras(name):
    run = GOLDEN["runs"][name]
    weight = WEIGHT if name == "weighted" else None
    model = make_model()
    evaluated = model.evaluate(X, Y, sample_weight=weight, **QUIET)
    np.testing.assert_allclose(evaluated, run["evaluate"], atol=1e-6)
    validation = (*some(3), *([] if weight is None else [weight[:3]]))
    history = model.fit(
        X,
        Y,
        sample_weight=weight,
        epochs=3,
        shuffle=False,
        validation_data=validation,
        **QUIET,
    )
    assert history is model.history
    assert list(history.history) == list(run["history"])
    for key, values in run["history"].items():
        np.testing.assert_allclose(history.history[key], values, atol=1e-5)
    np.testing.assert_allclose(model.core.table, run["table"], atol=1e-5)
    again = model.train_on_batch(X, Y, sample_weight=weight)
    np.testing.assert_allclose(again, run["train_on_batch"], atol=1e-5)


def test_validation_split_equals_keras():
    model = make_model()
    history = model.fit(X, Y, validation_split=0.4, epochs=2, shuffle=False, **QUIET)
    for key, values in GOLDEN["validation_split"].items():
        np.testing.assert_allclose(history.history[key], values, atol=1e-5)


def test_texts_give_what_their_padded_arrays_give():
    texts, arrays = text_model(optimizer="sgd"), text_model(optimizer="sgd")
    x, y, weight = arrays.preprocessor.padded(TEXTS)
    options = {"epochs": 3, "batch_size": 3, "verbose": 0}
    expected = arrays.fit(x, y, sample_weight=weight, **options).history
    got = texts.fit(TEXTS, **options).history
    for key, values in expected.items():
        np.testing.assert_allclose(got[key], values, rtol=1e-6)
    np.testing.assert_allclose(texts.core.table, arrays.core.table, atol=1e-6)


def test_batches_of_texts_are_as_wide_as_their_longest_row():
    make_batch = BatchMaker(LetterPreprocessor(), max_sequence_length=7)
    batch = make_batch({"encoder_text": ["ab", "abcdefgh"], "decoder_text": ["a", "ab"]})
    assert batch.encoder_token_ids.tolist() == [[0, 3, 4, 2, 0, 0, 0], [0, 3, 4, 5, 6, 7, 2]]
    assert batch.encoder_padding_mask.sum(axis=1).tolist() == [4, 7]
    assert batch.decoder_token_ids.tolist() == [[2, 0, 3, 2], [2, 0, 3, 4]]
    assert batch.targets.tolist() == [[0, 3, 2, 0], [0, 3, 4, 2]]
    assert batch.sample_weight.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    # The loss is still divided by the full width, here the model's limit.
    assert (batch.positions, batch.padded_width) == (14, 7)


def test_pad_rows():
    ids, mask = pad_rows([[5], [], [6, 7]])
    assert (ids.dtype, mask.dtype) == (np.int32, bool)
    assert ids.tolist() == [[5, 0], [0, 0], [6, 7]]
    assert mask.tolist() == [[True, False], [False, False], [True, True]]


# Order of the data.


def seen_rows(model):
    """First ids of every batch, one list a batch."""
    return [ids[:, 0].tolist() for _, ids, _ in model.core.batches]


def numbered(count, vocabulary=6):
    """Rows whose first id is their number."""
    ids = np.arange(count)[:, None] % vocabulary
    return token_arrays(ids), ids


def test_every_epoch_has_an_order_of_its_own_and_every_example():
    model = make_model()
    x, y = numbered(6)
    model.fit(x, y, epochs=3, batch_size=4, verbose=0)
    seen = seen_rows(model)
    assert [len(rows) for rows in seen] == [4, 2] * 3
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(rows) == list(range(6)) for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 3


def test_runs_repeat_and_go_on():
    def run(*spans, seed=7):
        model = make_model(seed=seed)
        for start, end in spans:
            model.fit(X, Y, initial_epoch=start, epochs=end, **QUIET)
        return model

    whole, parts = run((0, 4)), run((0, 1), (1, 4))
    np.testing.assert_array_equal(whole.core.table, parts.core.table)
    assert whole.core.calls == parts.core.calls
    assert len({call["seed"] for call in whole.core.calls}) == 12, "dropout differs by step"
    assert (run((0, 4), seed=8).core.table != whole.core.table).any()


def test_steps_per_epoch_goes_on_in_the_data():
    model = make_model()
    x, y = numbered(5)
    history = model.fit(x, y, epochs=3, steps_per_epoch=2, batch_size=2, shuffle=False, verbose=0)
    assert seen_rows(model) == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]
    assert history.epoch == [0, 1, 2]
    resumed = make_model()
    resumed.fit(
        x, y, epochs=3, initial_epoch=1, steps_per_epoch=2, batch_size=2, shuffle=False, verbose=0
    )
    assert seen_rows(resumed) == [[4], [0, 1], [2, 3], [4]]


def batches_of(count):
    x, y = numbered(count)
    return [
        ({key: value[i : i + 1] for key, value in x.items()}, y[i : i + 1]) for i in range(count)
    ]


class Indexed:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return batches_of(3)[index]


@pytest.mark.parametrize("data", [batches_of(3), tuple(batches_of(3)), Indexed()])
def test_iterables_of_batches_start_again_every_epoch(data):
    model = make_model()
    model.fit(data, epochs=2, verbose=0)
    assert seen_rows(model) == [[0], [1], [2]] * 2
    model.core.batches.clear()
    model.fit(data, epochs=2, steps_per_epoch=2, verbose=0)
    assert seen_rows(model) == [[0], [1], [2], [0]]


def test_a_generator_that_runs_out_ends_training():
    model = make_model()
    with pytest.warns(UserWarning, match="the data ran out"):
        history = model.fit((batch for batch in batches_of(3)), epochs=5, verbose=0)
    assert (len(seen_rows(model)), history.epoch) == (3, [0])
    with pytest.warns(UserWarning, match="the data ran out"):
        history = model.fit(iter(batches_of(3)), epochs=5, steps_per_epoch=2, verbose=0)
    assert history.epoch == [0, 1]


def test_validation_frequency_and_steps():
    model = make_model()
    history = model.fit(
        X, Y, epochs=4, validation_data=(X, Y), validation_freq=2, validation_steps=1, **QUIET
    )
    assert (len(history.history["loss"]), len(history.history["val_loss"])) == (4, 2)
    listed = model.fit(X, Y, epochs=4, validation_data=[X, Y], validation_freq=[1, 4], **QUIET)
    assert len(listed.history["val_loss"]) == 2
    batches = model.fit(X, Y, validation_data=batches_of(1), **QUIET)
    assert len(batches.history["val_loss"]) == 1
    batches = model.fit(X, Y, validation_data=batches_of(2), **QUIET)
    assert len(batches.history["val_loss"]) == 1


# compile() and single batches.


def test_auto_means_what_it_says():
    model = make_model(optimizer="auto")
    assert type(model.optimizer) is optimizers.Adam
    assert model.optimizer.learning_rate == 2e-5
    assert model.loss.get_config()["from_logits"] is True
    assert model.metrics_names == ["loss", "sparse_categorical_accuracy"]
    assert isinstance(model.sampler, samplers.TopKSampler)
    model.compile(optimizer="adam", run_eagerly=True, jit_compile=True, steps_per_execution=4)
    assert model.optimizer.learning_rate == 1e-3
    model.compile(weighted_metrics=["accuracy", metrics.SparseCategoricalAccuracy()])
    assert model.metrics_names == ["loss", "accuracy", "sparse_categorical_accuracy"]


def test_results_of_single_batches():
    model = make_model()
    loss, accuracy = model.test_on_batch(X, Y, WEIGHT)
    logits = model.core.table[X["decoder_token_ids"]]
    crossentropy = losses.SparseCategoricalCrossentropy(from_logits=True)
    counted = metrics.SparseCategoricalAccuracy()
    counted.update_state(Y, logits, WEIGHT)
    assert loss == pytest.approx(crossentropy(Y, logits, WEIGHT), rel=1e-6)
    assert accuracy == pytest.approx(counted.result(), rel=1e-6)
    # The loss of a training step is that before it.
    named = model.train_on_batch(X, Y, WEIGHT, return_dict=True)
    assert named == {"loss": loss, "sparse_categorical_accuracy": accuracy}
    assert model.test_on_batch(X, Y, WEIGHT)[0] < loss
    model.compile(weighted_metrics=None)
    assert isinstance(model.evaluate(X, Y, verbose=0), float)


@pytest.mark.parametrize(
    ("reduction", "divisor"), [("sum", 1.0), ("mean_with_sample_weight", WEIGHT.sum())]
)
def test_other_reductions(reduction, divisor):
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    got = make_model(loss=loss).test_on_batch(X, Y, WEIGHT)[0]
    mean = make_model().test_on_batch(X, Y, WEIGHT)[0]
    assert got == pytest.approx(mean * WEIGHT.size / divisor)


def test_a_weight_per_row_counts_for_its_positions():
    model = make_model()
    row = np.array([1, 0, 2, 0, 1], np.float32)
    everywhere = np.repeat(row[:, None], Y.shape[1], axis=1)
    assert model.test_on_batch(X, Y, row) == model.test_on_batch(X, Y, everywhere)


def test_weights_can_be_taken_and_put_back():
    model = make_model()
    before = model.get_weights()
    model.train_on_batch(X, Y)
    after = model.get_weights()
    assert (before[0] != after[0]).any()
    model.set_weights(before)
    np.testing.assert_array_equal(model.core.table, before[0])
    with pytest.raises(ValueError, match="must be a list of 1 arrays"):
        model.set_weights([])


# When things go wrong.


def broken_model():
    """The second step and those after it have a loss that is infinite."""
    model = make_model()
    model.core.broken_steps = range(2, 100)
    return model


def test_a_loss_that_is_no_number_stops_with_the_last_good_weights():
    model, expected, batch = broken_model(), make_model(), batches_of(1)[0]
    expected.train_on_batch(*batch)
    with pytest.raises(NonFiniteLossError, match=r"epoch 1, step 2: the loss is inf") as caught:
        model.fit([batch] * 3, verbose=0)
    assert "hint: lower the learning rate" in str(caught.value)
    assert isinstance(caught.value, FloatingPointError) and isinstance(caught.value, ValueError)
    np.testing.assert_array_equal(model.core.table, expected.core.table)
    assert model.optimizer.iterations == 1
    with pytest.raises(NonFiniteLossError, match="the loss is inf"):
        model.train_on_batch(*batch)


def test_terminate_on_nan_ends_quietly(capsys):
    model, batches = broken_model(), batches_of(1)[:1] * 3
    history = model.fit(batches, epochs=3, verbose=0, callbacks=[callbacks.TerminateOnNaN()])
    assert history.epoch == [0]
    assert len(model.core.calls) == 2
    assert capsys.readouterr().out == "Batch 1: Invalid loss, terminating training\n"
    with pytest.raises(RuntimeError, match="batch 1: the loss is inf"):
        broken_model().fit(
            batches, verbose=0, callbacks=[callbacks.TerminateOnNaN(raise_error=True)]
        )


def test_an_interrupt_leaves_a_model_that_goes_on():
    def interrupt(batch, logs):
        if batch == 1:
            raise KeyboardInterrupt

    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[callbacks.LambdaCallback(on_train_batch_end=interrupt)], **QUIET)
    assert model.optimizer.iterations == 2
    assert len(model.fit(X, Y, **QUIET).history["loss"]) == 1


def test_an_optimizer_belongs_to_one_model():
    first = make_model()
    first.train_on_batch(X, Y)
    second = make_model(optimizer=first.optimizer)
    with pytest.raises(ValueError, match="already trains another model"):
        second.train_on_batch(X, Y)


def without(key):
    return {name: value for name, value in X.items() if name != key}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": None}, "`x` must be a dict of texts"),
        ({"x": ["a", "b"]}, "`x` must be a dict of texts"),
        ({"x": "text"}, "`x` must be a dict of texts"),
        ({"x": {}}, "`x` must hold at least one example"),
        ({"x": TEXTS}, "hold|keys|preprocessor"),
        ({"x": X}, "`y` must hold the target ids"),
        ({"x": without("decoder_padding_mask"), "y": Y}, "missing: `decoder_padding_mask`"),
        ({"x": X, "y": Y[:3]}, "must have one length"),
        ({"x": X, "y": Y[:, :2]}, r"`y` must have the shape of `decoder_token_ids`, \(5, 4\)"),
        ({"x": X, "y": Y * 1.0}, "`y` must be an integer array"),
        ({"x": X, "y": Y, "sample_weight": WEIGHT[:, :2]}, "`sample_weight` must have the shape"),
        ({"x": X, "y": Y, "sample_weight": WEIGHT * np.nan}, "`sample_weight` must hold finite"),
        ({"x": X, "y": Y, "sample_weight": WEIGHT + np.inf}, "`sample_weight` must hold finite"),
        ({"x": [(X, Y, WEIGHT * np.nan)]}, "`sample_weight` must hold finite numbers.*nan at"),
        ({"x": X, "y": Y, "batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"x": X, "y": Y, "epochs": -1}, "`epochs` must be a whole number of at least 0"),
        ({"x": X, "y": Y, "verbose": 3}, "`verbose` must be 'auto', 0, 1 or 2"),
        ({"x": X, "y": Y, "class_weight": [1.0]}, "`class_weight` must be a dict"),
        ({"x": X, "y": Y, "class_weight": {0: np.nan}}, "`class_weight` must be a dict"),
        (
            {"x": X, "y": Y, "class_weight": {0: 1.0}, "sample_weight": WEIGHT},
            "must be None when there is `sample_weight`",
        ),
        ({"x": X, "y": Y, "validation_split": 1.5}, "`validation_split` must be at least 0"),
        ({"x": X, "y": Y, "validation_split": 0.9}, "`validation_split` must leave examples"),
        ({"x": X, "y": Y, "callbacks": ["history"]}, "`callbacks` must be instances of"),
        ({"x": batches_of(2), "y": Y}, "`y` must be None when `x` is an iterable"),
        ({"x": batches_of(2), "batch_size": 2}, "`batch_size` must be None when"),
        ({"x": batches_of(2), "validation_split": 0.5}, "0 when `x` is an iterable"),
        ({"x": [({}, 1, 2, 3)]}, r"`x` must yield `x`, `\(x, y\)`"),
    ],
)
def test_bad_data_is_named(arguments, message):
    model = make_model()
    before = model.core.table.copy()
    with pytest.raises(ValueError, match=message):
        model.fit(**{"verbose": 0, **arguments})
    np.testing.assert_array_equal(model.core.table, before)


def test_validation_data_is_looked_at_before_the_first_step():
    model = text_model()
    for wrong in ({"encoder_text": ["a"]}, {**TEXTS, "decoder_text": [3, *"abcdef"]}):
        with pytest.raises((ValueError, KeyError), match="decoder_text"):
            model.fit(TEXTS, validation_data=wrong, verbose=0)
    assert not model.core.calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": {"encoder_text": "one", "decoder_text": "two"}}, "put a single text into a list"),
        ({"x": {"encoder_text": ["a"], "decoder_text": ["a", "b"]}}, "must have one length"),
    ],
)
def test_bad_texts_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        text_model().fit(**{"x": TEXTS, "verbose": 0, **arguments})


def test_targets_beside_texts_are_ignored_with_a_warning():
    """As in keras-hub; once a call."""
    expected = text_model().fit(TEXTS, batch_size=2, verbose=0).history
    with pytest.warns(UserWarning, match="`y` and `sample_weight` ignored") as told:
        got = text_model().fit(
            TEXTS, y=np.zeros((7, 3), int), sample_weight=np.ones(7), batch_size=2, verbose=0
        )
    assert (got.history, len(told)) == (expected, 1)


def test_training_needs_compile():
    model = make_model()
    model.optimizer = None
    for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=r"hint: call `compile\(\)` first"):
            method(X, Y)


def test_a_schedule_that_gives_no_number_is_named():
    model = make_model(optimizer=optimizers.SGD(lambda: float("nan")))
    with pytest.raises(ValueError, match="`learning_rate` must be finite"):
        model.train_on_batch(X, Y)
