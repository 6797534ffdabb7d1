"""Where batches come from: sets, streams, tensors of other libraries."""

import numpy as np
import pytest
from keras_runs import QUIET, WEIGHT, X, Y, make_model
from test_bart_text_classifier import classifier
from tiny_models import tiny_backbone, tiny_model

from bart_fast import callbacks, optimizers
from bart_fast.training.batches import Batches
from bart_fast.training.data import open_data


class NumpyOnly:
    """A tensor that numpy cannot read by itself."""

    def __init__(self, value):
        self._value = np.asarray(value)

    def numpy(self):
        return self._value


class OnDevice:
    """A tensor with a gradient, elsewhere, as torch's."""

    def __init__(self, value, steps=("detach", "cpu")):
        self._value, self._steps = np.asarray(value), steps

    def _step(self, name):
        return OnDevice(self._value, tuple(each for each in self._steps if each != name))

    def detach(self):
        return self._step("detach")

    def cpu(self):
        return self._step("cpu")

    def __array__(self, *_, **__):
        raise TypeError("numpy must not read it like this")

    def numpy(self):
        assert not self._steps, "not detached, or not on the CPU"
        return self._value


def batches(size=2, wrap=np.asarray, form=tuple):
    """The recorded data in batches, every array wrapped."""
    for i in range(0, len(Y), size):
        part = slice(i, i + size)
        x = {key: wrap(value[part]) for key, value in X.items()}
        yield form((x, wrap(Y[part]), wrap(WEIGHT[part])))


class Loader:
    """As torch's DataLoader: it starts again, knows its length, yields lists of tensors."""

    def __iter__(self):
        return batches(wrap=OnDevice, form=list)

    def __len__(self):
        return 3


class Dataset:
    """As a dataset of tf.data: its length may be unknown or infinite."""

    def __init__(self, endless=False):
        self.endless = endless

    def __iter__(self):
        while True:
            yield from batches(wrap=NumpyOnly)
            if not self.endless:
                return

    def __len__(self):
        raise TypeError("The dataset is infinite." if self.endless else "length is unknown")

    def cardinality(self):
        return np.int64(-1 if self.endless else -2)


class PyDataset:
    """As Keras': batches by their number, and hooks around a pass."""

    def __init__(self):
        self.events = []

    def __len__(self):
        return 3

    @property
    def num_batches(self):
        return len(self)

    def __getitem__(self, index):
        self.events.append(index)
        return list(batches())[index]

    def __iter__(self):
        raise AssertionError("Keras asks by number")

    def on_epoch_begin(self):
        self.events.append("begin")

    def on_epoch_end(self):
        self.events.append("end")


KINDS = {
    "generator": lambda: batches(),
    "list": lambda: list(batches()),
    "loader": Loader,
    "dataset": Dataset,
    "set": PyDataset,
    "arrays": lambda: None,
    "tensors": lambda: None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_data_train_alike(kind):
    expected, model = make_model(optimizer="sgd"), make_model(optimizer="sgd")
    options = {"shuffle": False, "verbose": 0}
    wanted = expected.fit(X, Y, sample_weight=WEIGHT, batch_size=2, **options).history
    if kind in ("arrays", "tensors"):
        wrap = np.asarray if kind == "arrays" else OnDevice
        x = {key: wrap(value) for key, value in X.items()}
        y, weight = wrap(Y), wrap(WEIGHT)
        got = model.fit(x, y, sample_weight=weight, batch_size=2, **options).history
    else:
        got = model.fit(KINDS[kind](), **options).history
    assert got == wanted
    np.testing.assert_array_equal(model.core.table, expected.core.table)
    evaluated = expected.evaluate(X, Y, sample_weight=WEIGHT, **QUIET)
    if kind not in ("arrays", "tensors"):
        assert model.evaluate(KINDS[kind](), verbose=0) == evaluated
        validated = model.fit(X, Y, epochs=1, validation_data=KINDS[kind](), **QUIET).history
        assert validated["val_loss"] == [model.evaluate(KINDS[kind](), verbose=0)[0]]


def test_a_set_of_batches_is_told_of_passes_and_shuffled():
    data, model = PyDataset(), make_model()
    model.fit(data, epochs=3, verbose=0)
    passes = [data.events[i : i + 5] for i in (0, 5, 10)]
    assert all(each[0] == "begin" and each[-1] == "end" for each in passes)
    orders = [each[1:-1] for each in passes]
    assert all(sorted(order) == [0, 1, 2] for order in orders) and len(data.events) == 15
    assert len({tuple(order) for order in orders}) > 1
    data.events.clear()
    model.fit(data, epochs=2, steps_per_epoch=2, shuffle=False, verbose=0)
    assert data.events == ["begin", 0, 1, 2, "end", "begin", 0]


def test_data_without_an_end_wants_a_number_of_steps():
    class Endless(PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return list(batches())[index % 3]

        def __iter__(self):
            return (self[index] for index in range(10**9))

    for data in (Dataset(endless=True), Endless()):
        model = make_model()
        with pytest.raises(ValueError, match="`steps_per_epoch` must say how many batches"):
            model.fit(data, verbose=0)
        with pytest.raises(ValueError, match="`steps` must say how many batches"):
            model.evaluate(data, verbose=0)
        history = model.fit(data, epochs=2, steps_per_epoch=4, verbose=0)
        assert (len(history.epoch), model.optimizer.iterations) == (2, 8)
        assert len(model.evaluate(data, steps=2, verbose=0)) == 2


class Empty(Dataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize("make", [list, lambda: iter([]), Empty], ids=["list", "stream", "dataset"])
def test_data_without_a_batch_is_refused(make):
    model = make_model()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="`x` must"):
            call(make(), verbose=0)
    assert not model.core.calls
    # What validates an epoch is looked at when the epoch has been made.
    with pytest.raises(ValueError, match="`validation_data` must"):
        model.fit(X, Y, validation_data=make(), **QUIET)
    assert np.isfinite(model.fit(X, Y, **QUIET).history["loss"][0])


def test_a_run_can_start_in_the_middle_of_an_epoch():
    for make in (lambda: open_data(X, Y), PyDataset, lambda: list(batches()), lambda: batches()):
        size = 2 if isinstance(make(), type(open_data(X, Y))) else None
        whole = [raw[1].tolist() for raw in Batches(make(), size, True, 5, steps=3).epoch(0)]
        later = [raw[1].tolist() for raw in Batches(make(), size, True, 5, steps=3).epoch(0, 2)]
        assert later == whole[2:] and len(whole) == 3


def failing(error, after=2):
    for index, batch in enumerate(batches()):
        if index == after:
            raise error
        yield batch


@pytest.mark.parametrize("error", [RuntimeError("disk"), KeyboardInterrupt()])
def test_data_that_fails_leaves_the_model_after_the_last_step(error):
    model, expected = make_model(), make_model()
    with pytest.raises(type(error)):
        model.fit(failing(error), verbose=0)
    expected.fit(list(batches())[:2], verbose=0)
    np.testing.assert_array_equal(model.core.table, expected.core.table)
    assert model.fit(X, Y, **QUIET).history["loss"] == expected.fit(X, Y, **QUIET).history["loss"]


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_end", "on_train_batch_end"])
def test_a_callback_that_fails_leaves_a_model_that_goes_on(event):
    def fail(*_):
        raise RuntimeError("no")

    model, calls = make_model(), {"on_train_begin": 0, "on_epoch_end": 3, "on_train_batch_end": 1}
    with pytest.raises(RuntimeError, match="no"):
        model.fit(X, Y, callbacks=[callbacks.LambdaCallback(**{event: fail})], **QUIET)
    assert len(model.core.calls) == calls[event]
    assert np.isfinite(model.fit(X, Y, **QUIET).history["loss"][0])


def test_ids_out_of_range_are_refused_before_the_first_step():
    model = make_model()
    for name, x, y in (
        ("y", X, np.where(np.arange(20).reshape(5, 4) == 18, 6, Y)),
        ("y", X, np.where(np.arange(20).reshape(5, 4) == 18, -1, Y)),
        ("decoder_token_ids", {**X, "decoder_token_ids": Y + 1}, Y),
        ("encoder_token_ids", {**X, "encoder_token_ids": Y + 1}, Y),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must hold ids from 0 to 5"):
            model.fit(x, y, **QUIET)
        with pytest.raises(ValueError, match=f"`{name}` must hold ids from 0 to 5"):
            model.fit(X, Y, validation_data=(x, y), **QUIET)
    assert not model.core.calls
    of_classes = classifier(tiny_backbone())
    of_classes.compile("sgd")
    with pytest.raises(ValueError, match="`y` must be 40 labels from 0 to 2"):
        of_classes.fit(["a"] * 40, [0] * 39 + [3], verbose=0)
    assert of_classes.optimizer.iterations == 0


# Texts.

SOURCES, TARGETS = ["the whale", "a fox", "it", "over"], ["whale", "foxes", "", "under"]


def pairs(wrap=list, size=2):
    for i in range(0, len(SOURCES), size):
        part = slice(i, i + size)
        yield {"encoder_text": wrap(SOURCES[part]), "decoder_text": wrap(TARGETS[part])}


def as_bytes(texts):
    return NumpyOnly(np.array([text.encode() for text in texts], object))


def test_texts_of_all_kinds_train_alike():
    def trained(data, **options):
        model = tiny_model(dropout=0.0)
        model.compile(optimizers.SGD(0.1))
        return model.fit(data, verbose=0, shuffle=False, **options).history

    expected = trained({"encoder_text": SOURCES, "decoder_text": TARGETS}, batch_size=2)
    columns = {"encoder_text": np.array(SOURCES, object), "decoder_text": as_bytes(TARGETS)}
    assert trained(columns, batch_size=2) == expected
    for wrap in (list, tuple, np.array, as_bytes):
        assert trained(pairs(wrap)) == expected
    assert trained([(each,) for each in pairs()]) == expected


def test_a_classifier_takes_the_same_kinds():
    labels = np.array([0, 2, 1, 1])

    def trained(data, *y, **options):
        model = classifier(tiny_backbone(dropout=0.0))
        model.compile(optimizers.SGD(0.1))
        return model.fit(data, *y, verbose=0, shuffle=False, **options).history

    expected = trained(SOURCES, labels, batch_size=2)
    parts = [(SOURCES[i : i + 2], labels[i : i + 2]) for i in (0, 2)]
    assert trained(parts) == expected
    assert trained((as_bytes(x), NumpyOnly(y)) for x, y in parts) == expected
    assert trained(iter([[x, OnDevice(y)] for x, y in parts])) == expected


def test_a_classifier_predicts_the_same_kinds(capsys):
    model, seen = classifier(tiny_backbone()), []
    expected = model.predict(SOURCES, verbose=0)
    labels, parts = np.array([0, 2, 1, 1]), [SOURCES[:1], SOURCES[1:]]
    arrays = model.preprocessor(SOURCES)
    halves = [{name: value[i : i + 2] for name, value in arrays.items()} for i in (0, 2)]
    labelled = [(as_bytes(part), NumpyOnly(labels[: len(part)])) for part in parts]
    for data in (iter(parts), iter(labelled), iter(halves)):
        np.testing.assert_allclose(model.predict(data, verbose=0), expected, atol=1e-6)
    assert len(model.predict(iter(parts), steps=1, verbose=0)) == 1
    count = callbacks.LambdaCallback(on_predict_batch_end=lambda index, _: seen.append(index))
    model.predict(SOURCES, batch_size=3, callbacks=[count])
    assert seen == [0, 1] and capsys.readouterr().out.startswith("2/2 ")


def test_loaders_of_torch():
    torch = pytest.importorskip("torch")
    sets = [torch.as_tensor(value) for value in (*X.values(), Y, WEIGHT)]
    rows = torch.utils.data.TensorDataset(*sets)

    def collate(items):
        *x, y, weight = (torch.stack(column) for column in zip(*items, strict=True))
        return dict(zip(X, x, strict=True)), y, weight.requires_grad_()

    loader = torch.utils.data.DataLoader(rows, batch_size=2, collate_fn=collate)
    expected, model = make_model(optimizer="sgd"), make_model(optimizer="sgd")
    options = {"shuffle": False, "verbose": 0, "epochs": 2}
    wanted = expected.fit(X, Y, sample_weight=WEIGHT, batch_size=2, **options).history
    assert model.fit(loader, **options).history == wanted
    texts = list(zip(SOURCES, TARGETS, strict=True))
    named = [{"encoder_text": source, "decoder_text": target} for source, target in texts]
    loader = torch.utils.data.DataLoader(named, batch_size=2)
    assert np.isfinite(tiny_model().fit(loader, verbose=0).history["loss"][0])
