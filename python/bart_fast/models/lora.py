"""LoRA of backbones: few trained values beside weights that stay as they are."""

import os
from collections.abc import Sequence
from typing import Any

from bart_fast import _core
from bart_fast._random import draw_seed
from bart_fast._validation import (
    argument_error,
    check_path,
    check_positive_float,
    check_positive_int,
)

# Keras' names of the layers that may be adapted, and what our matrices are called.
_KERAS_NAMES = {
    "query": "q_proj",
    "query_dense": "q_proj",
    "key": "k_proj",
    "key_dense": "k_proj",
    "value": "v_proj",
    "value_dense": "v_proj",
    "attention_output": "out_proj",
    "output_dense": "out_proj",
    "feedforward_intermediate_dense": "fc1",
    "feedforward_output_dense": "fc2",
}


class LoraMixin:
    """LoRA for a backbone with a `_model`. Sets of additions, called adapters, have names; one of
    them is in use, and it alone is trained.

    Reference:
        Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    _model: _core.Model
    trainable: bool

    def default_lora_layer_names(self) -> list[str]:
        """Names of the layers that `enable_lora()` adapts: queries and values."""
        return ["query_dense", "value_dense", "query", "value"]

    def enable_lora(
        self,
        rank: int,
        target_layer_names: Sequence[str] | None = None,
        *,
        alpha: float | None = None,
        adapter: str = "default",
    ) -> None:
        """Freezes all weights, and gives layers an addition `alpha / rank * (x A) B` to what they
        compute, of which `A` and `B` are trained. At first it is zero.

        Works in every precision; of a backbone in int8 or bfloat16 the weights stay as coarse as
        they are, and the additions are float32.

        Args:
            rank: int. Columns of `A`. Queries, keys and values have an `A` for each head, as in
                keras-hub.
            target_layer_names: list of str. Keras' names (`"query"`, `"key"`, `"value"`,
                `"attention_output"`, `"feedforward_intermediate_dense"`,
                `"feedforward_output_dense"`), Hugging Face's (`"q_proj"`, `"fc1"`, ...), or whole
                names such as `"decoder.layers.0.fc1"`. Defaults to `None`: queries and values.
            alpha: float. Defaults to `None`: `rank`, as in keras-hub.
            adapter: str. The name of the new set, which is then in use. Defaults to `"default"`.

        Raises:
            ValueError: an argument is not allowed, there is a set of this name, or one is merged.

        Example:

        ```python
        model.backbone.enable_lora(rank=4)
        model.fit(x, epochs=3)
        model.backbone.save_lora_weights("style.lora.h5")
        ```

        Reference:
            `keras_hub.models.Backbone.enable_lora`, keras-hub 0.32, except that the biases of
            adapted layers are frozen like all else, so that the file holds all that was trained.
        """
        check_positive_int("rank", rank)
        _check_adapter(adapter)
        alpha = rank if alpha is None else check_positive_float("alpha", alpha)
        if target_layer_names is None:
            target_layer_names = self.default_lora_layer_names()
        matrices = self._lora_targets(target_layer_names)
        _core.Adapters(self._model).add(adapter, matrices, rank, alpha, True, draw_seed())
        self._freeze_weights()

    def _freeze_weights(self) -> None:
        self.trainable = True
        self._model.set_trainable([name for name, _ in self._model.parameters()], False)

    def _lora_targets(self, names: Any) -> list[str]:
        rule = "must be a list of names of layers"
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise argument_error("target_layer_names", rule, names)
        wanted = []
        for name in names:
            if not isinstance(name, str):
                raise argument_error("target_layer_names", rule, name)
            wanted.append(_KERAS_NAMES.get(name, name.removesuffix(".weight")))
        matrices = _core.Adapters(self._model).matrices()
        shorts = {matrix: matrix.removesuffix(".weight") for matrix in matrices}
        for name, given in zip(wanted, names, strict=True):
            known = any(s == name or s.endswith(f".{name}") for s in shorts.values())
            if not known and given not in _KERAS_NAMES:
                kinds = ", ".join(dict.fromkeys(_KERAS_NAMES.values()))
                raise argument_error(
                    "target_layer_names",
                    f"must name layers: {kinds}, or with all that stands before it",
                    given,
                )
        return [m for m, s in shorts.items() if any(s == w or s.endswith(f".{w}") for w in wanted)]

    @property
    def lora_adapters(self) -> list[str]:
        """Names of all sets of additions."""
        return _core.Adapters(self._model).names()[0]

    @property
    def active_lora_adapter(self) -> str | None:
        """The name of the set in use, or None."""
        return _core.Adapters(self._model).names()[1]

    def set_lora_adapter(self, adapter: str | None) -> None:
        """Puts another set in use, from the next pass on.

        Args:
            adapter: str, the name of a set; or `None`: the weights as they are.

        Raises:
            ValueError: there is none of this name, or one is merged.
        """
        _core.Adapters(self._model).choose(adapter if adapter is None else _check_adapter(adapter))

    def delete_lora_adapter(self, adapter: str) -> None:
        """Forgets a set.

        Raises:
            ValueError: there is none of this name, or it is merged.
        """
        _core.Adapters(self._model).remove(_check_adapter(adapter))

    def merge_lora(self) -> None:
        """Adds the set in use to the weights themselves, so that a pass costs what it did without
        it. `unmerge_lora()` takes it out again.

        Raises:
            ValueError: no set is in use, it is merged already, or the weights are not float32.
        """
        _core.Adapters(self._model).merge()

    def unmerge_lora(self) -> None:
        """Gives the weights the values they had before `merge_lora()`, bit for bit.

        Raises:
            ValueError: no set is merged.
        """
        _core.Adapters(self._model).unmerge()

    def save_lora_weights(self, filepath: str | os.PathLike, adapter: str | None = None) -> None:
        """Writes a set of additions, whole or not at all.

        Args:
            filepath: `"....lora.h5"`, as keras-hub's backbones read it (of queries and values
                alone); or `"....safetensors"`, any set, keyed by the names of the weights.
            adapter: str. Defaults to `None`: the set in use.

        Raises:
            ValueError: another ending, no set is in use, or keras-hub's file cannot hold it.
        """
        from bart_fast.presets import lora_file

        check_path("filepath", filepath)
        if adapter is None:
            adapter = self.active_lora_adapter
        if adapter is None:
            raise ValueError(
                "`adapter`: no set of additions is in use\n"
                "hint: call `enable_lora(rank)`, or name one of `lora_adapters`"
            )
        lora_file.save(filepath, self._model, _check_adapter(adapter))

    def load_lora_weights(self, filepath: str | os.PathLike, adapter: str | None = None) -> None:
        """Takes a set of additions from a file, and puts it in use; all weights are frozen then.

        Args:
            filepath: `"....lora.h5"`, as `save_lora_weights()` here and of keras-hub writes it, on
                any of Keras' backends; `"....safetensors"`; or a directory that Hugging Face's
                PEFT wrote (`adapter_config.json`, `adapter_model.safetensors`).
            adapter: str. The name it gets; a set of this name is replaced. Defaults to `None`: the
                one in use, else `"default"`.

        Raises:
            ValueError: another ending, a damaged file, or one of another model.
            FileNotFoundError: there is no such file.
        """
        from bart_fast.presets import lora_file

        check_path("filepath", filepath)
        if adapter is None:
            adapter = self.active_lora_adapter or "default"
        _check_adapter(adapter)
        lora = lora_file.load(filepath, self._model)
        if adapter in self.lora_adapters:
            self.delete_lora_adapter(adapter)
        lora.add_to(self._model, adapter)
        self._freeze_weights()


def _check_adapter(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise argument_error("adapter", "must be the name of a set of additions", name)
    return name
