"""Presets on the Hugging Face hub. The hub's own package downloads, resumes and caches them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

# All that is read beside the weights, in either format.
_TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "tokenizer.json",
    "added_tokens.json",
    "preprocessor.json",
    "task.json",
    "assets/tokenizer/vocabulary.json",
    "assets/tokenizer/merges.txt",
)
# Ways to hold the weights, best first. Many repositories have several for one model.
_KERAS_WEIGHTS = (
    ("model.weights.h5", "task.weights.h5"),
    ("model.weights.json", "model_*.weights.h5", "task.weights.h5"),
)
_TRANSFORMERS_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ("model.pt",),
)

# Sentencepiece's own files.
SENTENCEPIECE = ("sentencepiece*.model", "spiece.model", "*.spm")

_PART = r"[A-Za-z0-9_][\w.-]*"
# A part of a revision begins with a letter or digit, so none of them is `..`.
_HANDLE = re.compile(rf"({_PART}/{_PART})(?:@(\w[\w.-]*(?:/\w[\w.-]*)*))?")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, and a branch, tag or commit of it."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, handle: str) -> Repository | None:
        """From `user/repository` or `user/repository@revision`; `None` for anything else."""
        found = _HANDLE.fullmatch(handle)
        return None if found is None else cls(*found.groups())

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


def download(repository: Repository, *, weights: bool) -> Path:
    """The snapshot of a repository in the hub's cache, with the files that a preset needs.

    Where the hub cannot be reached (`HF_HUB_OFFLINE` counts as that) the cache has to do.

    Args:
        weights: bool. Whether the weights are among what is needed.

    Raises:
        ValueError: the hub has no such repository or revision, or it holds no model.
        ConnectionError: the hub cannot be reached, and the cache lacks files.
        ImportError: `huggingface_hub` is not installed.
    """
    try:
        from huggingface_hub import HfApi, errors, snapshot_download
    except ImportError as error:
        raise ImportError(
            f"`preset`: {repository} needs the package `huggingface_hub`.\n"
            "hint: pip install huggingface_hub"
        ) from error
    try:
        found = HfApi().model_info(repository.name, revision=repository.revision)
        names = [sibling.rfilename for sibling in found.siblings or ()]
        needed = _needed(names, weights)
        folder = snapshot_download(
            repository.name, revision=repository.revision, allow_patterns=needed
        )
    except errors.HFValidationError as error:
        raise ValueError(f"`preset`: {repository} is no name of a repository: {error}") from error
    # Which class a lost connection has depends on the package's version.
    except Exception as error:
        return _cached(repository, weights, error)
    if not {"config.json", "tokenizer.json"} & set(needed):
        raise ValueError(
            f"`preset`: {repository} holds neither `config.json` nor `tokenizer.json`, so it is no "
            f"model. It has: {', '.join(sorted(names)[:10]) or 'nothing'}."
        )
    return Path(folder)


def _cached(repository: Repository, weights: bool, reason: Exception) -> Path:
    """What the cache has of a repository that could not be asked for."""
    from huggingface_hub import errors, snapshot_download

    if isinstance(reason, errors.RevisionNotFoundError):
        raise ValueError(
            f"`preset`: the Hugging Face hub has no revision {repository.revision!r} of "
            f"{repository.name!r}."
        ) from reason
    try:
        # Without the small files of a repository the rest could be taken for the whole.
        folder = Path(
            snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=list(_TEXT_FILES),
                local_files_only=True,
            )
        )
    except OSError:
        raise _unreachable(repository, reason) from reason
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if "config.json" not in names or (weights and not _weight_files(names)):
        raise _unreachable(repository, reason) from reason
    return folder


def _unreachable(repository: Repository, reason: Exception) -> Exception:
    from huggingface_hub import errors

    if isinstance(reason, errors.RepositoryNotFoundError):
        return ValueError(
            f"`preset`: the Hugging Face hub has no public repository {repository.name!r}; a "
            "private or gated one needs `hf auth login`."
        )
    return ConnectionError(
        f"`preset`: {repository} could not be fetched from the Hugging Face hub, and its cache "
        f"does not hold all of it: {type(reason).__name__}: {reason}\n"
        "hint: connect once (and unset `HF_HUB_OFFLINE`), or pass a local directory."
    )


def _needed(names: list[str], weights: bool) -> list[str]:
    """The files of a repository that a preset consists of."""
    text = [name for name in _TEXT_FILES if name in names]
    if not {"tokenizer.json", "vocab.json"} & set(names):
        # Not read, but named by the error that says what is missing.
        text += [n for n in names if any(fnmatchcase(n, spm) for spm in SENTENCEPIECE)]
    return text + (_weight_files(names) if weights else [])


def _weight_files(names: list[str]) -> list[str]:
    """The files of the best way in which the weights are there; none where they are not."""
    # Keras writes this file into every preset, transformers never.
    is_keras = "metadata.json" in names
    ways = (_KERAS_WEIGHTS, _TRANSFORMERS_WEIGHTS)
    for first, *others in sum(ways if is_keras else reversed(ways), ()):
        if first in names:
            return [first, *(n for n in names if any(fnmatchcase(n, other) for other in others))]
    return []
