"""Saves that fail, are interrupted or killed: the old preset or the new one, never half of one."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from preset_helpers import (
    CONFIG,
    ArrayModel,
    loaded,
    task,
    tokenizer,
)

from bart_fast import presets
from bart_fast.presets import atomic


@pytest.fixture
def saved(tmp_path) -> Path:
    """A whole Keras preset."""
    presets.save_keras_preset(tmp_path / "saved", task=task(ArrayModel(CONFIG, seed=1)))
    return tmp_path / "saved"


class FailingModel(ArrayModel):
    """Fails in the middle of being written."""

    def get_parameter(self, name):
        if name.startswith("decoder.layers.1"):
            raise KeyboardInterrupt
        return super().get_parameter(name)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_an_interrupted_save_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        presets.save_keras_preset(tmp_path / "new", task=task(FailingModel(CONFIG)))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_the_old_preset(saved):
    before = contents(saved)
    with pytest.raises(KeyboardInterrupt):
        presets.save_keras_preset(saved, task=task(FailingModel(CONFIG | {"dropout": 0.3})))
    assert contents(saved) == before


def test_every_rename_that_could_fail(saved, monkeypatch):
    """The n-th rename fails, for each n: the directory is as before, until none fails."""
    (saved / "notes.txt").write_text("mine")
    presets.save_keras_preset(saved, backbone=ArrayModel(CONFIG), max_shard_size=4000 / 1024**3)
    before = contents(saved)
    other = ArrayModel(CONFIG | {"vocab_size": 5, "dropout": 0.3}, seed=9)
    replace, calls, fail_at = Path.replace, 0, 0

    def failing(self, target):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    for fail_at in range(1, 100):
        calls = 0
        try:
            presets.save_keras_preset(saved, task=task(other, vocabulary={"a": 0}))
            break
        except OSError:
            assert contents(saved) == before, fail_at
    assert fail_at > 8
    assert (saved / "notes.txt").read_text() == "mine"
    assert not list(saved.glob("model_*"))
    np.testing.assert_array_equal(
        loaded(saved).values["shared.weight"], other.values["shared.weight"]
    )


def test_other_files_and_parts_stay(saved):
    (saved / "README.md").write_text("card")
    (saved / "folder").mkdir()
    (saved / "folder" / "notes.txt").write_text("mine")
    before = contents(saved)
    presets.save_keras_preset(saved, tokenizer=tokenizer(merges=["a b"]))
    after = contents(saved)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"assets/tokenizer/merges.txt"}
    assert after.keys() == before.keys()


def test_saving_into_the_working_directory_and_through_a_link(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(saved)
    model = ArrayModel(CONFIG, seed=11)
    presets.save_keras_preset(".", backbone=model)
    (tmp_path / "link").symlink_to(saved)
    presets.save_keras_preset(tmp_path / "link", backbone=model)
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(
        loaded(".").values["shared.weight"], model.values["shared.weight"]
    )


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file; a preset needs a directory"):
        presets.save_keras_preset(tmp_path / "file", backbone=ArrayModel(CONFIG))
    assert (tmp_path / "file").read_text() == "x"


def test_new_directories_have_ordinary_rights(tmp_path):
    (tmp_path / "other").mkdir()
    presets.save_keras_preset(tmp_path / "new", backbone=ArrayModel(CONFIG))
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_two_file_systems_without_links(saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    model = ArrayModel(CONFIG, seed=12)
    presets.save_keras_preset(saved, backbone=model)
    np.testing.assert_array_equal(
        loaded(saved).values["shared.weight"], model.values["shared.weight"]
    )


def test_an_interrupted_save_is_named(saved):
    (saved / "config.json").unlink()
    (saved / "tokenizer.json").unlink()
    (saved / ".saving-0123").mkdir()
    with pytest.raises(FileNotFoundError, match=r"a save was interrupted here.*\.saving-0123"):
        presets.load_preset(saved)


def test_single_files_appear_whole(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic.staged_file(target) as path:
        path.write_text("ne")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"
    with atomic.staged_file(target) as path:
        path.write_text("new")
    assert target.read_text() == "new"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that nothing catches")
def test_a_killed_save_never_leaves_a_mixture(tmp_path):
    """Kill a process that saves two models in turn: one of them is there, or clearly none."""
    code = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[2])
        from preset_helpers import CONFIG, ArrayModel
        from bart_fast import presets
        models = [ArrayModel(CONFIG, seed=1), ArrayModel(CONFIG | {"vocab_size": 7}, seed=2)]
        print("ready", flush=True)
        while True:
            for model in models:
                presets.save_keras_preset(sys.argv[1], backbone=model)
    """)
    target = tmp_path / "saved"
    models = {11: ArrayModel(CONFIG, seed=1), 7: ArrayModel(CONFIG | {"vocab_size": 7}, seed=2)}
    whole = 0
    for attempt in range(8):
        arguments = [sys.executable, "-c", code, str(target), str(Path(__file__).parents[1])]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        process.stdout.readline()
        try:
            process.wait(timeout=0.2 + attempt * 0.037)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        try:
            model = loaded(target)
        except FileNotFoundError:
            continue
        whole += 1
        size = json.loads(model.config)["vocab_size"]
        for name, value in models[size].values.items():
            np.testing.assert_array_equal(model.values[name], value)
    assert whole > 0
