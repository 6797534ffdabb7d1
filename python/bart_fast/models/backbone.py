"""The base class of backbones: finding, saving and copying, whatever the architecture."""

import os
from collections.abc import Mapping
from typing import Any

from bart_fast import _core
from bart_fast._devices import check_device, moved
from bart_fast._dtypes import check_quantization_mode
from bart_fast._lora import Lora
from bart_fast._validation import argument_error, check_config, check_flag, check_path
from bart_fast.models.bart_presets import presets_property
from bart_fast.models.freezing import FreezingMixin
from bart_fast.models.lora import LoraMixin


class Backbone(FreezingMixin, LoraMixin):
    """Base class of the networks that models are made around.

    Use `BartBackbone`, or load any preset with `Backbone.from_preset()`, which returns the right
    class. Backbones can be copied (`copy.deepcopy`) and pickled, weights and all.
    """

    presets = presets_property

    _model: _core.Model
    _core_config: dict[str, Any]
    name: str

    def count_params(self) -> int:
        """The number of weights, shared ones counted once."""
        return self._model.count_parameters()

    @property
    def gradient_checkpointing(self) -> bool:
        """bool. Whether a training step keeps the input of each layer alone, and computes the rest
        of it again for the gradients: memory for the values of one layer instead of all, against
        a third more time. Defaults to `False`. The result is the same, but for roundings.

        Reference:
            Chen et al. 2016, arXiv:1604.06174; `gradient_checkpointing_enable` of transformers.
        """
        return self._model.recomputes()

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self._model.set_recomputes(check_flag("gradient_checkpointing", value))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Backbone":
        """A backbone, with random weights, from what `get_config()` returned."""
        return cls(**check_config("config", config))

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike,
        load_weights: bool = True,
        dtype: Any = None,
        device: Any = None,
        **kwargs: Any,
    ) -> "Backbone":
        """A backbone from a preset.

        Args:
            preset: a name in `BartBackbone.presets`, a handle such as `"hf://user/model"` or
                `"kaggle://user/bart/keras/name"`, or the path of a directory written by keras-hub,
                Hugging Face or us. `docs/formats.md` has all that it may be.
            load_weights: bool. `False` draws them anew, as `set_random_seed` says, and fetches
                none. Defaults to `True`.
            dtype: the precision to compute in: "float32", "float16", "bfloat16", "mixed_float16",
                "mixed_bfloat16" or "int8", or a dtype policy of Keras. Defaults to `None`: float32,
                but a preset that was saved in int8 stays in it. `docs/numerics.md` says what each
                means.
            device: str, or a `torch.device`. "cpu", or a card such as "cuda", "cuda:1" or "metal"
                (`docs/devices.md`). Defaults to `None`: what the environment variable
                `BART_FAST_DEVICE` says, else a card that is there and free, else the CPU.
            **kwargs: constructor arguments that override those of the preset.

        Raises:
            ValueError: the preset is unknown, its files do not fit together, or an argument is not
                allowed.
            FileNotFoundError: a file of the preset is missing.
            ConnectionError: the preset could not be fetched.
        """
        from bart_fast.models.loading import load_backbone
        from bart_fast.presets import load_preset

        read = load_preset(preset, weights=check_flag("load_weights", load_weights))
        return load_backbone(cls, read, load_weights, dtype, device, **kwargs)

    def save_to_preset(
        self, preset_dir: str | os.PathLike, max_shard_size: float | None = 10
    ) -> None:
        """Writes a preset directory that keras-hub reads too: config and weights.

        Args:
            preset_dir: the directory. Of files that exist there, those of a backbone are replaced.
            max_shard_size: int or float, in GB. Weights larger than that go into several files.
                `None`: always one. Defaults to 10.

        Raises:
            ValueError: the format cannot hold the model (encoder and decoder of unlike sizes).
        """
        from bart_fast.presets import save_keras_preset

        check_path("preset_dir", preset_dir)
        save_keras_preset(preset_dir, backbone=self, max_shard_size=max_shard_size)

    def export_to_transformers(self, path: str | os.PathLike) -> None:
        """Writes a directory that Hugging Face's transformers reads: config and weights.

        Args:
            path: the directory. A tokenizer that is there stays.
        """
        from bart_fast.presets import export_transformers

        check_path("path", path)
        export_transformers(path, backbone=self, generation=self._generation_config)

    def quantize(
        self,
        mode: str | None = None,
        config: Any = None,
        filters: Any = None,
        *,
        type_check: bool = True,
    ) -> None:
        """Changes the weights to int8, in place, as Keras does: all matrices, the token table among
        them, with a scale for each output. Products then take their inputs in int8 too.

        The backbone answers nearly the same from a quarter of the memory; it cannot be trained any
        more. There is no way back: load it anew.

        Args:
            mode: str. `"int8"`.
            config: `None`. Other quantizers than Keras' own for int8 are not implemented.
            filters: `None`. All layers are quantised that can be.
            type_check: bool. For Keras' signature; changes nothing.

        Raises:
            ValueError: another mode, a `config` or `filters` that is not `None`, or the backbone is
                quantised already.

        Reference:
            `keras.quantizers.AbsMaxQuantizer` and `keras.Model.quantize`, Keras 3.15.
        """
        for name, value in (("config", config), ("filters", filters)):
            if value is not None:
                raise argument_error(name, "must be `None`; others are not implemented", value)
        check_quantization_mode(mode)
        if self._model.dtype == "int8":
            raise argument_error("mode", "has been applied: the model is quantised already", mode)
        self._model = self._model.to_dtype("int8")

    @property
    def device(self) -> str:
        """str. Where the weights are and the model computes: `"cpu"`, or such as `"cuda:0"`."""
        return self._model.device

    def to(self, device: Any) -> "Backbone":
        """Moves the weights to a device, where the model computes from then on.

        Args:
            device: str, or a `torch.device`: "cpu", or a card such as "cuda", "cuda:1" or "metal".

        Returns:
            The same backbone.

        Raises:
            ValueError: no such device, or the card cannot be used. The model stays where it was.
            MemoryError: the device has no room for it; likewise.
        """
        self._model = moved(self._model, check_device(device))
        return self

    def save_weights(self, filepath: str | os.PathLike, overwrite: bool = True) -> None:
        """Writes the weights alone, whole or not at all.

        Args:
            filepath: `"....weights.h5"`, as keras-hub's backbones write and read it, or
                `"....safetensors"`, with Hugging Face's names.
            overwrite: bool. `False` refuses a file that exists. Defaults to `True`.

        Raises:
            ValueError: another ending; or Keras' layout cannot hold the model.
            FileExistsError: the file exists and `overwrite` is `False`.
        """
        from bart_fast.presets.weights_file import save

        check_path("filepath", filepath)
        check_flag("overwrite", overwrite)
        save(filepath, self._model, backbone_name=self.name, overwrite=overwrite)

    def load_weights(self, filepath: str | os.PathLike) -> None:
        """Takes the weights from a file that `save_weights()` of a backbone or a model wrote, here
        or in keras-hub. If the file does not fit, the weights stay as they were.

        Args:
            filepath: `"....weights.h5"` or `"....safetensors"`.

        Raises:
            ValueError: another ending, a damaged file, or weights that are missing, left over or
                misshapen; all of them are listed.
            FileNotFoundError: there is no such file.
        """
        from bart_fast.presets.weights_file import load

        load(check_path("filepath", filepath), self._model)

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key != "_model"}
        core = self._model
        names = [name for name, _ in core.parameters()]
        weights = {
            name: core.get_int8(name, True) or core.get_parameter(name, True) for name in names
        }
        trainable = set(core.trainable())
        adapters, active, merged = _core.Adapters(core).names()
        return {
            **state,
            "_core_json": core.config,
            "_dtype": core.dtype,
            "_device": core.device,
            "_weights": weights,
            "_frozen": [name for name in names if name not in trainable],
            "_recomputes": core.recomputes(),
            # What is merged is among the weights.
            "_loras": {} if merged else {name: Lora.of(core, name) for name in adapters},
            "_lora_in_use": None if merged else active,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        core = _core.Model(state.pop("_core_json"), None, state.pop("_dtype", "float32"))
        # One by one: a second copy of all at once is not needed.
        for name, values in state.pop("_weights").items():
            if isinstance(values, tuple):
                core.set_int8(name, *values)
            else:
                core.set_parameters({name: values})
        core = moved(core, state.pop("_device", "cpu"))
        core.set_trainable(state.pop("_frozen", []), False)
        core.set_recomputes(state.pop("_recomputes", False))
        for name, lora in state.pop("_loras", {}).items():
            lora.add_to(core, name)
        _core.Adapters(core).choose(state.pop("_lora_in_use", None))
        self.__dict__.update(state, _model=core)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name} parameters={self.count_params():,}>"
