"""Which weights of a backbone are trained: all, some layers, or those that a pattern names."""

import re
from fnmatch import fnmatchcase
from math import prod

from bart_fast import _core
from bart_fast._validation import argument_error, check_flag, check_int, check_text

_STACK = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")
# Keras' names of the layers around the stacks, by the beginnings of our parameters' names.
_LAYERS = {
    "shared.": "token_embedding",
    "encoder.embed_tokens.": "encoder_token_embedding",
    "decoder.embed_tokens.": "decoder_token_embedding",
    "encoder.embed_positions.": "encoder_position_embedding",
    "decoder.embed_positions.": "decoder_position_embedding",
    "encoder.layernorm_embedding.": "encoder_embeddings_layer_norm",
    "decoder.layernorm_embedding.": "decoder_embeddings_layer_norm",
    "encoder.layer_norm.": "encoder_layer_norm",
    "decoder.layer_norm.": "decoder_layer_norm",
    "lm_head.": "lm_head",
    "final_logits_bias": "final_logits_bias",
}


class FreezingMixin:
    """What of a backbone with a `_model` is trained."""

    _model: _core.Model
    _trainable: bool = True

    @property
    def trainable(self) -> bool:
        """bool. `False` freezes all weights, `True` has all trained; layers and `freeze()` make
        exceptions afterwards."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = check_flag("trainable", value)
        names = [name for name, _ in self._model.parameters()]
        self._model.set_trainable(names, self._trainable)
        _core.Adapters(self._model).set_trainable(self._trainable)

    @property
    def layers(self) -> list["Layer"]:
        """The layers with weights, under Keras' names, in the order of the weights."""
        names: dict[str, list[str]] = {}
        for name, _ in self._model.parameters():
            names.setdefault(layer_name(name), []).append(name)
        return [Layer(self, layer, parameters) for layer, parameters in names.items()]

    def get_layer(self, name: str | None = None, index: int | None = None) -> "Layer":
        """A layer by its name, such as `"transformer_encoder_layer_0"`, or by its place.

        Raises:
            ValueError: there is none, or both or neither are given.
        """
        layers = self.layers
        if (name is None) == (index is None):
            raise ValueError("`get_layer()` takes either `name` or `index`")
        if index is not None:
            check_int("index", index, -len(layers))
            if index < len(layers):
                return layers[index]
            raise argument_error("index", f"must be below {len(layers)}", index)
        for layer in layers:
            if layer.name == check_text("name", name):
                return layer
        known = ", ".join(layer.name for layer in layers)
        raise argument_error("name", f"must be one of {known}", name)

    def freeze(self, *patterns: str) -> list[str]:
        """Keeps weights from being trained, from the next step on.

        Args:
            *patterns: str. Names of layers as in `layers`, or of weights as in
                `trainable_parameters`, with `*`, `?` and `[...]` as in file names:
                `"encoder.*"`, `"*.layer_norm.*"`, `"transformer_decoder_layer_?"`.

        Returns:
            list of str. The names of the weights.

        Raises:
            ValueError: a pattern fits nothing.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Has weights trained again; see `freeze()`."""
        return self._set_trainable(patterns, True)

    @property
    def trainable_parameters(self) -> list[str]:
        """Names of the weights that training changes, those of LoRA in use among them."""
        return self._model.trainable()

    def _set_trainable(self, patterns: tuple[str, ...], trainable: bool) -> list[str]:
        if not patterns:
            raise ValueError("`patterns` must name weights or layers; received: none")
        names = [name for name, _ in self._model.parameters()]
        chosen: list[str] = []
        for pattern in patterns:
            check_text("patterns", pattern)
            fitting = [
                name
                for name in names
                if fnmatchcase(name, pattern) or fnmatchcase(layer_name(name), pattern)
            ]
            if not fitting:
                raise argument_error(
                    "patterns", f"must fit names such as {names[0]!r} and {names[-1]!r}", pattern
                )
            chosen += fitting
        self._model.set_trainable(chosen, trainable)
        return list(dict.fromkeys(chosen))


class Layer:
    """A layer of a backbone: its name, its weights, and whether they are trained.

    Attributes:
        name: str.
        parameters: list of str. Names of its weights.
    """

    def __init__(self, backbone: FreezingMixin, name: str, parameters: list[str]):
        self.name = name
        self.parameters = parameters
        self._backbone = backbone

    @property
    def trainable(self) -> bool:
        """bool. Whether any of its weights is trained."""
        return not set(self.parameters).isdisjoint(self._backbone._model.trainable())

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._backbone._model.set_trainable(self.parameters, check_flag("trainable", value))

    def count_params(self) -> int:
        """The number of its weights."""
        shapes = dict(self._backbone._model.parameters())
        return sum(prod(shapes[name]) for name in self.parameters)

    def __repr__(self) -> str:
        return f"<Layer name={self.name} trainable={self.trainable}>"


def layer_name(parameter: str) -> str:
    """Keras' name of the layer that a parameter belongs to."""
    match = _STACK.match(parameter)
    if match:
        return f"transformer_{match[1]}_layer_{match[2]}"
    return next(
        (layer for prefix, layer in _LAYERS.items() if parameter.startswith(prefix)), parameter
    )
