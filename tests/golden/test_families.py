"""mBART, PLBART, and BARTs with heads or embeddings of their own, as Hugging Face computes them
(make_families.py): hidden states, logits, answers, gradients, and both ways through files.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from torch_files import save_archive, save_safetensors, save_stream, stored_tensors, tensor

from bart_fast import optimizers
from bart_fast.models import BartSeq2SeqLM

RECORDED = Path(__file__).with_name("families.npz")
NAMES = ("bart_untied", "bart_separate", "mbart", "mbart_50", "mbart_separate", "plbart")
SHARED, ENCODER, DECODER, HEAD = (
    f"{name}.weight"
    for name in (
        "model.shared",
        "model.encoder.embed_tokens",
        "model.decoder.embed_tokens",
        "lm_head",
    )
)


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as arrays:
        return {name: arrays[name] for name in arrays.files}


def inputs(recorded):
    return {name: array for name, array in recorded.items() if name.startswith(("enc", "dec"))}


def weights(recorded, name):
    """The tensors of a model as Hugging Face names them, float32."""
    start = f"{name}/weights/"
    return {
        key.removeprefix(start): array.astype(np.float32)
        for key, array in recorded.items()
        if key.startswith(start)
    }


def write(directory, config, tensors, save=save_safetensors, file="model.safetensors"):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    if save is not save_safetensors:
        tensors = {key: tensor(values) for key, values in tensors.items()}
    save(directory / file, tensors)
    return directory


@pytest.fixture
def directory(request, recorded, tmp_path):
    """A directory of Hugging Face with a recorded model."""
    config = json.loads(str(recorded["configs"]))[request.param]
    return write(tmp_path / "model", config, weights(recorded, request.param))


def loaded(directory):
    return BartSeq2SeqLM.from_preset(str(directory))


def name_of(request):
    return request.node.callspec.params["directory"]


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_numbers_equal_hugging_face(directory, recorded, request):
    model, name = loaded(directory), name_of(request)
    model.compile(sampler="preset")
    x = inputs(recorded)
    hidden = model.backbone(x)
    real = x["encoder_padding_mask"].astype(bool)
    for ours, theirs in (
        (hidden["encoder_sequence_output"][real], recorded[f"{name}/encoder"][real]),
        (hidden["decoder_sequence_output"], recorded[f"{name}/decoder"]),
        (model(x), recorded[f"{name}/logits"]),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    source = {key: array for key, array in x.items() if key.startswith("encoder")}
    greedy = model.generate(source)["decoder_token_ids"]
    np.testing.assert_array_equal(greedy, recorded[f"{name}/greedy"])
    beams = model.generate(
        source,
        num_beams=3,
        num_return_sequences=3,
        return_dict_in_generate=True,
        output_scores=True,
    )
    np.testing.assert_array_equal(beams.sequences, recorded[f"{name}/beams"])
    scores = recorded[f"{name}/beam_scores"]
    np.testing.assert_allclose(beams.sequences_scores, scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_files_keep_the_model(directory, recorded, tmp_path):
    model, x = loaded(directory), inputs(recorded)
    expected = model(x)
    model.export_to_transformers(tmp_path / "exported")
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    config = json.loads((directory / "config.json").read_text())
    # Settings of generation are in a file of their own.
    assert config.items() - {("max_length", 12), ("forced_bos_token_id", 7)} <= written.items()
    again = loaded(tmp_path / "exported")
    np.testing.assert_array_equal(again(x), expected)
    assert again.backbone.get_config() == model.backbone.get_config()
    assert again.count_params() == model.count_params()
    settings = model.backbone._generation_config.items()
    assert settings <= again.backbone._generation_config.items()
    # transformers takes no table of an untied checkpoint for a copy of another.
    tensors = stored_tensors(tmp_path / "exported" / "model.safetensors")
    if not config.get("tie_word_embeddings", True):
        assert {SHARED, ENCODER, DECODER, HEAD} <= tensors.keys()
    model.save_weights(tmp_path / "w.safetensors")
    fresh = BartSeq2SeqLM(type(model.backbone).from_config(model.backbone.get_config()))
    fresh.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(fresh(x), expected)
    for save in (model.save_to_preset, lambda path: model.save_weights(path / "w.weights.h5")):
        with pytest.raises(ValueError, match="a Keras preset cannot describe this model"):
            save(tmp_path)


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_gradients_are_slopes(directory, recorded):
    model = BartSeq2SeqLM.from_preset(str(directory), dropout=0.0)
    model.compile(optimizer=optimizers.SGD(1.0))
    x = inputs(recorded)
    y = x["decoder_token_ids"]
    before = model.get_weights()
    model.train_on_batch(x, y)
    gradients = [old - new for old, new in zip(before, model.get_weights(), strict=True)]
    random = np.random.default_rng(0)
    names = model.backbone._model.parameters()
    for each in range(len(names)):
        if names[each][0] == "final_logits_bias":
            continue
        step = random.standard_normal(names[each][1]).astype(np.float32)
        step /= np.linalg.norm(step)
        losses = []
        for size in (2e-3, -2e-3):  # small: ReLU has kinks
            moved = [w + np.float32(size) * step if i == each else w for i, w in enumerate(before)]
            model.set_weights(moved)
            losses.append(model.test_on_batch(x, y, return_dict=True)["loss"])
        slope, expected = (losses[0] - losses[1]) / 4e-3, float((gradients[each] * step).sum())
        assert slope == pytest.approx(expected, rel=0.02, abs=3e-3), names[each][0]


def table(seed):
    values = np.random.default_rng(seed).normal(0, 0.4, (24, 8))
    return values.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("tied", "names", "expected"),
    [
        # What a file holds, and which of it encoder, decoder and head are: as transformers 4.57 has
        # it, but for what it would draw at random.
        (True, {SHARED: 0, ENCODER: 1, DECODER: 2, HEAD: 3}, (0, 0, 0)),
        (True, {DECODER: 2, HEAD: 2}, (2, 2, 2)),
        (True, {ENCODER: 1, DECODER: 2, HEAD: 2}, "decoder.embed_tokens.weight and model.encoder"),
        (True, {DECODER: 2, HEAD: 3}, "differ, but the model has one table for both"),
        (False, {SHARED: 0, ENCODER: 1, DECODER: 2, HEAD: 3}, (1, 2, 3)),
        (False, {SHARED: 0, ENCODER: 1, DECODER: 1, HEAD: 3}, (1, 1, 3)),
        (False, {SHARED: 0, HEAD: 3}, (0, 0, 3)),
        (False, {SHARED: 0, DECODER: 2, HEAD: 3}, (0, 2, 3)),
        (False, {ENCODER: 1, DECODER: 2, HEAD: 2}, (1, 2, 2)),
        (False, {SHARED: 0, ENCODER: 1, DECODER: 2}, "1 missing: lm_head.weight"),
        (False, {DECODER: 2, HEAD: 2}, "1 missing: model.shared.weight"),
    ],
)
@pytest.mark.parametrize("save", [save_safetensors, save_archive, save_stream])
def test_which_tables_a_checkpoint_means(tmp_path, recorded, tied, names, expected, save):
    config = json.loads(str(recorded["configs"]))["bart_untied"] | {"tie_word_embeddings": tied}
    body = weights(recorded, "bart_untied")
    tensors = {key: values for key, values in body.items() if key not in (SHARED, HEAD)}
    tensors |= {name: table(seed) for name, seed in names.items()}
    file = "model.safetensors" if save is save_safetensors else "pytorch_model.bin"
    directory = write(tmp_path / "model", config, tensors, save, file)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            loaded(directory)
        return
    backbone = loaded(directory).backbone
    core, (encoder, decoder, head) = backbone._model, expected
    held = dict(core.parameters()).keys()
    first, last = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    if encoder == decoder:
        first = last = "shared.weight"
    for name, seed in ((first, encoder), (last, decoder), (HEAD if HEAD in held else first, head)):
        np.testing.assert_array_equal(core.get_parameter(name), table(seed), err_msg=name)
    assert (HEAD in held) == (not tied)
    np.testing.assert_array_equal(backbone.token_embedding([3]), table(encoder)[[3]])
    hidden = np.ones((1, 8), np.float32)
    bias = body["final_logits_bias"]
    np.testing.assert_allclose(
        backbone.token_embedding(hidden, reverse=True), hidden @ table(head).T + bias, atol=1e-5
    )


@pytest.mark.parametrize("head", ["decoder.output_projection.weight", "decoder.embed_out"])
def test_fairseq_without_shared_embeddings(tmp_path, recorded, head):
    """`share_all_embeddings` off; the head the decoder's, or its own."""
    config = json.loads(str(recorded["configs"]))["bart_separate"]
    body = weights(recorded, "bart_separate")
    state = {key.removeprefix("model."): tensor(v) for key, v in body.items()}
    del state["shared.weight"], state["final_logits_bias"]
    state[head] = state.pop(HEAD)
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    save_archive(directory / "model.pt", {"model": state, "args": None})
    model, x = loaded(directory), inputs(recorded)
    expected = recorded["bart_separate/logits"] - body["final_logits_bias"]
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=2e-5)


def test_barts_of_old_versions_that_normalise_before(tmp_path, recorded):
    """mBARTs called themselves BARTs in transformers 2; version 4 has that arithmetic as mBART."""
    config = json.loads(str(recorded["configs"]))["mbart"]
    norms = {"normalize_before": True, "add_final_layer_norm": True}
    body = weights(recorded, "mbart")
    directory = write(tmp_path / "old", {**config, **norms, "model_type": "bart"}, body)
    model, x = loaded(directory), inputs(recorded)
    np.testing.assert_allclose(model(x), recorded["mbart/logits"], rtol=0, atol=2e-5)
    model.export_to_transformers(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == "mbart"
    np.testing.assert_array_equal(loaded(tmp_path / "new")(x), model(x))
    half = {**config, "model_type": "bart", "normalize_before": True}
    without = {key: v for key, v in body.items() if "coder.layer_norm" not in key}
    model = loaded(write(tmp_path / "half", half, without))
    with pytest.raises(ValueError, match="`add_final_layer_norm` False"):
        model.export_to_transformers(tmp_path / "none")
