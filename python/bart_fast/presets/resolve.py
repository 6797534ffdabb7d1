"""From what a user calls a preset to the directory it is in."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_PACKAGE, _HUGGING_FACE, _KAGGLE = "package://", "hf://", "kaggle://"


def built_in_presets() -> dict[str, dict]:
    """The presets with a name: `metadata` and `sources` (where it may come from) of each."""
    from bart_fast.models.bart_presets import backbone_presets

    return backbone_presets


def resolve(preset: str | os.PathLike, *, weights: bool = True) -> Path:
    """The directory of a preset; one of a hub is downloaded, or found in the hub's cache.

    In this order: a directory that exists, a built-in name, `hf://user/repo`, `kaggle://...`,
    `user/repo`.

    Args:
        preset: str or path.
        weights: bool. `False` leaves the weights of a hub where they are; a tokenizer needs none.

    Raises:
        TypeError: `preset` is neither text nor a path.
        ValueError: it is none of these, or the hub does not have it.
        NotADirectoryError: it is a file.
        ConnectionError: a hub cannot be reached and its cache does not have the preset.
        ImportError: the hub's package is not installed.
    """
    if not isinstance(preset, (str, os.PathLike)):
        raise TypeError(
            f"`preset` must be a name or a directory. Received: {type(preset).__name__}."
        )
    name = os.fspath(preset)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if not name or "\0" in name:
        raise ValueError(_unknown(name))
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists():
        raise NotADirectoryError(f"`preset` is a file, not a preset directory: {name}.")
    if isinstance(preset, os.PathLike):
        raise FileNotFoundError(f"`preset`: there is no directory {name}.")
    if name in built_in_presets():
        return _first_that_works(name, built_in_presets()[name]["sources"], weights)
    return _fetch(name, weights)


def _first_that_works(name: str, sources: list[str], weights: bool) -> Path:
    """The directory of a built-in preset from the first of its sources that can be had."""
    failures: list[tuple[str, Exception]] = []
    for source in sources:
        try:
            directory = _fetch(source, weights)
        except (ImportError, OSError, ValueError) as error:
            if len(sources) == 1:
                raise
            failures.append((source, error))
            continue
        if failures:
            _say_once(name, source, "; ".join(f"{each}: {_why(error)}" for each, error in failures))
        else:
            _log().info("`%s` comes from %s", name, source)
        return directory
    listed = "".join(f"\n  {source}: {_why(error)}" for source, error in failures)
    hints = dict.fromkeys(hint for _, error in failures if (hint := _hint(error)))
    raise ConnectionError(
        f"`preset` {name!r} could not be fetched from any of its sources:{listed}\n"
        f"hint: {'; or '.join(hints) or 'connect once, or pass a local directory'}"
    )


def _log():
    import logging

    return logging.getLogger("bart_fast")


@functools.cache
def _say_once(name: str, source: str, failures: str) -> None:
    # Logging writes warnings to standard error where the program has not said otherwise.
    _log().warning("`%s` comes from %s (not from %s)", name, source, failures)


def _why(error: Exception) -> str:
    return str(error).partition("\nhint: ")[0].removeprefix("`preset`: ")


def _hint(error: Exception) -> str:
    return str(error).partition("\nhint: ")[2].rstrip(".")


def _fetch(handle: str, weights: bool) -> Path:
    """The directory of a handle that names its place."""
    if handle.startswith(_PACKAGE):
        return Path(__file__).parent / handle.removeprefix(_PACKAGE)
    from . import hugging_face, kaggle  # Only here: a directory, the common case, needs neither.

    if handle.startswith(_KAGGLE):
        return kaggle.download(handle.removeprefix(_KAGGLE), weights=weights)
    repository = hugging_face.Repository.parse(handle.removeprefix(_HUGGING_FACE))
    if repository is None:
        raise ValueError(_unknown(handle))
    return hugging_face.download(repository, weights=weights)


def _unknown(preset: str) -> str:
    import difflib

    names = list(built_in_presets())
    close = difflib.get_close_matches(preset, names, n=2)
    message = (
        "`preset` must be one of:\n"
        f"1) a built-in name: {', '.join(names)}\n"
        "2) a Kaggle model: 'kaggle://user/bart/keras/name' or 'kaggle://user/bart/keras/name/3'\n"
        "3) a Hugging Face repository: 'hf://user/repository' or 'user/repository', both also "
        "with a revision, as in 'user/repository@main'\n"
        "4) a directory with a Keras preset or a Hugging Face model: './my_preset'\n"
        f"Received: {preset!r}"
    )
    if close:
        message += f"\nhint: did you mean {' or '.join(repr(name) for name in close)}?"
    return message
