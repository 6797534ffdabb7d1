"""`save_weights` and `load_weights`: one file, in Keras' layout or Hugging Face's."""

import h5py
import numpy as np
import pytest
from preset_helpers import GOLDEN, needs_golden
from tiny_models import tiny_backbone, tiny_model

import bart_fast
from bart_fast.models import BartSeq2SeqLM, Seq2SeqLM

FILES = ["x.weights.h5", "x.safetensors"]


def parameters(model):
    core = getattr(model, "backbone", model)._model
    return {name: core.get_parameter(name) for name, _ in core.parameters()}


def assert_same(left, right):
    left, right = parameters(left), parameters(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("make", [tiny_backbone, tiny_model])
@pytest.mark.parametrize("other", [tiny_backbone, tiny_model])
def test_weights_come_back_in_a_backbone_and_in_a_model(tmp_path, file, make, other):
    model, reader = make(seed=1), other(seed=2)
    path = tmp_path / "new" / file
    model.save_weights(path)
    assert [each.name for each in path.parent.iterdir()] == [file]
    reader.load_weights(str(path))
    assert_same(model, reader)


@needs_golden
def test_files_have_the_layout_that_keras_hub_writes(tmp_path):
    """Of the backbone as in the recorded preset; of the model as recorded from keras-hub 0.32."""
    model = BartSeq2SeqLM.from_preset(GOLDEN / "keras_tiny")
    model.backbone.save_weights(tmp_path / "backbone.weights.h5")
    model.save_weights(tmp_path / "model.weights.h5")

    def tree(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: dict(item.attrs)}))
        return found

    backbone = tree(GOLDEN / "keras_tiny" / "model.weights.h5")
    assert tree(tmp_path / "backbone.weights.h5") == backbone
    inner = {
        f"layers/bart_backbone/{name}": attributes
        for name, attributes in backbone.items()
        if not name.startswith("layers/input_layer")
    }
    inputs = [
        "decoder_padding_mask",
        "decoder_token_ids",
        "encoder_padding_mask",
        "encoder_token_ids",
    ]
    for place, name in enumerate(inputs):
        layer = "layers/input_layer" + (f"_{place}" if place else "")
        inner |= {layer: {}, f"{layer}/vars": {"name": name}}
    inner |= {"layers": {}, "layers/bart_backbone": {}, "vars": {"name": "bart_seq2_seq_lm"}}
    assert tree(tmp_path / "model.weights.h5") == inner


def test_the_state_of_an_optimizer_is_passed_over(tmp_path):
    model, reader = tiny_model(seed=1), tiny_model(seed=2)
    model.save_weights(tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5", "r+") as file:
        file["optimizer/vars/0"] = 3
    reader.load_weights(tmp_path / "x.weights.h5")
    assert_same(model, reader)
    with h5py.File(tmp_path / "x.weights.h5", "r+") as file:
        file["layers/another/vars/0"] = 3
    with pytest.raises(ValueError, match="not expected: layers/another/vars/0"):
        reader.load_weights(tmp_path / "x.weights.h5")


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_does_not_fit_changes_nothing(tmp_path, file):
    tiny_model(seed=1, num_layers=1).save_weights(tmp_path / file)
    reader, same = tiny_model(seed=2), tiny_model(seed=2)
    with pytest.raises(ValueError, match="missing"):
        reader.load_weights(tmp_path / file)
    (tmp_path / file).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=str(tmp_path)):
        reader.load_weights(tmp_path / file)
    assert_same(reader, same)


@pytest.mark.parametrize("file", FILES)
def test_a_failed_save_leaves_the_old_file(tmp_path, file, monkeypatch):
    model = tiny_model(seed=1)
    model.save_weights(tmp_path / file)
    before = (tmp_path / file).read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tiny_model(seed=2).save_weights(tmp_path / file)
    assert [each.name for each in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_bytes() == before


@pytest.mark.parametrize("file", FILES)
def test_weights_are_saved_while_training(tmp_path, file):
    model, pairs = tiny_model(), {"encoder_text": ["a fox"], "decoder_text": ["the fox"]}
    path = tmp_path / "epochs" / f"{{epoch:02d}}-{file}"
    callback = bart_fast.callbacks.ModelCheckpoint(path, save_weights_only=True)
    model.fit(pairs, epochs=2, verbose=0, callbacks=[callback])
    names = sorted(each.name for each in path.parent.iterdir())
    assert names == [f"01-{file}", f"02-{file}"]
    reader = tiny_model(seed=9)
    reader.load_weights(path.parent / names[1])
    assert_same(model, reader)


def test_arguments(tmp_path):
    model = tiny_model()
    for path in ("weights", tmp_path / "x.h5", "x.safetensor"):
        for method in (model.save_weights, model.load_weights, model.backbone.load_weights):
            with pytest.raises(ValueError, match=r"`filepath` must end in `\.weights\.h5` or"):
                method(path)
    model.save_weights(tmp_path / "x.safetensors")
    with pytest.raises(FileExistsError, match="`filepath` exists, and `overwrite` is False"):
        model.save_weights(tmp_path / "x.safetensors", overwrite=False)
    with pytest.raises(FileNotFoundError, match="`filepath`: there is no file"):
        model.load_weights(tmp_path / "y.safetensors")


def test_a_model_that_keras_has_no_layout_for(tmp_path):
    model = tiny_backbone(core_config={"decoder_layers": 1})
    with pytest.raises(ValueError, match="differs from `decoder_layers` 1") as caught:
        model.save_weights(tmp_path / "x.weights.h5")
    assert "hint: save to a file that ends in `.safetensors`" in str(caught.value)
    model.save_weights(tmp_path / "x.safetensors")
    reader = tiny_backbone(core_config={"decoder_layers": 1}, seed=9)
    reader.load_weights(tmp_path / "x.safetensors")
    assert_same(model, reader)
    # Keras' file says nothing of a bias of the logits: it is zero.
    biased = tiny_backbone(core_config={"final_logits_bias": True}, seed=9)
    tiny_backbone(seed=3).save_weights(tmp_path / "x.weights.h5")
    biased.load_weights(tmp_path / "x.weights.h5")
    assert not biased._model.get_parameter("final_logits_bias").any()
    np.testing.assert_array_equal(
        biased.token_embedding.embeddings, tiny_backbone(seed=3).token_embedding.embeddings
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(400)
def test_keras_hub_reads_and_writes_the_same_files(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    ours = Seq2SeqLM.from_preset(GOLDEN / "keras_tiny")
    theirs = keras_hub.models.BartSeq2SeqLM.from_preset(str(GOLDEN / "keras_tiny"))
    changed = tiny_change(ours)
    for mine, other in ((ours, theirs), (ours.backbone, theirs.backbone)):
        mine.save_weights(tmp_path / "ours.weights.h5")
        other.load_weights(str(tmp_path / "ours.weights.h5"))
        other.save_weights(str(tmp_path / "theirs.weights.h5"))
        back = Seq2SeqLM.from_preset(GOLDEN / "keras_tiny")
        back.load_weights(tmp_path / "theirs.weights.h5")
        assert_same(back, ours)
        assert not np.array_equal(parameters(back)["shared.weight"], changed)
    theirs.preprocessor.encoder_sequence_length = theirs.preprocessor.decoder_sequence_length = 8
    theirs.fit({"encoder_text": ["airplane"], "decoder_text": ["airport"]}, verbose=0)
    theirs.save_weights(str(tmp_path / "trained.weights.h5"))
    back.load_weights(tmp_path / "trained.weights.h5")
    theirs.save_to_preset(str(tmp_path / "trained"))
    assert_same(back, Seq2SeqLM.from_preset(tmp_path / "trained"))


def tiny_change(model):
    """Other weights than the preset has; returns a copy of what one of them was."""
    core = model.backbone._model
    before = core.get_parameter("shared.weight")
    core.set_parameters({"shared.weight": before * np.float32(1.5)})
    return before
