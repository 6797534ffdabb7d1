"""`BartBackbone`: arguments, hidden states, embeddings, configs, presets."""

import json

import numpy as np
import pytest
from tiny_models import SIZES, tiny_backbone, token_arrays

import bart_fast
from bart_fast.models import BartBackbone

ASYMMETRIC = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 8}


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


def test_arguments_are_attributes():
    backbone = BartBackbone(50, 3, 2, 8, 16, 0.2, 40, "float32")
    assert {
        name: getattr(backbone, name) for name in (*SIZES, "dropout", "dtype", "name", "trainable")
    } == {
        "vocabulary_size": 50,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "dropout": 0.2,
        "max_sequence_length": 40,
        "dtype": "float32",
        "name": "bart_backbone",
        "trainable": True,
    }
    assert BartBackbone(50, 1, 2, 8, 16).max_sequence_length == 1024
    assert BartBackbone(50, 1, 2, 8, 16).dropout == 0.1


def test_outputs(backbone):
    arrays = token_arrays(rows=3, source=7, target=5)
    output = backbone(arrays)
    assert output.keys() == {"encoder_sequence_output", "decoder_sequence_output"}
    assert output["encoder_sequence_output"].shape == (3, 7, SIZES["hidden_dim"])
    assert output["decoder_sequence_output"].shape == (3, 5, SIZES["hidden_dim"])
    for array in output.values():
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


@pytest.mark.parametrize("ids", [np.int32, np.int64, np.uint8])
@pytest.mark.parametrize("mask", [bool, np.int32, np.float32])
def test_kinds_of_arrays(backbone, ids, mask):
    arrays = token_arrays()
    expected = backbone(arrays)["decoder_sequence_output"]
    other = {
        name: array.astype(mask if name.endswith("mask") else ids) for name, array in arrays.items()
    }
    np.testing.assert_array_equal(backbone(other)["decoder_sequence_output"], expected)
    lists = {name: array.tolist() for name, array in arrays.items()}
    np.testing.assert_array_equal(backbone(lists)["decoder_sequence_output"], expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_predict_gives_the_same_bits_in_any_batch(backbone, batch_size):
    arrays = token_arrays(rows=5)
    expected = backbone(arrays)
    for name, array in backbone.predict(arrays, batch_size=batch_size).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_rows_and_threads_change_no_bit(backbone):
    arrays = token_arrays(rows=6)
    expected = backbone(arrays)["decoder_sequence_output"]
    order = np.array([4, 2, 0, 5, 1, 3])
    threads = bart_fast.get_num_threads()
    try:
        for count in (1, 2, 4):
            bart_fast.set_num_threads(count)
            permuted = {name: array[order] for name, array in arrays.items()}
            output = backbone(permuted)["decoder_sequence_output"]
            np.testing.assert_array_equal(output, expected[order])
    finally:
        bart_fast.set_num_threads(threads)


def test_what_is_masked_does_not_matter(backbone):
    arrays = token_arrays()
    mask = arrays["encoder_padding_mask"]
    expected = backbone(arrays)
    other = {**arrays, "encoder_token_ids": np.where(mask, arrays["encoder_token_ids"], 3)}
    output = backbone(other)
    for name in expected:
        rows = mask if name.startswith("encoder") else np.ones(expected[name].shape[:2], bool)
        np.testing.assert_array_equal(output[name][rows], expected[name][rows])


def test_later_targets_do_not_matter(backbone):
    arrays = token_arrays()
    arrays["decoder_padding_mask"][:] = True
    expected = backbone(arrays)["decoder_sequence_output"]
    arrays["decoder_token_ids"][:, 3:] = 5
    output = backbone(arrays)["decoder_sequence_output"]
    np.testing.assert_array_equal(output[:, :3], expected[:, :3])
    assert (output[:, 3:] != expected[:, 3:]).any()


def test_no_rows(backbone):
    empty = {name: array[:0] for name, array in token_arrays().items()}
    for output in (backbone(empty), backbone.predict(empty)):
        assert output["encoder_sequence_output"].shape == (0, 7, SIZES["hidden_dim"])
        assert output["decoder_sequence_output"].shape == (0, 5, SIZES["hidden_dim"])


def test_token_embedding(backbone):
    embedding = backbone.token_embedding
    table = embedding.embeddings
    assert table.shape == (SIZES["vocabulary_size"], SIZES["hidden_dim"])
    np.testing.assert_array_equal(embedding([3, 1, 4]), table[[3, 1, 4]])
    np.testing.assert_array_equal(embedding(7), table[7])
    ids = np.array([[[3, 1], [4, 1]]])
    np.testing.assert_array_equal(embedding(ids), table[ids])
    hidden = np.random.default_rng(0).normal(size=(2, 3, SIZES["hidden_dim"]))
    logits = embedding(hidden, reverse=True)
    assert logits.shape == (2, 3, SIZES["vocabulary_size"])
    np.testing.assert_allclose(logits, hidden @ table.T, rtol=0, atol=1e-5)
    assert embedding(hidden[:, :0], reverse=True).shape == (2, 0, SIZES["vocabulary_size"])


def test_count_params():
    assert BartBackbone(50265, 6, 12, 48, 64).count_params() == sum(
        (
            50265 * 48,  # tokens
            2 * (1024 * 48 + 2 * 48),  # positions and the norms behind them
            6 * 3 * 4 * (48 * 48 + 48),  # attentions: one in the encoder, two in the decoder
            6 * 2 * (2 * 48 * 64 + 64 + 48),  # feed-forward
            6 * 5 * 2 * 48,  # norms
        )
    )


def test_config_round_trip(backbone):
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    policy["registered_name"] = None
    config = backbone.get_config()
    assert json.loads(json.dumps(config)) == config
    assert config == {
        "name": "bart_backbone",
        "trainable": True,
        "dtype": policy,
        **SIZES,
        "dropout": 0.1,
    }
    again = BartBackbone.from_config(config)
    assert again.get_config() == config
    assert again._model.config == backbone._model.config
    assert BartBackbone.from_config({**config, "dtype": "float32"}).dtype == "float32"


def test_unlike_encoder_and_decoder():
    """What Hugging Face's configs can say and keras-hub's cannot is kept in `core_config`."""
    backbone = BartBackbone(**SIZES, core_config=ASYMMETRIC)
    config = backbone.get_config()
    assert config["core_config"] == ASYMMETRIC
    again = BartBackbone.from_config(config)
    assert json.loads(again._model.config).items() >= ASYMMETRIC.items()
    arrays = token_arrays()
    assert backbone(arrays)["decoder_sequence_output"].shape == (3, 5, SIZES["hidden_dim"])


def test_random_weights():
    bart_fast.set_random_seed(3)
    one, two = BartBackbone(**SIZES), BartBackbone(**SIZES)
    bart_fast.set_random_seed(3)
    again = BartBackbone(**SIZES)
    table = one.token_embedding.embeddings
    np.testing.assert_array_equal(again.token_embedding.embeddings, table)
    assert (two.token_embedding.embeddings != table).any()
    assert 0.015 < table.std() < 0.021
    assert np.abs(table).max() <= 0.0401, "Keras cuts the normal distribution at two deviations"


def test_saved_backbones_come_back(tmp_path, backbone):
    folder = str(tmp_path / "preset")
    backbone.save_to_preset(folder)
    again = BartBackbone.from_preset(folder)
    assert again.get_config() == backbone.get_config()
    expected = backbone(token_arrays())["decoder_sequence_output"]
    np.testing.assert_array_equal(again(token_arrays())["decoder_sequence_output"], expected)
    random = BartBackbone.from_preset(folder, load_weights=False)
    assert (random(token_arrays())["decoder_sequence_output"] != expected).any()
    assert BartBackbone.from_preset(folder, dropout=0.3).dropout == 0.3


def test_what_a_keras_preset_cannot_say_is_refused(tmp_path):
    backbone = BartBackbone(**SIZES, core_config=ASYMMETRIC)
    with pytest.raises(ValueError, match=r"hint: .*export_to_transformers"):
        backbone.save_to_preset(str(tmp_path / "preset"))
    assert not (tmp_path / "preset").exists()


def test_presets_are_a_copy():
    presets = BartBackbone.presets
    assert {"bart_tidy_en", "bart_base_en"} <= presets.keys()
    presets.clear()
    assert BartBackbone.presets
