"""What all models around a backbone share: parts, finding, saving and copying."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from bart_fast._validation import (
    argument_error,
    check_config,
    check_flag,
    check_function,
    check_int,
    check_path,
    check_text,
)
from bart_fast.models.bart_backbone import BartBackbone
from bart_fast.models.bart_presets import presets_property
from bart_fast.models.bart_tokenizer import BartTokenizer


class Task:
    """Base class of models: a backbone, a preprocessor or none, and what they are used for.

    Models can be copied (`copy.deepcopy`) and pickled: weights, preprocessor, the compiled sampler
    and the optimizer with its state go along.

    Args:
        backbone: a `BartBackbone`.
        preprocessor: a `BartSeq2SeqLMPreprocessor`, or `None` to work with token arrays.
        compile: bool. Whether to compile with default arguments. Defaults to `True`.
        name: str. Shown by `summary()`.
    """

    presets = presets_property
    # The class of its preprocessor.
    _preprocessor_name = "BartSeq2SeqLMPreprocessor"

    def __init__(
        self,
        backbone: BartBackbone,
        preprocessor: Any = None,
        compile: bool = True,
        *,
        name: str = "task",
    ):
        if not isinstance(backbone, BartBackbone):
            raise argument_error(
                "backbone", "must be a `BartBackbone`", backbone, "`BartBackbone.from_preset(...)`"
            )
        self._backbone = backbone
        self.preprocessor = preprocessor
        self.name = check_text("name", name)
        if check_flag("compile", compile):
            self.compile()

    @property
    def backbone(self) -> BartBackbone:
        """The network without its head."""
        return self._backbone

    @property
    def preprocessor(self) -> Any:
        """What turns strings into token arrays and back; `None` to work with arrays."""
        return self._preprocessor

    @preprocessor.setter
    def preprocessor(self, value: Any) -> None:
        is_tokenizer = isinstance(value, BartTokenizer)
        wanted = self._preprocessor_name
        if value is not None and (is_tokenizer or not callable(value)):
            raise argument_error(
                "preprocessor",
                f"must be a `{wanted}` or `None`",
                value,
                f"`{wanted}(tokenizer)` makes one" if is_tokenizer else None,
            )
        self._preprocessor = value

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike,
        load_weights: bool = True,
        dtype: Any = None,
        device: Any = None,
        **kwargs: Any,
    ) -> "Task":
        """A model from a preset.

        Args:
            preset: a name in `presets` (`"bart_tidy_en"` comes with the package), a handle such as
                `"hf://user/model"` or `"kaggle://user/bart/keras/name"`, or the path of a directory
                written by keras-hub, Hugging Face or us. `docs/formats.md` has all that it may be.
            load_weights: bool. `False` draws them anew, as `set_random_seed` says, and fetches
                none. Defaults to `True`.
            dtype: the precision to compute in: "float32", "float16", "bfloat16", "mixed_float16",
                "mixed_bfloat16" or "int8", or a dtype policy of Keras. Defaults to `None`: float32,
                but a preset that was saved in int8 stays in it. `docs/numerics.md` says what each
                means.
            device: str, or a `torch.device`. "cpu", or a card such as "cuda", "cuda:1" or "metal"
                (`docs/devices.md`). Defaults to `None`: what the environment variable
                `BART_FAST_DEVICE` says, else a card that is there and free, else the CPU.
            **kwargs: constructor arguments, such as `preprocessor=None`; others, such as
                `dropout`, override those of the backbone.

        Returns:
            A compiled model. Its sampler is the one that the preset's task.json names, else top_k.

        Raises:
            ValueError: the preset is unknown, its files do not fit together, or an argument is not
                allowed.
            FileNotFoundError: a file of the preset is missing.
            ConnectionError: the preset could not be fetched.
        """
        from bart_fast.models.loading import load_task

        check_flag("load_weights", load_weights)
        return load_task(cls, preset, load_weights, dtype, device, **kwargs)

    def save_to_preset(
        self, preset_dir: str | os.PathLike, max_shard_size: float | None = 10
    ) -> None:
        """Writes a preset directory that keras-hub reads too: model, tokenizer and weights.

        The directory is written beside and then renamed: after a failure the old one is intact.

        Args:
            preset_dir: the directory.
            max_shard_size: int or float, in GB. Weights larger than that go into several files.
                `None`: always one. Defaults to 10.
        """
        from bart_fast.models.loading import save_task

        save_task(self, check_path("preset_dir", preset_dir), max_shard_size)

    def export_to_transformers(self, path: str | os.PathLike) -> None:
        """Writes a directory that Hugging Face's transformers reads: config, weights, tokenizer.

        Args:
            path: the directory.
        """
        from bart_fast.models.loading import export_task

        export_task(self, check_path("path", path))

    def quantize(
        self,
        mode: str | None = None,
        config: Any = None,
        filters: Any = None,
        *,
        type_check: bool = True,
    ) -> None:
        """Changes the weights to int8, in place: see `BartBackbone.quantize()`.

        Args:
            mode: str. `"int8"`.
            config: `None`. Other quantizers than Keras' own for int8 are not implemented.
            filters: `None`. All layers are quantised that can be.
            type_check: bool. For Keras' signature; changes nothing.

        Raises:
            ValueError: another mode, a `config` or `filters` that is not `None`, or the model is
                quantised already.

        Reference:
            `keras.quantizers.AbsMaxQuantizer` and `keras.Model.quantize`, Keras 3.15.
        """
        self.backbone.quantize(mode, config, filters, type_check=type_check)

    @property
    def device(self) -> str:
        """str. Where the model computes: see `BartBackbone.device`."""
        return self.backbone.device

    def to(self, device: Any) -> "Task":
        """Moves the model to a device: see `BartBackbone.to()`. Training goes on there, with the
        optimizer's state; a classifier's head stays on the CPU.

        Args:
            device: str, or a `torch.device`: "cpu", or a card such as "cuda", "cuda:1" or "metal".

        Returns:
            The same model.

        Raises:
            ValueError: no such device, or the card cannot be used. The model stays where it was.
            MemoryError: the device has no room for it; likewise.
        """
        before = self.backbone._model
        self.backbone.to(device)
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None:
            optimizer.follow(before, self.backbone._model)
        return self

    def save_weights(self, filepath: str | os.PathLike, overwrite: bool = True) -> None:
        """Writes the weights alone, whole or not at all. The optimizer's state is not in them.

        Args:
            filepath: `"....weights.h5"`, as keras-hub's models write and read it, or
                `"....safetensors"`, with Hugging Face's names.
            overwrite: bool. `False` refuses a file that exists. Defaults to `True`.

        Raises:
            ValueError: another ending; or Keras' layout cannot hold the model.
            FileExistsError: the file exists and `overwrite` is `False`.
        """
        from bart_fast.presets.weights_file import save

        save(
            check_path("filepath", filepath),
            self.backbone._model,
            backbone_name=self.backbone.name,
            task_name=self.name,
            core_head=self._core_head,
            overwrite=check_flag("overwrite", overwrite),
        )

    def load_weights(self, filepath: str | os.PathLike) -> None:
        """Takes the weights from a file that `save_weights()` of a backbone or a model wrote, here
        or in keras-hub. If the file does not fit, the weights stay as they were. The optimizer is
        left alone, also where the file has the state of one.

        Args:
            filepath: `"....weights.h5"` or `"....safetensors"`.

        Raises:
            ValueError: another ending, a damaged file, or weights that are missing, left over or
                misshapen; all of them are listed.
            FileNotFoundError: there is no such file.
        """
        from bart_fast.presets.weights_file import load

        load(check_path("filepath", filepath), self.backbone._model, self._core_head)

    @property
    def _core_head(self) -> Any:
        """The core's head, of a model whose head has weights of its own."""
        return None

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
        print_fn = print if print_fn is None else check_function("print_fn", print_fn)
        print_fn(summary_text(self, line_length or 108))

    def get_config(self) -> dict[str, Any]:
        """Configs of backbone and preprocessor, as plain values; weights and vocabulary are not
        in it."""
        return {
            "backbone": _serialised(self.backbone),
            "preprocessor": _serialised(self.preprocessor),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Task":
        """A model, with random weights, from what `get_config()` returned.

        `backbone` and `preprocessor` may also be objects. A preprocessor made from a config has no
        vocabulary yet: `model.preprocessor.tokenizer.load_assets(...)` gives it one.
        """
        from bart_fast import models

        parts = check_config("config", config)
        for name, part in (
            ("backbone", BartBackbone),
            ("preprocessor", getattr(models, cls._preprocessor_name)),
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
