"""The one table of Keras' names: each group of a `model.weights.h5`, and our parameter in it.

Keras stores the kernel of a dense layer as [in, out], split into heads where it belongs to an
attention; our parameters are [out, in], as in Hugging Face. Everything else is stored alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Variable:
    """A dataset of the file.

    Attributes:
        parameter: our name of it.
        shape: the shape Keras gives it.
        kernel: True where our array is its transpose.
        kind: "float", in the precision of the model; "float32", in any; or of a quantised
            parameter "int8", its values, or "scale", by which each row of ours is divided.
    """

    parameter: str
    shape: tuple[int, ...]
    kernel: bool = False
    kind: Literal["float", "float32", "int8", "scale"] = "float"

    def to_parameter(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Our array, of the given shape, from Keras' array."""
        if self.kernel:
            return np.ascontiguousarray(values.reshape(shape[::-1]).T)
        return values.reshape(shape)

    def from_parameter(self, values: np.ndarray) -> np.ndarray:
        """Keras' array from ours."""
        if self.kernel:
            values = np.ascontiguousarray(values.T)
        return values.reshape(self.shape)


@dataclass(frozen=True)
class Group:
    """A layer of the file.

    Attributes:
        path: where it is, such as `layers/position_embedding`. Empty for the model itself.
        name: what its `vars` group is called in its `name` attribute.
        variables: its datasets, `vars/0`, `vars/1`, ... Empty for layers without weights.
        older_path: where Keras kept it before attention layers had public attributes.
    """

    path: str
    name: str
    variables: tuple[Variable, ...] = ()
    older_path: str | None = None

    @property
    def vars_path(self) -> str:
        """Where its datasets are."""
        return f"{self.path}/vars".lstrip("/")


@dataclass(frozen=True)
class Dimensions:
    """The sizes that fix every shape of a Keras BART."""

    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    max_sequence_length: int


def groups(sizes: Dimensions, *, quantized: bool = False) -> list[Group]:
    """Every group of the file in the order Keras writes them; `quantized`: of a model in int8."""
    found = _groups(sizes)
    return [_in_int8(group) for group in found] if quantized else found


def _in_int8(group: Group) -> Group:
    """The group with its matrix in int8, and the scales of that behind."""
    if not any(v.kernel or v.parameter == "shared.weight" for v in group.variables):
        return group
    matrix, *bias = group.variables
    shape = bias[0].shape if bias else matrix.shape[:1]
    # Keras' einsum layers keep the axes over which they sum.
    axes = (1, 1) if len(matrix.shape) == 3 else ()
    scale = Variable(matrix.parameter, (*axes, *shape), kind="scale")
    return replace(group, variables=(replace(matrix, kind="int8"), *bias, scale))


def int8_layers(encoder_layers: int, decoder_layers: int) -> list[str]:
    """The layers that Keras quantises, by the paths and in the order of its policy map."""
    dense = ("feedforward_output_dense", "feedforward_intermediate_dense")
    parts = ("attention_output", "value", "key", "query")
    stacks = (
        ("encoder", encoder_layers, ("self_attention_layer",)),
        ("decoder", decoder_layers, ("cross_attention", "self_attention")),
    )
    paths = ["token_embedding"]
    for stack, count, attentions in stacks:
        for layer in range(count):
            path = f"transformer_{stack}_layer_{layer}"
            paths += [f"{path}/{name}" for name in dense]
            paths += [f"{path}/{name}/{part}" for name in attentions for part in parts]
    return paths


def _groups(sizes: Dimensions) -> list[Group]:
    vocabulary, hidden = sizes.vocabulary_size, sizes.hidden_dim
    positions = (sizes.max_sequence_length, hidden)
    found = [
        Group("", "bart_backbone"),
        Group("layers/input_layer", "decoder_token_ids"),
        Group("layers/input_layer_1", "encoder_token_ids"),
        Group("layers/input_layer_2", "encoder_padding_mask"),
        Group("layers/input_layer_3", "decoder_padding_mask"),
        Group(
            "layers/reversible_embedding",
            "token_embedding",
            (Variable("shared.weight", (vocabulary, hidden)),),
        ),
    ]
    sides = (("encoder", ""), ("decoder", "_1"))
    for side, suffix in sides:
        found += [
            Group(
                f"layers/position_embedding{suffix}",
                f"{side}_position_embedding",
                (Variable(f"{side}.embed_positions.weight", positions),),
            ),
            Group(f"layers/add{suffix}", f"{side}_embeddings_add"),
            Group(f"layers/dropout{suffix}", f"{side}_embeddings_dropout"),
        ]
    for side, suffix in sides:
        path, ours = f"layers/layer_normalization{suffix}", f"{side}.layernorm_embedding"
        found.append(_norm(path, f"{side}_embeddings_layer_norm", ours, hidden))
    for layer in range(sizes.num_layers):
        found += _encoder_layer(sizes, layer)
    for layer in range(sizes.num_layers):
        found += _decoder_layer(sizes, layer)
    return found


def count_parameters(table: list[Group]) -> int:
    """How many numbers a file of these groups holds."""
    return sum(math.prod(v.shape) for group in table for v in group.variables)


def _numbered(name: str, index: int) -> str:
    """Keras' way to number things of one kind: x, x_1, x_2, ..."""
    return name if index == 0 else f"{name}_{index}"


def _encoder_layer(sizes: Dimensions, layer: int) -> list[Group]:
    path = f"layers/{_numbered('transformer_encoder', layer)}"
    ours = f"encoder.layers.{layer}"
    attention = f"{path}/_self_attention_layer"
    return [
        Group(path, f"transformer_encoder_layer_{layer}"),
        *_feedforward(sizes, path, ours),
        *_attention(sizes, attention, "self_attention_layer", f"{ours}.self_attn", layer),
        *_around_attention(sizes, path, "self", f"{ours}.self_attn_layer_norm"),
    ]


def _decoder_layer(sizes: Dimensions, layer: int) -> list[Group]:
    path = f"layers/{_numbered('transformer_decoder', layer)}"
    ours = f"decoder.layers.{layer}"
    # Keras numbers the softmax and dropout of each attention as it builds them: those of the
    # encoder, then self- and cross-attention of each decoder layer.
    built = sizes.num_layers + 2 * layer
    own, cross = f"{path}/_self_attention_layer", f"{path}/_cross_attention_layer"
    return [
        Group(path, f"transformer_decoder_layer_{layer}"),
        *_attention(sizes, cross, "cross_attention", f"{ours}.encoder_attn", built + 1),
        *_around_attention(sizes, path, "cross", f"{ours}.encoder_attn_layer_norm"),
        *_feedforward(sizes, path, ours),
        *_attention(sizes, own, "self_attention", f"{ours}.self_attn", built),
        *_around_attention(sizes, path, "self", f"{ours}.self_attn_layer_norm"),
    ]


def _attention(sizes: Dimensions, path: str, name: str, ours: str, built: int) -> list[Group]:
    hidden, heads = sizes.hidden_dim, sizes.num_heads
    split = (heads, hidden // heads)

    def dense(attribute: str, name: str, ours: str, kernel: tuple, bias: tuple) -> Group:
        variables = (
            Variable(f"{ours}.weight", kernel, kernel=True),
            Variable(f"{ours}.bias", bias),
        )
        return Group(f"{path}/{attribute}", name, variables, older_path=f"{path}/_{attribute}")

    def projection(name: str) -> Group:
        short = f"{ours}.{name[0]}_proj"
        return dense(f"{name}_dense", name, short, (hidden, *split), split)

    output = (f"{ours}.out_proj", (*split, hidden), (hidden,))
    return [
        Group(path, name),
        Group(f"{path}/_dropout_layer", _numbered("dropout", built)),
        Group(f"{path}/_softmax", _numbered("softmax", built)),
        projection("key"),
        dense("output_dense", "attention_output", *output),
        projection("query"),
        projection("value"),
    ]


def _around_attention(sizes: Dimensions, path: str, kind: str, ours: str) -> list[Group]:
    norm = f"{kind}_attention_layer_norm"
    return [
        Group(f"{path}/_{kind}_attention_dropout", f"{kind}_attention_dropout"),
        _norm(f"{path}/_{norm}", norm, ours, sizes.hidden_dim),
    ]


def _feedforward(sizes: Dimensions, path: str, ours: str) -> list[Group]:
    hidden, inner = sizes.hidden_dim, sizes.intermediate_dim

    def dense(name: str, ours: str, inputs: int, outputs: int) -> Group:
        variables = (
            Variable(f"{ours}.weight", (inputs, outputs), kernel=True),
            Variable(f"{ours}.bias", (outputs,)),
        )
        return Group(f"{path}/_{name}", name, variables)

    return [
        Group(f"{path}/_feedforward_dropout", "feedforward_dropout"),
        dense("feedforward_intermediate_dense", f"{ours}.fc1", hidden, inner),
        _norm(
            f"{path}/_feedforward_layer_norm",
            "feedforward_layer_norm",
            f"{ours}.final_layer_norm",
            hidden,
        ),
        dense("feedforward_output_dense", f"{ours}.fc2", inner, hidden),
    ]


def _norm(path: str, name: str, ours: str, hidden: int) -> Group:
    gamma, beta = Variable(f"{ours}.weight", (hidden,)), Variable(f"{ours}.bias", (hidden,))
    return Group(path, name, (gamma, beta))
