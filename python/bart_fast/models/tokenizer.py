"""The base class of tokenizers: finding and saving."""

import os
from collections.abc import Mapping
from typing import Any

from bart_fast._validation import check_config, check_path
from bart_fast.models.bart_presets import presets_property


class Tokenizer:
    """Base class of what turns text into token ids and back.

    Use `BartTokenizer`, or load that of any preset with `Tokenizer.from_preset()`, which returns
    the right class. Tokenizers can be copied and pickled.
    """

    presets = presets_property

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer, without vocabulary and merges, from what `get_config()` returned."""
        return cls(**check_config("config", config))

    @classmethod
    def from_preset(cls, preset: str | os.PathLike, **kwargs: Any) -> "Tokenizer":
        """The tokenizer of a preset; of a hub, weights are not fetched.

        Args:
            preset: a name in `BartTokenizer.presets`, a handle such as `"hf://user/model"` or
                `"kaggle://user/bart/keras/name"`, or the path of a directory written by keras-hub,
                Hugging Face or us.
            **kwargs: constructor arguments that override those of the preset.

        Raises:
            ValueError: the preset is unknown, or its files do not fit together.
            FileNotFoundError: a file of the preset is missing.
            ConnectionError: the preset could not be fetched.
        """
        from bart_fast.models.loading import load_tokenizer
        from bart_fast.presets import load_preset

        return load_tokenizer(cls, load_preset(preset, weights=False), **kwargs)

    def save_to_preset(
        self, preset_dir: str | os.PathLike, max_shard_size: float | None = 10
    ) -> None:
        """Writes configuration, vocabulary and merges into a preset directory.

        Args:
            preset_dir: the directory.
            max_shard_size: for the signature of models; there are no weights to divide.
        """
        from bart_fast.presets import save_keras_preset

        self._checked_core()
        check_path("preset_dir", preset_dir)
        save_keras_preset(preset_dir, tokenizer=self)

    def export_to_transformers(self, path: str | os.PathLike) -> None:
        """Writes the files of Hugging Face's tokenizer: `vocab.json`, `merges.txt` and
        `tokenizer_config.json`.

        Args:
            path: the directory. A model that is there stays.
        """
        from bart_fast.presets import export_transformers

        self._checked_core()
        check_path("path", path)
        export_transformers(path, tokenizer=self)
