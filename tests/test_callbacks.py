"""Callbacks: the order of events, early stopping, checkpoints, learning rates, progress."""

import io

import numpy as np
import pytest
from bigram_core import BigramModel, token_arrays

from bart_fast import callbacks, optimizers
from bart_fast.training.progress import ProgressBar, format_time, format_value

IDS = np.arange(12).reshape(6, 2) % 4
X, Y = token_arrays(IDS), (IDS + 1) % 4


def make_model(**arguments):
    return BigramModel(np.zeros((4, 4)), **{"optimizer": optimizers.SGD(0.5), **arguments})


def run(callback, model=None, **arguments):
    model = model or make_model()
    options = {"epochs": 2, "batch_size": 4, "verbose": 0, "callbacks": callback}
    return model.fit(X, Y, **{**options, **arguments}), model


class Recorder(callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.events = []


def _record(name):
    def method(self, *arguments):
        *index, logs = arguments if arguments else (None,)
        self.events.append((name.removeprefix("on_"), *index, sorted(logs or ())))

    return method


for _name in vars(callbacks.Callback):
    if _name.startswith("on_") and not _name.startswith("on_batch"):
        setattr(Recorder, _name, _record(_name))


def test_events_come_in_the_order_of_keras():
    recorder = Recorder()
    run([recorder], epochs=1, validation_data=(X, Y))
    names = ["loss", "sparse_categorical_accuracy"]
    both = sorted([*names, *(f"val_{name}" for name in names)])
    steps = [
        [(f"{kind}_batch_begin", i, []), (f"{kind}_batch_end", i, names)]
        for kind in ("train", "test")
        for i in range(2)
    ]
    assert recorder.events == [
        ("train_begin", []),
        ("epoch_begin", 0, []),
        *steps[0],
        *steps[1],
        ("test_begin", []),
        *steps[2],
        *steps[3],
        ("test_end", names),
        ("epoch_end", 0, both),
        ("train_end", both),
    ]
    assert recorder.params == {"verbose": 0, "epochs": 1, "steps": 2}
    assert isinstance(recorder.model, BigramModel)


def test_old_names_of_batch_events_are_called():
    class Old(callbacks.Callback):
        seen = ()

        def on_batch_end(self, batch, logs=None):
            self.seen = (*self.seen, batch)

    old = Old()
    run(old)
    assert old.seen == (0, 1, 0, 1)


def test_any_callback_can_stop_training():
    def stop(batch, logs):
        model.stop_training = True

    model = make_model()
    history, _ = run(callbacks.LambdaCallback(on_train_batch_end=stop), model)
    assert (len(model.core.calls), history.epoch) == (1, [0])
    history, _ = run(None, model)
    assert history.epoch == [0, 1]


def test_lambda_callback_takes_every_event():
    events = []
    callback = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: events.append((epoch, "loss" in logs)),
        on_test_end=lambda logs: events.append("test"),
    )
    run(callback, validation_data=(X, Y))
    assert events == ["test", (0, True), "test", (1, True)]
    with pytest.raises(TypeError, match="unknown argument `on_epoch`"):
        callbacks.LambdaCallback(on_epoch=print)


def feed(callback, values, monitor="val_loss"):
    """Plays epochs with the given values; returns how many were run."""
    model = make_model()
    callback.set_model(model)
    model.stop_training = False
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        model.core.table[:] = epoch
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {monitor: value})
        if model.stop_training:
            break
    callback.on_train_end()
    return epoch + 1, model


@pytest.mark.parametrize(
    ("arguments", "values", "epochs"),
    [
        ({}, [3, 2, 2, 1], 3),
        ({}, [1, 2], 2),
        ({"patience": 2}, [3, 4, 2, 3, 3, 1], 5),
        ({"min_delta": 0.5}, [3, 2.6, 1], 2),
        ({"baseline": 1.0, "patience": 2}, [3, 2.5, 2.6, 1], 3),
        ({"baseline": 1.0, "patience": 2}, [3, 2.5, 2, 1], 4),
        ({"start_from_epoch": 2}, [1, 2, 3, 2, 2, 2], 5),
        ({"mode": "max"}, [1, 2, 2], 3),
    ],
)
def test_early_stopping(arguments, values, epochs):
    assert feed(callbacks.EarlyStopping(**arguments), values)[0] == epochs


def test_early_stopping_knows_the_direction_and_restores_the_best(capsys):
    callback = callbacks.EarlyStopping(
        "val_sparse_categorical_accuracy", patience=1, restore_best_weights=True, verbose=1
    )
    epochs, model = feed(callback, [0.1, 0.3, 0.2], "val_sparse_categorical_accuracy")
    assert epochs == 3
    assert (model.core.table == 1).all()
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 3: early stopping",
        "Restoring model weights of the best epoch: 2.",
    ]
    with pytest.raises(ValueError, match="hint: pass mode='min' or mode='max'"):
        feed(callbacks.EarlyStopping("other"), [1, 2], "other")
    with pytest.raises(ValueError, match="`mode` must be 'auto', 'min' or 'max'"):
        callbacks.EarlyStopping(mode="up")


def test_a_value_that_is_not_there_is_warned_about():
    with pytest.warns(UserWarning, match="`val_loss` is not available; available: loss"):
        history, _ = run(callbacks.EarlyStopping(), epochs=1)
    assert history.epoch == [0]


def test_model_checkpoint_saves_presets(tmp_path):
    _, model = run(callbacks.ModelCheckpoint(tmp_path / "all" / "{epoch:02d}"))
    assert model.saved == [str(tmp_path / "all/01"), str(tmp_path / "all/02")]
    assert (tmp_path / "all").is_dir()
    _, model = run(callbacks.ModelCheckpoint(tmp_path / "b{batch}", save_freq=3), epochs=3)
    assert model.saved == [str(tmp_path / "b1"), str(tmp_path / "b2")]
    best = callbacks.ModelCheckpoint(tmp_path / "best-{val_loss}", save_best_only=True)
    assert feed(best, [3, 4, 2, 2])[1].saved == [
        str(tmp_path / "best-3"),
        str(tmp_path / "best-2"),
    ]
    with pytest.raises(ValueError, match=r"`filepath`: .* names 'val_loss'"):
        run(callbacks.ModelCheckpoint(tmp_path / "{val_loss}"))
    with pytest.raises(ValueError, match=r"`filepath` must end in `\.weights\.h5` or `\.safete"):
        callbacks.ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(ValueError, match="`save_freq` must be 'epoch' or a positive int"):
        callbacks.ModelCheckpoint(tmp_path, save_freq=0)


@pytest.mark.parametrize(
    "schedule", [lambda epoch, rate: rate / 2, lambda epoch: 0.5 / 2 ** (epoch + 1)]
)
def test_learning_rate_scheduler(schedule):
    history, model = run(callbacks.LearningRateScheduler(schedule))
    assert [call["learning_rate"] for call in model.core.calls] == [0.25, 0.25, 0.125, 0.125]
    assert history.history["learning_rate"] == [0.25, 0.125]


def test_a_schedule_must_return_a_number():
    with pytest.raises(ValueError, match="`schedule` must return a float; epoch 0 gave: None"):
        run(callbacks.LearningRateScheduler(lambda epoch, rate: None))


# Progress.


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def play(stream, times, target=4, verbose=1):
    clock = Clock()
    bar = ProgressBar(target, verbose, stream, clock)
    for step, clock.now in enumerate(times, 1):
        bar.update(step, {"loss": 0.5 / step})
    return bar, clock


def test_progress_on_a_terminal_redraws_one_line():
    stream = Terminal()
    bar, clock = play(stream, [1.0, 1.05, 2.0])
    clock.now = 2.5
    bar.update(4, {"loss": 0.125}, finalize=True)
    full, empty = "━" * 5, "─" * 5
    written = stream.getvalue()
    assert written.endswith("  \n"), "the rest of a longer line is overwritten"
    assert [line.rstrip() for line in written.split("\r")[1:]] == [
        f"1/4 {full}{empty * 3} 3s left 1.0s/step - loss: 0.5000",
        # The second step came too soon after the first to be shown.
        f"3/4 {full * 3}{empty} 1s left 500ms/step - loss: 0.1667",
        f"4/4 {full * 4} 2s 500ms/step - loss: 0.1250",
    ]


def test_progress_in_a_file_is_a_line_now_and_then():
    stream = io.StringIO()
    bar, clock = play(stream, [10.0, 29.0, 31.0])
    clock.now = 32.0
    bar.update(4, {"loss": 1e-5}, finalize=True)
    assert stream.getvalue().splitlines() == [
        "3/4 11s left 10.5s/step - loss: 0.1667",
        "4/4 32s 7.3s/step - loss: 1.0000e-05",
    ]


def test_progress_can_be_short_or_silent_or_without_a_target():
    for verbose, lines in ((0, 0), (2, 1)):
        stream = Terminal()
        bar, _ = play(stream, [1.0, 2.0], verbose=verbose)
        bar.update(4, {}, finalize=True)
        assert stream.getvalue().count("\n") == lines
    stream = Terminal()
    play(stream, [1.0], target=None)
    assert stream.getvalue() == "\r1 1s 1.0s/step - loss: 0.5000"


def test_a_line_left_open_is_ended():
    stream = Terminal()
    bar, _ = play(stream, [1.0])
    bar.close()
    bar.close()
    assert stream.getvalue().endswith("0.5000\n")


def test_a_stream_without_the_characters_gets_plain_ones():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    stream.isatty = lambda: True
    play(stream, [1.0])
    assert raw.getvalue() == b"\r1/4 =====............... 3s left 1.0s/step - loss: 0.5000"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1s"), (61, "1:01"), (3725, "1:02:05")])
def test_times(seconds, text):
    assert format_time(seconds) == text


def test_values():
    assert [format_value(value) for value in (0.12345, 1e-4, float("nan"))] == [
        "0.1235",
        "1.0000e-04",
        "nan",
    ]


def test_fit_and_evaluate_show_progress(capsys):
    model = make_model()
    model.fit(X, Y, epochs=2, batch_size=4, validation_data=(X, Y))
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == ["Epoch 1/2", "Epoch 2/2"]
    assert lines[1].startswith("2/2 ")
    assert " - loss: " in lines[1] and " - val_sparse_categorical_accuracy: " in lines[1]
    assert len(lines) == 4
    model.evaluate(X, Y, batch_size=4)
    assert capsys.readouterr().out.startswith("2/2 ")
    model.fit(X, Y, verbose=0)
    model.evaluate(X, Y, verbose=0)
    assert capsys.readouterr().out == ""
