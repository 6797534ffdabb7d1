"""Training a real model: loss, metrics and three steps as keras-hub recorded them; seeds."""

import numpy as np
import pytest

from bart_fast import optimizers, set_random_seed
from bart_fast.models import BartBackbone, BartSeq2SeqLM

# Our modules, by what Keras calls them.
KERAS_MODULES = {
    "embed_positions": "position_embedding",
    "layernorm_embedding": "embeddings_layer_norm",
    "self_attn_layer_norm": "self_attention_layer_norm",
    "encoder_attn_layer_norm": "cross_attention_layer_norm",
    "final_layer_norm": "feedforward_layer_norm",
    "fc1": "feedforward_intermediate_dense",
    "fc2": "feedforward_output_dense",
    "encoder_attn": "cross_attention",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "attention_output",
}


def keras_path(name):
    """Where the golden file has a parameter."""
    if name == "shared.weight":
        return "token_embedding/embeddings"
    side, *path, leaf = name.split(".")
    if "norm" in path[-1]:
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    elif path[-1] == "embed_positions":
        leaf = "embeddings"
    else:
        leaf = {"weight": "kernel", "bias": "bias"}[leaf]
    if path[0] != "layers":
        return f"{side}_{KERAS_MODULES[path[0]]}/{leaf}"
    _, index, *modules = path
    attention = "self_attention_layer" if side == "encoder" else "self_attention"
    modules = [KERAS_MODULES.get(module, attention) for module in modules]
    return "/".join([f"transformer_{side}_layer_{index}", *modules, leaf])


def keras_values(golden, prefix, name, shape):
    """A golden weight in our layout: Keras keeps dense kernels as [in, out]."""
    values = golden[f"{prefix}/{keras_path(name)}"]
    if keras_path(name).endswith("kernel"):
        return values.reshape(shape[::-1]).T
    return values.reshape(shape)


@pytest.fixture
def recorded(keras_golden):
    """x, y and weights of the recorded steps."""
    x = {name.removeprefix("fit_x/"): v for name, v in keras_golden.items() if "fit_x/" in name}
    return x, keras_golden["fit_y"], keras_golden["fit_sample_weight"]


def load(keras_tiny):
    return BartSeq2SeqLM.from_preset(str(keras_tiny), dropout=0.0)


def test_loss_and_accuracy(keras_tiny, keras_golden, recorded):
    model = load(keras_tiny)
    got = model.evaluate(*recorded[:2], sample_weight=recorded[2], batch_size=5, verbose=0)
    expected = [keras_golden["evaluate_loss"], keras_golden["evaluate_acc"]]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("run", "optimizer", "tolerance"),
    [
        ("sgd_1e-1", optimizers.SGD(0.1), 2e-6),
        ("adam_1e-2", optimizers.Adam(0.01), 3e-5),
    ],
)
def test_three_steps(keras_tiny, keras_golden, recorded, run, optimizer, tolerance):
    model = load(keras_tiny)
    model.compile(optimizer=optimizer)
    losses = [model.train_on_batch(*recorded)[0] for _ in range(3)]
    np.testing.assert_allclose(losses, keras_golden[f"train/{run}/losses"], rtol=0, atol=1e-5)
    core = model.backbone._model
    worst = {}
    for name, shape in core.parameters():
        if name == "final_logits_bias":
            continue
        expected = keras_values(keras_golden, f"train/{run}/weights", name, tuple(shape))
        difference = np.abs(core.get_parameter(name) - expected).max()
        # The exact gradient of a key's bias is zero; Adam makes steps of the rounding.
        is_noise = name.endswith("k_proj.bias") and run.startswith("adam")
        if difference > (1e-4 if is_noise else tolerance):
            worst[name] = difference
    assert not worst


def tiny(dropout=0.1):
    set_random_seed(3)
    backbone = BartBackbone(
        vocabulary_size=40,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
        dropout=dropout,
        max_sequence_length=12,
    )
    model = BartSeq2SeqLM(backbone)
    model.compile(optimizer=optimizers.Adam(0.01))
    return model


def token_batch(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 40, size=(rows, 7))
    lengths = rng.integers(3, 8, size=rows)
    mask = np.arange(7) < lengths[:, None]
    x = {
        "encoder_token_ids": ids,
        "encoder_padding_mask": mask,
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    }
    return x, np.roll(ids, -1, axis=1), mask


def weights_of(model):
    return np.concatenate([values.ravel() for values in model.get_weights()])


def test_training_learns_repeats_and_goes_on():
    x, y, weight = token_batch()

    def run(*spans):
        model = tiny()
        for start, end in spans:
            history = model.fit(
                x, y, sample_weight=weight, batch_size=4, initial_epoch=start, epochs=end, verbose=0
            )
        return model, history.history["loss"]

    whole, losses = run((0, 12))
    assert losses[-1] < losses[0] - 0.3
    parts, _ = run((0, 5), (5, 12))
    np.testing.assert_array_equal(weights_of(whole), weights_of(parts))


def test_a_saved_optimizer_goes_on_in_another_process_alike(tmp_path):
    """As after a restart: weights, optimizer state and seed are put back into a new model."""
    batch = token_batch()
    whole = tiny()
    for _ in range(3):
        whole.train_on_batch(*batch)
    np.savez(tmp_path / "optimizer.npz", **whole.optimizer.state())
    weights = whole.get_weights()
    whole.train_on_batch(*batch)

    restarted = tiny()
    restarted.set_weights(weights)
    with np.load(tmp_path / "optimizer.npz") as state:
        restarted.optimizer.set_state(state)
    restarted.train_on_batch(*batch)
    np.testing.assert_array_equal(weights_of(restarted), weights_of(whole))


def test_dropout_differs_by_step_and_is_off_in_evaluation():
    batch = token_batch()
    model = tiny(dropout=0.5)
    model.compile(optimizer=optimizers.SGD(0.0))
    assert len({model.train_on_batch(*batch)[0] for _ in range(3)}) == 3
    assert len({model.test_on_batch(*batch)[0] for _ in range(3)}) == 1


def test_weights_of_zero_and_masked_positions_that_count():
    x, y, mask = token_batch()
    model = tiny(dropout=0.0)
    assert model.test_on_batch(x, y, np.zeros(y.shape)) == [0.0, 0.0]
    before = weights_of(model)
    model.train_on_batch(x, y, np.zeros(y.shape))
    np.testing.assert_array_equal(weights_of(model), before)
    # Without weights every position counts, padded ones too.
    everywhere = model.test_on_batch(x, y)
    assert everywhere == model.test_on_batch(x, y, np.ones(y.shape))
    inside = model.test_on_batch(x, y, mask)[0]
    outside = model.test_on_batch(x, y, ~mask)[0]
    assert outside > 0
    assert everywhere[0] == pytest.approx(inside + outside, rel=1e-5)


def test_clipping_and_decay_reach_the_weights():
    batch = token_batch()
    clipped = tiny(dropout=0.0)
    clipped.compile(optimizer=optimizers.SGD(1.0, global_clipnorm=0.01))
    before = weights_of(clipped)
    clipped.train_on_batch(*batch)
    assert np.linalg.norm(weights_of(clipped) - before) == pytest.approx(0.01, rel=1e-3)

    decayed = tiny(dropout=0.0)
    optimizer = optimizers.SGD(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    decayed.compile(optimizer=optimizer)
    core = decayed.backbone._model
    before = {name: core.get_parameter(name) for name, _ in core.parameters()}
    decayed.train_on_batch(*batch[:2], np.zeros(batch[1].shape))
    for name, values in before.items():
        keeps = name.endswith("bias") or "norm" in name
        expected = values if keeps else values * 0.75
        np.testing.assert_allclose(core.get_parameter(name), expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["decoder_token_ids", "encoder_token_ids", "y"])
def test_ids_outside_the_vocabulary_are_named(name):
    x, y, weight = token_batch()
    if name == "y":
        y[0, 0] = 40
    else:
        x[name] = x[name].copy()
        x[name][0, 0] = 40
    with pytest.raises(ValueError, match=name):
        tiny().train_on_batch(x, y, weight)
