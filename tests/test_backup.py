"""A run that is stopped anywhere and goes on ends with the bits of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import VOCABULARY, tiny_backbone, tiny_model, tiny_preprocessor

import bart_fast
from bart_fast import callbacks, metrics, models, optimizers, pretraining
from bart_fast.optimizers import schedules
from bart_fast.training.errors import NonFiniteLossError

WORDS = ["whale", "fox", "owl", "jumps", "over", "the", "lazy", "dog", "sees", "a"]
TEXTS = [f"{WORDS[i]} {WORDS[(3 * i + 1) % 10]}" for i in range(10)]
PAIRS = {"encoder_text": TEXTS, "decoder_text": TEXTS[::-1]}
BATCHES = [
    {key: column[at : at + 2] for key, column in PAIRS.items()} for at in range(0, len(TEXTS), 2)
]


class Endless:
    """A stream that is read from the beginning by each new run."""

    def __iter__(self):
        while True:
            yield from BATCHES


def language_model(**compiled):
    bart_fast.set_random_seed(11)
    model = models.BartSeq2SeqLM(tiny_backbone(dropout=0.2), tiny_preprocessor())
    compiled = {"optimizer": optimizers.Adam(0.01), "sampler": "greedy", **compiled}
    model.compile(**{k: v() if callable(v) else v for k, v in compiled.items()})
    return model


def adapted():
    model = language_model()
    model.backbone.enable_lora(2)
    return model


def classifier():
    bart_fast.set_random_seed(11)
    packing = models.BartTextClassifierPreprocessor(tiny_preprocessor().tokenizer, 20)
    model = models.BartTextClassifier(tiny_backbone(dropout=0.1), 2, packing, dropout=0.1)
    model.compile(optimizer=optimizers.AdamW(0.01))
    return model


def denoising(model):
    """Batches that are others in each epoch."""
    vocabulary = {**VOCABULARY, "<mask>": VOCABULARY["z"]}
    del vocabulary["z"]
    packing = models.BartSeq2SeqLMPreprocessor(models.BartTokenizer(vocabulary, []), 16, 12)
    denoiser = pretraining.Denoiser(packing.tokenizer, text_infilling=0.4, seed=3)
    return pretraining.DenoisingDataset(TEXTS, packing, denoiser, batch_size=3)


def decaying():
    return optimizers.AdamW(schedules.CosineDecay(0.02, 12), global_clipnorm=1.0)


def accumulating():
    return optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3)


class Spread(metrics.Metric):
    """A metric of one's own."""

    def __init__(self):
        super().__init__("spread")
        self.total = self.add_variable()
        self.count = self.add_variable((1,))

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add((y_pred.std(axis=-1) * sample_weight).sum())
        self.count.assign_add([sample_weight.sum()])

    def result(self):
        return (self.total / self.count)[0]


def averaging():
    return optimizers.Lion(0.01, use_ema=True)


CASES = {
    "metrics": (
        lambda: language_model(
            optimizer=averaging, weighted_metrics=lambda: [Spread(), "perplexity"]
        ),
        {"x": PAIRS, "batch_size": 3},
    ),
    "texts": (language_model, {"x": PAIRS, "batch_size": 3}),
    "not shuffled": (language_model, {"x": PAIRS, "batch_size": 4, "shuffle": False}),
    "list of batches": (language_model, {"x": BATCHES}),
    "stream": (language_model, {"x": Endless(), "steps_per_epoch": 4}),
    "steps in memory": (language_model, {"x": PAIRS, "batch_size": 3, "steps_per_epoch": 3}),
    "schedule": (lambda: language_model(optimizer=decaying), {"x": PAIRS, "batch_size": 3}),
    "accumulation": (lambda: language_model(optimizer=accumulating), {"x": PAIRS, "batch_size": 3}),
    "running means": (
        lambda: language_model(optimizer=lambda: optimizers.Lion(0.01, use_ema=True)),
        {"x": PAIRS, "batch_size": 3},
    ),
    "lora": (adapted, {"x": PAIRS, "batch_size": 3}),
    "fresh noise": (language_model, {"x": denoising}),
    "classifier": (classifier, {"x": TEXTS, "y": [0, 1] * 5, "batch_size": 3}),
}


class Stop(callbacks.Callback):
    """Presses Ctrl-C after some batches."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def watchers():
    """Callbacks with a memory, and one that changes the learning rate where it may."""
    return [
        callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True),
        callbacks.History(),
    ]


def result_of(model, history):
    adapters = model.backbone._model
    return model.get_weights(), history.history, bart_fast._core.Adapters(adapters).names()


def assert_equal(result, expected):
    for ours, theirs in zip(result[0], expected[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert result[1:] == expected[1:]


@pytest.mark.parametrize("name", CASES)
def test_a_run_stopped_anywhere_ends_with_the_same_bits(name, tmp_path):
    make, arguments = CASES[name]
    arguments = {**arguments, "epochs": 3, "verbose": 0}

    def run(*callbacks):
        model = make()
        x = arguments["x"](model) if callable(arguments["x"]) else arguments["x"]
        history = model.fit(**{**arguments, "x": x}, callbacks=[*watchers(), *callbacks])
        return result_of(model, history)

    expected = run()
    for after, save_freq in ((1, 1), (4, 3), (5, "epoch"), (9, 1), (9, "epoch")):
        where = tmp_path / f"{after}-{save_freq}"
        backup = callbacks.BackupAndRestore(where, save_freq=save_freq)
        with pytest.raises(KeyboardInterrupt):
            run(backup, Stop(after))
        assert (where / "checkpoint.npz").is_file()
        assert_equal(run(callbacks.BackupAndRestore(where, save_freq=save_freq)), expected)
        assert not where.exists(), "the run has ended"


SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_backup import *
class Kill(callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.seen = getattr(self, "seen", -1) + 1
        if self.seen == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
model = language_model()
backup = callbacks.BackupAndRestore(sys.argv[2], save_freq=2)
model.fit(PAIRS, batch_size=3, epochs=3, verbose=0, callbacks=[backup, Kill()])
np.savez(sys.argv[4], *model.get_weights())
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_killed_process_goes_on(tmp_path):
    model = language_model()
    model.fit(PAIRS, batch_size=3, epochs=3, verbose=0)
    result = tmp_path / "weights.npz"
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", SCRIPT, here, str(tmp_path / "backup")]
    for after in (5, 4, 99):
        done = subprocess.run([*command, str(after), str(result)], check=False, capture_output=True)
        assert done.returncode == (-signal.SIGKILL if after < 99 else 0), done.stderr.decode()
    with np.load(result) as file:
        for ours, name in zip(model.get_weights(), file.files, strict=True):
            np.testing.assert_array_equal(ours, file[name])


def test_a_finished_run_that_kept_its_checkpoint_has_nothing_to_do(tmp_path):
    arguments = {"x": PAIRS, "batch_size": 5, "epochs": 2, "verbose": 0}
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    model = language_model()
    history = model.fit(**arguments, callbacks=[backup])
    weights = model.get_weights()
    again = language_model()
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    assert again.fit(**arguments, callbacks=[backup]).history == history.history
    for ours, theirs in zip(again.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # With more epochs it goes on.
    longer = again.fit(
        **{**arguments, "epochs": 3}, callbacks=[callbacks.BackupAndRestore(tmp_path)]
    )
    assert len(longer.history["loss"]) == 3


def test_logs_go_on_in_their_file(tmp_path):
    def run(path, stop=None):
        model = language_model()
        backup = callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)
        watching = [callbacks.CSVLogger(path), backup, *([Stop(stop)] if stop else [])]
        model.fit(PAIRS, batch_size=5, epochs=4, verbose=0, callbacks=watching)

    run(tmp_path / "straight.csv")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped.csv", stop=5)
    run(tmp_path / "stopped.csv")
    assert (tmp_path / "stopped.csv").read_text() == (tmp_path / "straight.csv").read_text()


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    def stopped(**arguments):
        backup = callbacks.BackupAndRestore(tmp_path, save_freq=1, double_checkpoint=True)
        with pytest.raises(KeyboardInterrupt):
            language_model().fit(
                PAIRS, batch_size=5, epochs=2, verbose=0, callbacks=[backup, Stop(3)], **arguments
            )

    def resumed(model=None, **arguments):
        model = model or language_model()
        before = model.get_weights()
        arguments = {"x": PAIRS, "batch_size": 5, "epochs": 2, "verbose": 0, **arguments}
        backup = callbacks.BackupAndRestore(tmp_path, save_freq=1)
        try:
            model.fit(**arguments, callbacks=[backup])
        except Exception:
            for ours, theirs in zip(model.get_weights(), before, strict=True):
                np.testing.assert_array_equal(ours, theirs)
            raise

    stopped()
    with pytest.raises(ValueError, match="`batch_size` was 5; here it is 2\nhint"):
        resumed(batch_size=2)
    with pytest.raises(ValueError, match="of another run, in which `examples` was 10"):
        resumed(x={key: column[:5] for key, column in PAIRS.items()})
    other = tiny_model(hidden_dim=8)
    with pytest.raises(ValueError, match=r"of another model: `shared.weight` has the shape"):
        resumed(other)
    sgd = language_model(optimizer=optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="unknown to this optimizer"):
        resumed(sgd)
    newest = tmp_path / "checkpoint.npz"
    newest.write_bytes(newest.read_bytes()[:-100])
    earlier = tmp_path / "checkpoint.earlier.npz"
    kept = earlier.read_bytes()
    earlier.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint, or a damaged one"):
        resumed()
    earlier.write_bytes(kept)
    resumed()


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    from bart_fast.training import checkpoint as files

    written = files.np.savez

    def full(stream, **arrays):
        if full.left == 0:
            stream.write(b"PK")
            raise OSError(28, "No space left on device")
        full.left -= 1
        written(stream, **arrays)

    full.left = 3
    monkeypatch.setattr(files.np, "savez", full)
    arguments = {"x": PAIRS, "batch_size": 3, "epochs": 2, "verbose": 0}
    backup = callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)
    with pytest.raises(OSError, match="No space left"):
        language_model().fit(**arguments, callbacks=[backup])
    assert [path.name for path in (tmp_path / "backup").iterdir()] == ["checkpoint.npz"]
    monkeypatch.setattr(files.np, "savez", written)
    straight, model = language_model(), language_model()
    straight.fit(**arguments)
    model.fit(**arguments, callbacks=[callbacks.BackupAndRestore(tmp_path / "backup")])
    for ours, theirs in zip(model.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_directory_that_cannot_be_written_is_found_before_the_first_step(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("taken")
    model = language_model()
    before = model.get_weights()

    def refused(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    for where, error in ((tmp_path / "file", FileExistsError), (tmp_path, PermissionError)):
        if error is PermissionError:  # Tests may run as root, whom no mode keeps out.
            monkeypatch.setattr("tempfile.TemporaryFile", refused)
        backup = callbacks.BackupAndRestore(where)
        with pytest.raises(error, match="`backup_dir` cannot be written"):
            model.fit(PAIRS, batch_size=3, verbose=0, callbacks=[backup])
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("failure", [MemoryError("no room"), "a NaN"])
def test_a_step_that_fails_leaves_the_last_checkpoint(failure, tmp_path, monkeypatch):
    arguments = {"x": PAIRS, "batch_size": 3, "epochs": 2, "verbose": 0}
    model, make_step = language_model(), type(language_model())._train_batch

    def failing(self, batch):
        failing.left -= 1
        if failing.left:
            return make_step(self, batch)
        if failure == "a NaN":
            return "the loss is nan"
        raise failure

    failing.left = 4
    monkeypatch.setattr(type(model), "_train_batch", failing)
    expected = NonFiniteLossError if failure == "a NaN" else MemoryError
    with pytest.raises(expected):
        model.fit(**arguments, callbacks=[callbacks.BackupAndRestore(tmp_path, save_freq=1)])
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.npz").is_file()
    assert model.generate("a fox") is not None
    straight = language_model()
    straight.fit(**arguments)
    for again in (model, language_model()):
        backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        again.fit(**arguments, callbacks=[backup])
        for ours, theirs in zip(again.get_weights(), straight.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backup_dir": ""}, "`backup_dir` must name"),
        ({"backup_dir": 3}, "`backup_dir` must"),
        ({"backup_dir": "x", "save_freq": 0}, "`save_freq` must"),
        ({"backup_dir": "x", "save_freq": "batch"}, "`save_freq` must"),
        ({"backup_dir": "x", "double_checkpoint": 1}, "`double_checkpoint` must"),
        ({"backup_dir": "x", "delete_checkpoint": "no"}, "`delete_checkpoint` must"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        callbacks.BackupAndRestore(**arguments)
