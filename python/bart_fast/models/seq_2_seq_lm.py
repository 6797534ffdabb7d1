"""The base class of sequence-to-sequence language models: generate, predict, save, load."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bart_fast._validation import (
    argument_error,
    check_int,
    check_token_arrays,
)
from bart_fast.models.bart_backbone import BartBackbone, batches
from bart_fast.models.bart_presets import presets_property
from bart_fast.models.generation_mixin import GenerationMixin, is_token_arrays
from bart_fast.training.fit import TrainingMixin


class Seq2SeqLM(GenerationMixin, TrainingMixin):
    """Base class of models that read one text and write another.

    Wraps a backbone and a preprocessor, and adds `generate()`, `fit()` and saving. Use
    `BartSeq2SeqLM`, or load any preset with `Seq2SeqLM.from_preset()`, which returns the right
    class.

    Args:
        backbone: a `BartBackbone`.
        preprocessor: a `BartSeq2SeqLMPreprocessor`, or `None` to work with token arrays.
        compile: bool. Whether to compile with default arguments. Defaults to `True`.
        name: str. Shown by `summary()`.
    """

    presets = presets_property

    def __init__(
        self,
        backbone: BartBackbone,
        preprocessor: Any = None,
        compile: bool = True,
        *,
        name: str = "seq2_seq_lm",
    ):
        if not isinstance(backbone, BartBackbone):
            raise argument_error(
                "backbone", "must be a `BartBackbone`", backbone, "`BartBackbone.from_preset(...)`"
            )
        self._backbone = backbone
        self.preprocessor = preprocessor
        self.name = name
        self.sampler = None
        if compile:
            self.compile()

    @property
    def backbone(self) -> BartBackbone:
        """The network without its language-model head."""
        return self._backbone

    @property
    def preprocessor(self) -> Any:
        """What turns strings into token arrays and back; `None` to work with arrays."""
        return self._preprocessor

    @preprocessor.setter
    def preprocessor(self, value: Any) -> None:
        if value is not None and not callable(value):
            raise argument_error(
                "preprocessor", "must be a `BartSeq2SeqLMPreprocessor` or `None`", value
            )
        self._preprocessor = value

    def __call__(self, x: Mapping[str, Any]) -> np.ndarray:
        """Logits of the next token at every decoder position.

        Args:
            x: dict of the four token arrays, [batch, length] each; see `BartBackbone`.

        Returns:
            float32 array [batch, decoder length, vocabulary_size].

        Raises:
            ValueError: an array is missing or misshapen, or an id is out of range.
        """
        backbone = self.backbone
        arrays = check_token_arrays(x, backbone.vocabulary_size, backbone.max_sequence_length)
        return self._logits(arrays)

    def _logits(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        hidden = self.backbone._hidden_states(arrays)[1]
        return self.backbone.token_embedding(hidden, reverse=True)

    def predict(self, x: Any, batch_size: int = 32, verbose: Any = "auto") -> np.ndarray:
        """Logits of the next token at every decoder position, computed in batches.

        Args:
            x: dict of the four token arrays; or, with a preprocessor, what it takes: a dict of
                strings `encoder_text` and `decoder_text`.
            batch_size: int. Rows computed at a time. Defaults to 32.
            verbose: accepted for Keras' signature, changes nothing.

        Returns:
            float32 array [samples, decoder length, vocabulary_size].
        """
        if self.preprocessor is not None and not is_token_arrays(x):
            x = self.preprocessor(x)
            x = x[0] if isinstance(x, tuple) else x
        backbone = self.backbone
        arrays = check_token_arrays(x, backbone.vocabulary_size, backbone.max_sequence_length)
        return np.concatenate([self._logits(part) for part in batches(arrays, batch_size)])

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs: Any) -> "Seq2SeqLM":
        """A model from a preset.

        Args:
            preset: a name in `presets` (`"bart_tidy_en"` comes with the package), a handle such as
                `"hf://user/model"`, or the path of a directory written by keras-hub, Hugging Face
                or us.
            load_weights: bool. `False` leaves the weights random. Defaults to `True`.
            **kwargs: constructor arguments, such as `preprocessor=None`; others, such as
                `dropout`, override those of the backbone.

        Returns:
            A compiled model. Its sampler is the one that the preset's task.json names, else top_k.

        Raises:
            ValueError: the preset is unknown, or its files do not fit together.
            FileNotFoundError: a file of the preset is missing.
        """
        from bart_fast.models.loading import load_task

        return load_task(cls, preset, load_weights, **kwargs)

    def save_to_preset(self, preset_dir: str, max_shard_size: float | None = 10) -> None:
        """Writes a preset directory that keras-hub reads too: model, tokenizer and weights.

        The directory is written beside and then renamed: after a failure the old one is intact.

        Args:
            preset_dir: the directory.
            max_shard_size: int or float, in GB. Weights larger than that go into several files.
                `None`: always one. Defaults to 10.
        """
        from bart_fast.models.loading import save_task

        save_task(self, preset_dir, max_shard_size)

    def export_to_transformers(self, path: str) -> None:
        """Writes a directory that Hugging Face's transformers reads: config, weights, tokenizer.

        Args:
            path: the directory.
        """
        from bart_fast.models.loading import export_task

        export_task(self, path)

    def count_params(self) -> int:
        """The number of weights, shared ones counted once."""
        return self.backbone.count_params()

    def summary(
        self, line_length: int | None = None, print_fn: Callable[[str], Any] | None = None
    ) -> None:
        """Prints the tokenizer, the layers and the numbers of weights.

        Args:
            line_length: int. Characters a line. Defaults to 108.
            print_fn: called with the text instead of `print`.
        """
        from bart_fast.models.model_summary import summary_text

        if line_length is not None:
            check_int("line_length", line_length, 40)
        (print_fn or print)(summary_text(self, line_length or 108))

    def get_config(self) -> dict[str, Any]:
        """Configs of backbone and preprocessor, as plain values; weights and vocabulary are not
        in it."""
        return {
            "backbone": _serialised(self.backbone),
            "preprocessor": _serialised(self.preprocessor),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Seq2SeqLM":
        """A model, with random weights, from what `get_config()` returned.

        `backbone` and `preprocessor` may also be objects. A preprocessor made from a config has no
        vocabulary yet: `model.preprocessor.tokenizer.load_assets(...)` gives it one.
        """
        from bart_fast.models.bart_seq_2_seq_lm_preprocessor import BartSeq2SeqLMPreprocessor

        parts = dict(config)
        for name, part in (
            ("backbone", BartBackbone),
            ("preprocessor", BartSeq2SeqLMPreprocessor),
        ):
            if isinstance(parts.get(name), Mapping):
                parts[name] = part.from_config(parts[name]["config"])
        return cls(**parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name} parameters={self.count_params():,}>"


def _serialised(part: Any) -> dict[str, Any] | None:
    if part is None:
        return None
    return {"class_name": type(part).__name__, "config": part.get_config()}
