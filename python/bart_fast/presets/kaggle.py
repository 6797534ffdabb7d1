"""Presets on Kaggle. Kaggle's own package downloads, resumes and caches them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from . import classifier
from .files import read_json, shard_names
from .keras_weights import SHARDS_FILE, WEIGHTS_FILE

_log = logging.getLogger("bart_fast")

_CONFIG = "config.json"
_TEXT_FILES = (
    "tokenizer.json",
    "preprocessor.json",
    "task.json",
    "assets/tokenizer/vocabulary.json",
    "assets/tokenizer/merges.txt",
)
_PART = r"[A-Za-z0-9_][\w.-]*"
_HANDLE = re.compile(rf"{_PART}/{_PART}/keras/{_PART}(?:/[0-9]+)?")


def download(handle: str, *, weights: bool) -> Path:
    """The directory of a Keras preset in Kaggle's cache, with the files that it needs.

    Each file is asked for by itself, as keras-hub does, so that its cache serves both. Which of
    them a preset has is only known by asking: all but `config.json` may be absent.

    Args:
        handle: str. `user/model/keras/name` or `user/model/keras/name/version`.
        weights: bool. Whether the weights are among what is needed.

    Raises:
        ValueError: the handle is malformed, or Kaggle has no such model.
        ConnectionError: Kaggle cannot be reached, and the cache lacks the model.
        ImportError: `kagglehub` is not installed.
    """
    if _HANDLE.fullmatch(handle) is None:
        raise ValueError(
            "`preset` on Kaggle must be 'kaggle://user/model/keras/name' or, of one version, "
            f"'kaggle://user/model/keras/name/3'. Received: 'kaggle://{handle}'."
        )
    config = _ask(handle, _CONFIG)
    if config is None:
        raise ValueError(
            f"`preset`: Kaggle has no public Keras preset 'kaggle://{handle}'; a private or gated "
            "one needs you to log in, see https://github.com/Kaggle/kagglehub."
        )
    folder = config.parent
    # The other files are to be of the version that this one is of.
    if folder.name.isdigit() and not handle.endswith(f"/{folder.name}"):
        handle = f"{handle}/{folder.name}"
    unknown = [name for name in _TEXT_FILES if not _is_known(handle, name)]
    if unknown:
        _log.warning(
            "Kaggle cannot be asked whether 'kaggle://%s' has %s; it goes without",
            handle,
            ", ".join(f"`{name}`" for name in unknown),
        )
    if weights:
        _ask_for_weights(handle, folder)
    return folder


def _ask_for_weights(handle: str, folder: Path) -> None:
    if _has_head(folder):
        _ask(handle, classifier.WEIGHTS_FILE)
    # That there is no whole file cannot be seen in the cache, but that there are shards can.
    if not (folder / SHARDS_FILE).is_file() and _ask(handle, WEIGHTS_FILE) is not None:
        return
    index = _ask(handle, SHARDS_FILE)
    for name in shard_names(index) if index is not None else ():
        _ask(handle, name)


def _has_head(folder: Path) -> bool:
    """Whether the task has weights of its own: a classifier does."""
    task = folder / "task.json"
    return task.is_file() and read_json(task).get("class_name") == classifier.CLASS_NAME


def _is_known(handle: str, name: str) -> bool:
    """Whether it is known if the preset has the file, which is fetched if so."""
    try:
        _ask(handle, name)
    except ConnectionError:
        return False
    return True


def _ask(handle: str, name: str) -> Path | None:
    """A file of the preset in the cache, fetched where it is not there yet; `None` where Kaggle
    has no such file. ConnectionError where it cannot be asked."""
    try:
        import kagglehub
    except ImportError as error:
        raise ImportError(
            f"`preset`: 'kaggle://{handle}' needs the package `kagglehub` ({error}).\n"
            "hint: pip install kagglehub"
        ) from error
    try:
        return Path(kagglehub.model_download(handle, name))
    # The package has no common class for its failures.
    except Exception as error:
        if _is_absent(error):
            return None
        raise ConnectionError(
            f"`preset`: `{name}` of 'kaggle://{handle}' could not be fetched from Kaggle: "
            f"{type(error).__name__}: {error}\n"
            "hint: connect once (without a version in its name Kaggle is asked each time), or pass "
            "a local directory."
        ) from error


def _is_absent(error: Exception) -> bool:
    """Whether a failure means that there is no such file, or none for us."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in (403, 404) or "is not present in the model files" in str(error)
