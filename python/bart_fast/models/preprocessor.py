"""What preprocessors of all tasks share: finding and saving."""

import os
from typing import Any

from bart_fast._validation import check_path
from bart_fast.models.bart_presets import presets_property


class Preprocessor:
    """Base class of what turns texts into the token arrays of a model."""

    presets = presets_property

    @classmethod
    def from_preset(cls, preset: str | os.PathLike, **kwargs: Any) -> "Preprocessor":
        """The preprocessor of a preset, or one around its tokenizer where it has none; of a hub,
        weights are not fetched. Called on a base class it gives the right class.

        Args:
            preset: a name in `presets`, a handle such as `"hf://user/model"` or
                `"kaggle://user/bart/keras/name"`, or the path of a directory written by keras-hub,
                Hugging Face or us.
            **kwargs: constructor arguments that override those of the preset.

        Raises:
            ValueError: the preset is unknown, or its files do not fit together.
            FileNotFoundError: a file of the preset is missing.
            ConnectionError: the preset could not be fetched.
        """
        from bart_fast.models.loading import load_preprocessor
        from bart_fast.presets import load_preset

        return load_preprocessor(cls, load_preset(preset, weights=False), **kwargs)

    def save_to_preset(
        self, preset_dir: str | os.PathLike, max_shard_size: float | None = 10
    ) -> None:
        """Writes configuration and tokenizer into a preset directory.

        Args:
            preset_dir: the directory.
            max_shard_size: for the signature of models; there are no weights to divide.
        """
        from bart_fast.presets import save_keras_preset

        self.tokenizer._checked_core()
        check_path("preset_dir", preset_dir)
        save_keras_preset(preset_dir, preprocessor=self)
