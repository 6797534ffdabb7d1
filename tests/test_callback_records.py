"""Callbacks beside Keras' own (3.15.1), the files that they write, averaged weights."""

import io
import struct
import sys

import numpy as np
import pytest
from keras_runs import GOLDEN, QUIET, X, Y, make_model
from test_bart_text_classifier import classifier
from tiny_models import tiny_backbone, tiny_model

from bart_fast import callbacks, optimizers
from bart_fast.training.progress import ProgressBar

# The learning rates of Keras' ReduceLROnPlateau after each of these losses, from 1.0.
LOSSES = [5, 4, 4, 4.0001, 3.99995, 3, 3, 3, 3, 3, 3, 3, 2.9, 2.9, 2.9]
RATES = [
    ({"patience": 2}, [1] * 3 + [0.1] * 4 + [1e-2] * 2 + [1e-3] * 2 + [1e-4] * 3 + [1e-5]),
    (
        {"patience": 2, "cooldown": 2, "factor": 0.5},
        [1] * 3 + [0.5] * 4 + [0.25] * 3 + [0.125] * 4 + [0.0625],
    ),
    ({"patience": 1, "factor": 0.5, "min_lr": 0.3}, [1] * 2 + [0.5] + [0.3] * 12),
]


@pytest.mark.parametrize(("arguments", "rates"), RATES)
def test_reduced_rates_equal_keras(arguments, rates):
    callback, model = callbacks.ReduceLROnPlateau("loss", **arguments), make_model()
    model.optimizer.learning_rate = 1.0
    callback.set_model(model)
    callback.on_train_begin()
    seen = []
    for epoch, loss in enumerate(LOSSES):
        logs = {"loss": loss}
        before = model.optimizer.learning_rate
        callback.on_epoch_end(epoch, logs)
        assert logs["learning_rate"] == before
        seen.append(model.optimizer.learning_rate)
    assert seen == pytest.approx(rates)


def test_rates_are_reduced_while_fitting(capsys):
    callback = callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100, verbose=1)
    history = make_model().fit(X, Y, epochs=3, callbacks=[callback], **QUIET).history
    assert history["learning_rate"] == pytest.approx([0.1, 0.1, 0.05])
    assert "Epoch 2: ReduceLROnPlateau reducing learning rate to 0.05." in capsys.readouterr().out


def test_a_csv_file_equals_keras(tmp_path):
    path = tmp_path / "log.csv"
    first = [{"loss": 0.5, "accuracy": 0.25}, {"loss": 0.25, "accuracy": 0.5, "val_loss": 1.5}]
    later = [{"loss": 0.125, "accuracy": 0.5, "val_loss": 1.5, "val_accuracy": 0.75}]
    for start, epochs in ((0, first), (2, later)):
        logger = callbacks.CSVLogger(path, append=start > 0)
        logger.on_train_begin()
        for epoch, logs in enumerate(epochs, start):
            logger.on_epoch_end(epoch, logs)
        logger.on_train_end()
    # As Keras wrote it for the same values.
    assert path.read_bytes().decode() == (
        "epoch,accuracy,loss,val_accuracy,val_loss\r\n"
        "0,0.25,0.5,NA,NA\r\n1,0.5,0.25,NA,1.5\r\n2,0.5,0.125,0.75,1.5\r\n"
    )


def test_a_csv_file_is_whole_after_a_failure(tmp_path):
    def fail(epoch, logs):
        if epoch == 1:
            raise RuntimeError("no")

    logger = callbacks.CSVLogger(tmp_path / "log.csv", separator=";")
    failing = callbacks.LambdaCallback(on_epoch_end=fail)
    with pytest.raises(RuntimeError, match="no"):
        make_model().fit(X, Y, epochs=3, callbacks=[logger, failing], **QUIET)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(";")[0] for line in lines] == ["epoch", "0", "1"]
    assert logger._file is None
    with pytest.raises(FileNotFoundError):
        make_model().fit(X, Y, callbacks=[callbacks.CSVLogger(tmp_path / "no" / "log")], **QUIET)


# TensorBoard.


def scalars(folder):
    """Tag -> [(step, value)] of an event file, read record by record."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        data = data[16 + length :]
    return found


def test_curves_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    board = callbacks.TensorBoard(tmp_path, update_freq=2, histogram_freq=1)
    model = make_model()
    run = model.fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[board], **QUIET).history
    train, validation = scalars(tmp_path / "train"), scalars(tmp_path / "validation")
    assert [value for _, value in train["epoch_loss"]] == pytest.approx(run["loss"])
    assert [step for step, _ in train["epoch_loss"]] == [0, 1]
    assert [value for _, value in train["epoch_learning_rate"]] == pytest.approx([0.1, 0.1])
    assert [step for step, _ in train["batch_loss"]] == [2, 4, 6]
    assert "shared.weight/histogram" in train
    assert [value for _, value in validation["epoch_loss"]] == pytest.approx(run["val_loss"])
    assert [s for s, _ in validation["evaluation_loss_vs_iterations"]] == [3, 6]
    # A second run writes files of its own.
    model.fit(X, Y, callbacks=[callbacks.TensorBoard(tmp_path / "b", update_freq="batch")], **QUIET)
    assert len(scalars(tmp_path / "b" / "train")["batch_loss"]) == 3


def test_tensorboard_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="hint: pip install"):
        callbacks.TensorBoard()


# Averaged weights.


def test_averaged_weights_equal_keras():
    run, model = (
        GOLDEN["with_averages"],
        make_model(optimizer=optimizers.SGD(0.5, use_ema=True, ema_momentum=0.8)),
    )
    history = model.fit(X, Y, epochs=2, shuffle=False, **QUIET).history
    assert history["loss"] == pytest.approx(run["loss"], abs=1e-5)
    np.testing.assert_allclose(model.core.table, run["table"], atol=1e-5)


def trained_model(kind, **arguments):
    if kind == "classifier":
        model = classifier(tiny_backbone(dropout=0.0))
        data = {"x": ["the whale", "a fox", "it"], "y": [0, 2, 1]}
    else:
        model, data = (
            tiny_model(dropout=0.0),
            {"x": {"encoder_text": ["ab", "c", "d"], "decoder_text": ["ba", "c", "dd"]}},
        )
    model.compile(optimizers.SGD(0.1, **arguments))
    return model, {**data, "batch_size": 2, "shuffle": False, "verbose": 0}


def flat(model):
    return np.concatenate([each.ravel() for each in model.get_weights()])


@pytest.mark.parametrize("kind", ["language model", "classifier"])
def test_averages_of_real_models(kind):
    plain, options = trained_model(kind)
    steps = [flat(plain)]
    keep = callbacks.LambdaCallback(on_train_batch_end=lambda *_: steps.append(flat(plain)))
    plain.fit(epochs=2, callbacks=[keep], **options)
    average = steps[1]
    for weights in steps[2:]:
        average = 0.75 * average + 0.25 * weights
    model, _ = trained_model(kind, use_ema=True, ema_momentum=0.75)
    model.fit(epochs=2, **options)
    np.testing.assert_allclose(flat(model), average, atol=1e-6)
    swap = callbacks.SwapEMAWeights()
    with pytest.raises(ValueError, match="hint: make the optimizer with `use_ema=True`"):
        plain.evaluate(options["x"], options.get("y"), verbose=0, callbacks=[swap])


def test_averages_are_evaluated_and_saved_in_between():
    seen = {}

    class Keep(callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen["evaluated"] = flat(self.model)

        def on_epoch_end(self, epoch, logs=None):
            seen["saved"] = flat(self.model)

        def on_epoch_begin(self, epoch, logs=None):
            seen.setdefault("trained", []).append(flat(self.model))

    swap = callbacks.SwapEMAWeights(swap_on_epoch=True)
    model, options = trained_model("language model", use_ema=True, ema_momentum=0.75)
    validation = {"validation_data": options["x"], "callbacks": [swap, Keep()]}
    model.fit(epochs=2, **validation, **options)
    np.testing.assert_array_equal(seen["evaluated"], seen["saved"])
    # In the end the averages stand, and training itself never saw them.
    np.testing.assert_array_equal(flat(model), seen["saved"])
    plain, options = trained_model("language model")
    after = []
    keep = callbacks.LambdaCallback(on_epoch_begin=lambda *_: after.append(flat(plain)))
    plain.fit(epochs=2, callbacks=[keep], **options)
    np.testing.assert_array_equal(seen["trained"], after)


def test_a_failure_in_an_evaluation_gives_weights_back():
    def fail(*_):
        raise RuntimeError("no")

    model, options = trained_model("language model", use_ema=True)
    model.fit(**options)
    model.fit(**options)
    before = flat(model)
    failing = callbacks.LambdaCallback(on_test_batch_end=fail)
    with pytest.raises(RuntimeError, match="no"):
        model.evaluate(options["x"], verbose=0, callbacks=[callbacks.SwapEMAWeights(), failing])
    np.testing.assert_array_equal(flat(model), before)


# Progress where it is not a terminal.


def test_a_notebook_redraws_one_line_and_a_narrow_terminal_never_wraps(monkeypatch):
    class Notebook(io.StringIO):
        __module__ = "ipykernel.iostream"

    seconds = iter(np.arange(0, 100, 0.2))
    stream = Notebook()
    bar = ProgressBar(50, stream=stream, clock=lambda: next(seconds))
    for step in range(50):
        bar.update(step + 1, {"loss": 1.0}, finalize=step == 49)
    text = stream.getvalue()
    assert (
        text.count("\n") == 1 and 15 <= text.count("\r") <= 25 and text.rstrip().endswith("1.0000")
    )

    monkeypatch.setenv("COLUMNS", "40")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    seconds = iter(np.arange(0, 100, 0.2))
    bar = ProgressBar(3, stream=terminal, clock=lambda: next(seconds))
    for step in range(3):
        bar.update(step + 1, {"loss": 1.0, "accuracy": 0.5}, finalize=step == 2)
    *redrawn, last = terminal.getvalue().split("\r")[1:]
    assert all(len(line) <= 39 for line in redrawn) and last.rstrip().endswith("accuracy: 0.5000")
    ProgressBar(3, stream=None if sys.stdout else terminal).update(1, {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: callbacks.ReduceLROnPlateau(factor=1.0), "`factor` must be above 0 and below 1"),
        (lambda: callbacks.CSVLogger("a", separator="ab"), "`separator` must be a string of one"),
        (lambda: callbacks.TensorBoard(profile_batch=2), "`profile_batch` must be 0"),
        (lambda: callbacks.TensorBoard(update_freq="often"), "`update_freq` must be a whole"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
