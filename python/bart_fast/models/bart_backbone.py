"""The BART encoder-decoder without its language-model head."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bart_fast import _core
from bart_fast._devices import check_device, placed
from bart_fast._dtypes import check_dtype
from bart_fast._random import draw_seed
from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    ENCODER_MASK,
    argument_error,
    check_finite_float,
    check_flag,
    check_positive_int,
    check_text,
    check_token_arrays,
    check_token_ids,
)
from bart_fast.models.backbone import Backbone
from bart_fast.models.generation import SpecialTokens
from bart_fast.models.vocabulary import check_special_ids, new_size, resized

# Constructor arguments, and the fields of the core's configuration (Hugging Face's names) that the
# encoder's sizes have there.
_FIELDS = {
    "vocabulary_size": "vocab_size",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "hidden_dim": "d_model",
    "intermediate_dim": "encoder_ffn_dim",
    "dropout": "dropout",
    "max_sequence_length": "max_position_embeddings",
}

# The core has the same limit for every size.
_LARGEST_SIZE = 1 << 24


class BartBackbone(Backbone):
    """BART encoder-decoder network: token ids in, hidden states out.

    Post-norm transformer with learned positions and exact GELU; mBART and PLBART, loaded from their
    checkpoints, are backbones of this class too. A new backbone has random weights;
    `from_preset()` gives trained ones.

    Args:
        vocabulary_size: int. Size of the token vocabulary.
        num_layers: int. Transformer layers in the encoder, and as many in the decoder.
        num_heads: int. Attention heads of each layer; divides `hidden_dim`.
        hidden_dim: int. Width of the hidden states.
        intermediate_dim: int. Inner width of the feed-forward blocks.
        dropout: float from 0 to below 1. Used when training. Defaults to 0.1.
        max_sequence_length: int. Size of the position tables: the longest sequence, in tokens,
            that encoder and decoder take. Defaults to 1024.
        dtype: the precision: "float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16" or
            "int8", or a dtype policy of Keras; `docs/numerics.md` says what each means. Defaults to
            `None`: float32.
        name: str. Shown by `summary()`. Defaults to `"bart_backbone"`.
        trainable: bool. Whether training changes the weights. Defaults to `True`.
        core_config: dict or `None`. What the arguments above cannot say, such as a decoder of
            another depth than the encoder; `get_config()` of a loaded model has it where it is
            needed. Defaults to `None`.
        device: str, or a `torch.device`. "cpu", or a card such as "cuda", "cuda:1" or "metal"
            (`docs/devices.md`). Defaults to `None`: what the environment variable
            `BART_FAST_DEVICE` says, else a card that is there and free, else the CPU.

    Call arguments:
        x: dict of four arrays, [batch, length] each: `encoder_token_ids`, `encoder_padding_mask`,
            `decoder_token_ids`, `decoder_padding_mask`. Masks are `True` at real tokens.

    Raises:
        ValueError: an argument is out of range, or `hidden_dim` is not a multiple of `num_heads`.

    Example:

    ```python
    backbone = bart_fast.models.BartBackbone(
        vocabulary_size=50265,
        num_layers=2,
        num_heads=4,
        hidden_dim=64,
        intermediate_dim=128,
        max_sequence_length=12,
    )
    ids, mask = np.array([[0, 133, 2119, 2, 1]]), np.array([[1, 1, 1, 1, 0]])
    hidden = backbone({
        "encoder_token_ids": ids,
        "encoder_padding_mask": mask,
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    })
    assert hidden["decoder_sequence_output"].shape == (1, 5, 64)
    ```

    Reference:
        Lewis et al., 2019, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language
        Generation, Translation, and Comprehension".
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 1024,
        dtype: Any = None,
        *,
        name: str = "bart_backbone",
        trainable: bool = True,
        core_config: Mapping[str, Any] | None = None,
        device: Any = None,
        _zeros: bool = False,
    ):
        self.vocabulary_size = check_positive_int("vocabulary_size", vocabulary_size)
        self.num_layers = check_positive_int("num_layers", num_layers)
        self.num_heads = check_positive_int("num_heads", num_heads)
        self.hidden_dim = check_positive_int("hidden_dim", hidden_dim)
        self.intermediate_dim = check_positive_int("intermediate_dim", intermediate_dim)
        self.dropout = _check_dropout(dropout)
        self.max_sequence_length = check_positive_int("max_sequence_length", max_sequence_length)
        if self.hidden_dim % self.num_heads:
            raise argument_error(
                "hidden_dim", f"must be a multiple of `num_heads`, {self.num_heads}", hidden_dim
            )
        for argument in _FIELDS:
            if getattr(self, argument) > _LARGEST_SIZE:
                raise argument_error(
                    argument, f"must be at most {_LARGEST_SIZE}", getattr(self, argument)
                )
        precision = check_dtype(dtype) or "float32"
        check_device(device)
        self.name = check_text("name", name)
        implied = self._implied_config()
        self._core_config = {**implied, **_check_core_config(core_config, implied)}
        # Weights that are about to be loaded need not be drawn.
        seed = None if _zeros else draw_seed()
        self._model = placed(_core.Model(json.dumps(self._core_config), seed, precision), device)
        self.trainable = trainable
        # What the preset names, if the backbone comes from one: see `loading.py`.
        self._special_tokens = SpecialTokens()
        self._generation_config: dict[str, Any] = {}

    @classmethod
    def _from_core_config(cls, config: Mapping[str, Any], **kwargs: Any) -> "BartBackbone":
        """A backbone from the core's configuration; its encoder gives the public sizes.

        `kwargs` are constructor arguments that take precedence over `config`.
        """
        arguments = {argument: config[field] for argument, field in _FIELDS.items()}
        implied = _implied_config(**arguments)
        beyond = {field: value for field, value in config.items() if implied.get(field) != value}
        return cls(**{**arguments, **kwargs}, core_config=beyond)

    def _implied_config(self) -> dict[str, Any]:
        return _implied_config(**{argument: getattr(self, argument) for argument in _FIELDS})

    def __call__(self, x: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Hidden states of encoder and decoder.

        Args:
            x: the four token arrays, [batch, length] each.

        Returns:
            dict of float32 arrays: `encoder_sequence_output` [batch, encoder length, hidden_dim]
            and `decoder_sequence_output` [batch, decoder length, hidden_dim]. Padded positions
            hold what keras-hub computes there: they attend to the real tokens like any other.

        Raises:
            ValueError: an array is missing or misshapen, an id is out of range, or a sequence is
                longer than `max_sequence_length`.
        """
        arrays = check_token_arrays(x, self.vocabulary_size, self.max_sequence_length)
        encoder, decoder = self._hidden_states(arrays)
        return {"encoder_sequence_output": encoder, "decoder_sequence_output": decoder}

    def _hidden_states(self, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Hidden states of encoder and decoder for arrays that have been checked."""
        if len(arrays[ENCODER_IDS]) == 0:
            widths = arrays[ENCODER_IDS].shape[1], arrays[DECODER_IDS].shape[1]
            return tuple(np.zeros((0, width, self.hidden_dim), np.float32) for width in widths)
        return self._model.forward(
            arrays[ENCODER_IDS],
            arrays[ENCODER_MASK],
            arrays[DECODER_IDS],
            arrays[DECODER_MASK],
        )

    def predict(
        self, x: Mapping[str, Any], batch_size: int = 32, verbose: Any = "auto"
    ) -> dict[str, np.ndarray]:
        """What calling returns, computed `batch_size` rows at a time. `verbose` changes nothing."""
        arrays = check_token_arrays(x, self.vocabulary_size, self.max_sequence_length)
        parts = [self._hidden_states(part) for part in batches(arrays, batch_size)]
        encoder, decoder = (np.concatenate(each) for each in zip(*parts, strict=True))
        return {"encoder_sequence_output": encoder, "decoder_sequence_output": decoder}

    @property
    def dtype(self) -> str:
        """The precision: `"float32"`, `"mixed_bfloat16"`, `"int8"`, ..."""
        return self._model.dtype

    @property
    def token_embedding(self) -> "TokenEmbedding":
        """The table of token embeddings: a function of ids, or of hidden states in reverse."""
        return TokenEmbedding(self)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> "TokenEmbedding":
        """Gives the model another number of tokens, as transformers' method of this name does.

        The first rows of the token table stay; new ones are drawn. A head and tables of their own
        follow, and so do a stored bias of the logits, by zeros, and `vocabulary_size`.

        Args:
            new_num_tokens: int. The new `vocabulary_size`; below the old one, the last rows are cut
                off. Defaults to `None`: the one there is.
            pad_to_multiple_of: int. The size is rounded up to a multiple of it. Defaults to `None`.
            mean_resizing: bool. `True` draws new rows around the mean of the old ones, with 1e-9 of
                their covariance; `False` as for a new model. Defaults to `True`.

        Returns:
            The resized `token_embedding`.

        Raises:
            ValueError: an argument is not allowed, or a special id of the preset would be outside.

        Reference:
            `PreTrainedModel.resize_token_embeddings` of transformers; Hewitt, 2021, "Initializing
            New Word Embeddings for Pretrained Language Models".
        """
        check_flag("mean_resizing", mean_resizing)
        size = new_size(self.vocabulary_size, new_num_tokens, pad_to_multiple_of)
        if size > _LARGEST_SIZE:
            raise argument_error("new_num_tokens", f"must be at most {_LARGEST_SIZE}", size)
        hint = "keep the rows of special ids"
        check_special_ids("`new_num_tokens`", self._special_tokens.settings(), size, hint)
        if size != self.vocabulary_size:
            deviation = self._core_config["init_std"]
            self._model = resized(self._model, size, mean_resizing, deviation)
            self.vocabulary_size = self._core_config["vocab_size"] = size
        return self.token_embedding

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values; `dtype` as Keras serialises policies."""
        from bart_fast.presets.keras_format import dtype_policy

        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": dtype_policy(self.dtype, json.loads(self._model.config)),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "max_sequence_length": self.max_sequence_length,
        }
        implied = self._implied_config()
        beyond = {k: v for k, v in self._core_config.items() if implied.get(k) != v}
        return {**config, "core_config": beyond} if beyond else config


class TokenEmbedding:
    """The token embeddings of a backbone, which in BART are its language-model head too. Where a
    checkpoint has a head of its own, `reverse=True` is that.

    Call arguments:
        inputs: int array of token ids, any shape; with `reverse=True` hidden states
            [..., hidden_dim].
        reverse: bool. `False`: ids to embeddings [..., hidden_dim]. `True`: hidden states to
            logits [..., vocabulary_size]. Defaults to `False`.
    """

    def __init__(self, backbone: BartBackbone):
        self._backbone = backbone

    def __call__(self, inputs: Any, reverse: bool = False) -> np.ndarray:
        backbone = self._backbone
        if not reverse:
            ids = np.asarray(inputs)
            flat = check_token_ids("inputs", ids.reshape(1, -1), backbone.vocabulary_size)
            return backbone._model.embed(flat).reshape(*ids.shape, backbone.hidden_dim)
        hidden = np.asarray(inputs, dtype=np.float32)
        if hidden.ndim == 0 or hidden.shape[-1] != backbone.hidden_dim:
            raise argument_error(
                "inputs", f"must have a last axis of {backbone.hidden_dim}", hidden.shape
            )
        shape = (*hidden.shape[:-1], backbone.vocabulary_size)
        if hidden.size == 0:
            return np.zeros(shape, dtype=np.float32)
        flat = np.ascontiguousarray(hidden.reshape(-1, backbone.hidden_dim))
        return backbone._model.logits(flat).reshape(shape)

    @property
    def embeddings(self) -> np.ndarray:
        """A copy of the table, float32 [vocabulary_size, hidden_dim]; the encoder's, where the
        decoder has its own."""
        core = self._backbone._model
        return core.get_parameter(core.parameters()[0][0])


def _implied_config(**arguments: Any) -> dict[str, Any]:
    """The core's configuration that the constructor's arguments stand for."""
    config = {field: arguments[argument] for argument, field in _FIELDS.items()}
    for size in ("layers", "attention_heads", "ffn_dim"):
        config[f"decoder_{size}"] = config[f"encoder_{size}"]
    return {
        **config,
        # keras-hub drops attention probabilities too, and nothing after the activation.
        "attention_dropout": config["dropout"],
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "model_type": "bart",
        "scale_embedding": False,
        "normalize_before": False,
        "add_final_layer_norm": False,
        "tie_word_embeddings": True,
        "separate_embeddings": False,
        "final_logits_bias": False,
        "init_std": 0.02,
        "activation_function": "gelu",
    }


def batches(arrays: Mapping[str, np.ndarray], batch_size: int) -> list[dict[str, np.ndarray]]:
    """`arrays` cut into runs of at most `batch_size` rows; at least one run, if of no rows."""
    size = check_positive_int("batch_size", batch_size)
    rows = len(next(iter(arrays.values())))
    starts = range(0, max(rows, 1), size)
    return [{key: each[start : start + size] for key, each in arrays.items()} for start in starts]


def _check_core_config(config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the core's configuration, of the types of `known`; their ranges are the core's."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        rule = "must be a dict of fields, as `get_config()` has it, or `None`"
        raise argument_error("core_config", rule, config)
    for field, value in config.items():
        if field not in known:
            names = ", ".join(known)
            raise argument_error("core_config", f"has an unknown field; known are {names}", field)
        kind = type(known[field])
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or isinstance(value, bool) != (kind is bool) or value != value:
            rule = f"must have a {kind.__name__} as its field '{field}'"
            raise argument_error("core_config", rule, value)
    return dict(config)


def _check_dropout(dropout: Any) -> float:
    number = check_finite_float("dropout", dropout)
    if not 0.0 <= number < 1.0:
        raise argument_error("dropout", "must be from 0 to below 1", dropout)
    return number
