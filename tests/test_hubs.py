"""Presets of the hubs: what is fetched, what the caches do, and what is said when a hub fails.

Both hubs are imitated on 127.0.0.1; a child process uses the hub's own package.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest
from loopback_hubs import child, hugging_face, kaggle
from preset_helpers import CONFIG, ArrayModel, task
from tiny_models import tiny_model

from bart_fast import presets
from bart_fast.models import BartBackbone, BartSeq2SeqLM, bart_presets

# Older versions of kagglehub call Kaggle in another way than is imitated here.
needs_kagglehub = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("kagglehub", "kagglesdk"))),
    reason="kagglehub 0.4 or newer is not installed",
)

# Starting the hubs' packages is most of the time here, and a busy machine takes long for it.
pytestmark = pytest.mark.timeout(400)

# What each preset answers, or the error that it ends in.
PROGRAM = """
import json, bart_fast
results = []
for name in {presets}:
    try:
        model = bart_fast.models.BartSeq2SeqLM.from_preset(name)
        model.compile(sampler="greedy")
        results.append([model.count_params(), model.generate("the whale")])
    except Exception as error:
        results.append(f"{{type(error).__name__}}: {{error}}")
print(json.dumps(results))
"""


def answers(names, home, *hubs, **options):
    """What each of the presets answers in a child process, and its standard error."""
    results, shown = child(PROGRAM.format(presets=names), home, *hubs, **options)
    assert results is not None, shown
    return results, shown


TEXT = [
    "config.json",
    "generation_config.json",
    "merges.txt",
    "tokenizer_config.json",
    "vocab.json",
]


@pytest.fixture(scope="module")
def model() -> BartSeq2SeqLM:
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model):
    return [model.count_params(), model.generate("the whale")]


@pytest.fixture(scope="module")
def transformers_folder(model, tmp_path_factory) -> Path:
    """A repository as many are: one model in several formats, and pictures."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    model.export_to_transformers(folder)
    for name in ("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "README.md", "a.png"):
        (folder / name).write_bytes(b"something else")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"something else")
    return folder


@pytest.fixture(scope="module")
def keras_folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "preset"
    model.save_to_preset(folder)
    return folder


@pytest.fixture
def hf(transformers_folder):
    with hugging_face() as hub:
        hub.repositories["someone/some-bart", "main"] = transformers_folder
        yield hub


@pytest.fixture
def kg(keras_folder):
    with kaggle() as hub:
        hub.repositories["someone/bart/keras/some_bart", "2"] = keras_folder
        yield hub


# Hugging Face.


def test_needed_files_are_fetched_once(hf, tmp_path, expected):
    names = ["hf://someone/some-bart", "someone/some-bart"]
    found, shown = answers(names, tmp_path, hf.url)
    assert found == [expected] * 2
    assert "%" in shown  # Progress.
    assert sum(line.startswith("FILE") for line in hf.asked) == len([*TEXT, "model.safetensors"])
    assert hf.files() == sorted([*TEXT, "model.safetensors"])
    # From the cache: without a hub, and told to do without.
    assert answers(names[1:], tmp_path)[0] == [expected]
    assert answers(names[:1], tmp_path, hf.url, HF_HUB_OFFLINE="1")[0] == [expected]
    assert hf.asked == []


def test_sentencepiece_alone_is_named(hf, transformers_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(transformers_folder, folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(b"not read")
    hf.repositories["someone/some-bart", "main"] = folder
    (failure,), _ = answers(["someone/some-bart"], tmp_path, hf.url)
    assert "sentencepiece.bpe.model`: a sentencepiece model is read from a `tok" in failure


def test_a_tokenizer_and_random_weights_need_no_weights(hf, tmp_path):
    program = """
import json, bart_fast
name = "someone/some-bart"
lengths = bart_fast.models.Seq2SeqLMPreprocessor.from_preset(name).encoder_sequence_length
tokenizer = bart_fast.tokenizers.Tokenizer.from_preset(name)
backbone = bart_fast.models.Backbone.from_preset(name, load_weights=False)
print(json.dumps([lengths, len(tokenizer("whale")), backbone.count_params()]))
"""
    answer, shown = child(program, tmp_path, hf.url)
    assert answer == [16, 5, tiny_model().count_params()], shown
    assert hf.files() == TEXT
    # What is missing is named when it cannot be had, and fetched when it can.
    (failure,), _ = answers(["someone/some-bart"], tmp_path)
    assert failure.startswith(
        "ConnectionError: `preset`: hf://someone/some-bart could not be fetch"
    )
    assert "its cache does not hold all of it" in failure
    (answer,), _ = answers(["someone/some-bart"], tmp_path, hf.url)
    assert isinstance(answer, list)
    assert hf.files() == ["model.safetensors"]


def test_a_revision_is_asked_for(hf, tmp_path, keras_folder, expected):
    hf.repositories["someone/some-bart", "v1/keras"] = keras_folder
    name = "someone/some-bart@v1/keras"
    found, shown = answers([name, "someone/some-bart@v2"], tmp_path, hf.url)
    assert found[0] == expected, shown
    assert found[1] == (
        "ValueError: `preset`: the Hugging Face hub has no revision 'v2' of 'someone/some-bart'."
    )
    fetched = hf.files()
    assert "model.weights.h5" in fetched
    assert "metadata.json" not in fetched
    found, shown = answers([f"hf://{name}"], tmp_path, HF_HUB_OFFLINE="1")
    assert found == [expected], shown


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "x.safetensors"],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors"],
        ),
        (["pytorch_model.bin", "flax_model.msgpack", "rust_model.ot"], ["pytorch_model.bin"]),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        ),
        (
            ["model.weights.json", "model_00000.weights.h5", "metadata.json", "model.safetensors"],
            ["model.weights.json", "model_00000.weights.h5"],
        ),
        (["model.weights.h5", "model.safetensors"], ["model.safetensors"]),
        (["tf_model.h5"], []),
    ],
)
def test_which_weights_are_fetched(names, weights):
    from bart_fast.presets.hugging_face import _needed

    assert _needed(["config.json", *names], True) == ["config.json", *weights]
    assert _needed(["config.json", *names], False) == ["config.json"]


def test_what_the_hub_does_not_have(hf, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    hf.repositories["some/pictures", "main"] = tmp_path / "pictures"
    hf.broken.add("model.safetensors")
    names = ["some/where", "some/pictures", "someone/some-bart"]
    found, _ = answers(names, tmp_path, hf.url)
    for failure, start in zip(
        found,
        (
            "ValueError: `preset`: the Hugging Face hub has no public repository 'some/where'",
            "ValueError: `preset`: hf://some/pictures holds neither `config.json` nor",
            "ConnectionError: `preset`: hf://someone/some-bart could not be fetched",
        ),
        strict=True,
    ):
        assert failure.startswith(start)


@pytest.mark.parametrize("name", ["a/b@../../c", "a/b@", "a/b@c/../d", "a/../b", "../a", "a/b/c"])
def test_names_that_lead_elsewhere(name):
    for handle in (name, f"hf://{name}"):
        with pytest.raises(ValueError, match="`preset` must be one of"):
            presets.load_preset(handle)


# Kaggle.


@needs_kagglehub
def test_kaggle_files_are_fetched_once(kg, tmp_path, expected):
    newest, second = (f"kaggle://someone/bart/keras/some_bart{end}" for end in ("", "/2"))
    found, shown = answers([newest, second], tmp_path, kaggle=kg.url)
    assert found == [expected] * 2, shown
    assert sum(line.startswith("INFO") for line in kg.asked) == 1
    assert len(kg.asked) == 1 + 7
    assert kg.files() == [
        "assets/tokenizer/merges.txt",
        "assets/tokenizer/vocabulary.json",
        "config.json",
        "model.weights.h5",
        "preprocessor.json",
        "task.json",
        "tokenizer.json",
    ]
    # A version that is in the cache needs nobody.
    found, shown = answers([second, newest], tmp_path)
    assert found[0] == expected
    assert "cannot be asked" not in shown
    assert found[1].startswith("ConnectionError: `preset`: `config.json` of 'kaggle://someone/bart")
    assert "hint: connect once (without a version in its name Kaggle is asked each" in found[1]


@needs_kagglehub
def test_only_answers_go_to_standard_output(kg, tmp_path):
    program = """
import contextlib, io, json
from bart_fast import cli
out = io.StringIO()
with contextlib.redirect_stdout(out):
    status = cli.main(["--preset", "kaggle://someone/bart/keras/some_bart/2", "the whale"])
print(json.dumps([status, out.getvalue()]))
"""
    (status, printed), shown = child(program, tmp_path, kaggle=kg.url)
    assert status == 0, shown
    assert len(printed.splitlines()) == 1
    assert "Downloading" in shown


@needs_kagglehub
def test_kaggle_shards_and_what_a_preset_may_lack(kg, tmp_path):
    folder = tmp_path / "older"
    model = ArrayModel(CONFIG, seed=3)
    presets.save_keras_preset(folder, task=task(model), max_shard_size=4000 / 1024**3)
    for name in ("task.json", "preprocessor.json"):
        (folder / name).unlink()
    kg.repositories["someone/bart/keras/older", "1"] = folder
    program = """
import json, bart_fast
tokenizer = bart_fast.models.BartTokenizer.from_preset("kaggle://someone/bart/keras/older/1")
print(json.dumps(tokenizer.vocabulary_size()))
"""
    answer, shown = child(program, tmp_path, kaggle=kg.url)
    assert answer == 8, shown
    assert not [name for name in kg.files() if "weights" in name]
    program = """
import json, bart_fast
backbone = bart_fast.models.BartBackbone.from_preset("kaggle://someone/bart/keras/older/1")
print(json.dumps(float(backbone.token_embedding.embeddings.sum())))
"""
    answer, shown = child(program, tmp_path, kaggle=kg.url)
    assert answer == pytest.approx(float(model.values["shared.weight"].sum()), rel=1e-6), shown
    shards = [path.name for path in folder.glob("model_*.weights.h5")]
    assert kg.files() == sorted(["model.weights.json", *shards])
    # Without Kaggle nobody knows whether there is a task.json: it goes on, and says so.
    answer, shown = child(program, tmp_path)
    assert answer is not None, shown
    assert "Kaggle cannot be asked whether 'kaggle://someone/bart/keras/older/1' has" in shown
    assert "`preprocessor.json`, `task.json`; it goes without" in shown


@needs_kagglehub
def test_what_kaggle_does_not_have(kg, tmp_path):
    kg.broken.update(["preprocessor.json", "model.weights.h5"])
    names = ["kaggle://no/such/keras/model/1", "kaggle://someone/bart/keras/some_bart/2"]
    found, shown = answers(names, tmp_path, kaggle=kg.url)
    assert found[0].startswith("ValueError: `preset`: Kaggle has no public Keras preset")
    # Out of order is not the same as absent.
    assert "has `preprocessor.json`; it goes without" in shown
    assert found[1].startswith("ConnectionError: `preset`: `model.weights.h5` of")


@pytest.mark.parametrize("name", ["keras/bart", "a/b/pytorch/c/1", "a/b/keras/c/x", "a/../keras/c"])
def test_malformed_kaggle_handles(name):
    with pytest.raises(ValueError, match="must be 'kaggle://user/model/keras/name'") as caught:
        presets.load_preset(f"kaggle://{name}")
    assert f"Received: 'kaggle://{name}'" in str(caught.value)


# Built-in names.


def test_built_in_presets_say_what_they_are():
    found = BartBackbone.presets
    assert list(found) == ["bart_tidy_en", "bart_base_en", "bart_large_en", "bart_large_en_cnn"]
    millions = [round(entry["metadata"]["params"] / 1e6, 2) for entry in found.values()]
    assert millions[1:] == [139.42, 406.29, 406.29]
    assert (
        BartBackbone.from_preset("bart_tidy_en", load_weights=False).count_params()
        == (found["bart_tidy_en"]["metadata"]["params"])
    )
    for name, entry in found.items():
        assert entry["metadata"]["description"]
        assert entry["metadata"]["path"] == "bart"
        if name != "bart_tidy_en":
            assert entry["kaggle_handle"] == f"kaggle://keras/bart/keras/{name}/3"
            assert entry["sources"][0] == entry["kaggle_handle"]
    assert [entry["sources"][-1] for entry in found.values()] == [
        "package://bart_tidy_en",
        "hf://facebook/bart-base",
        "hf://facebook/bart-large",
        "hf://facebook/bart-large-cnn",
    ]
    # What is handed out is a copy.
    found["bart_base_en"]["metadata"].clear()
    assert bart_presets.backbone_presets["bart_base_en"]["metadata"]["params"] == 139417344


@needs_kagglehub
def test_a_built_in_name_falls_back_and_says_so(
    hf, kg, tmp_path, keras_folder, transformers_folder, expected
):
    name = ["bart_base_en"]
    # Neither has it.
    (failure,), _ = answers(name, tmp_path, hf.url, kg.url)
    assert failure.startswith(
        "ConnectionError: `preset` 'bart_base_en' could not be fetched from any of its sources:"
        "\n  kaggle://keras/bart/keras/bart_base_en/3: Kaggle has no public"
    )
    assert "\n  hf://facebook/bart-base: the Hugging Face hub has no public" in failure
    assert failure.endswith("\nhint: connect once, or pass a local directory")
    # The second has it: once with the first failing, once without its package.
    hf.repositories["facebook/bart-base", "main"] = transformers_folder
    told = "`bart_base_en` comes from hf://facebook/bart-base (not from kaggle://keras/bart/keras/"
    found, shown = answers(name * 2, tmp_path, hf.url, kg.url)
    assert found == [expected] * 2, shown
    assert shown.count(told) == 1
    found, shown = answers(name, tmp_path, hf.url, kg.url, without=["kagglehub"])
    assert found == [expected], shown
    assert told in shown
    assert "needs the package `kagglehub`" in shown
    # The first has it.
    kg.repositories["keras/bart/keras/bart_base_en", "3"] = keras_folder
    hf.asked.clear()
    found, shown = answers(name, tmp_path, hf.url, kg.url)
    assert found == [expected], shown
    assert "comes from" not in shown
    assert "config.json" in kg.files()
    assert hf.asked == []


def test_without_any_hub_package(tmp_path):
    missing = ["kagglehub", "huggingface_hub"]
    found, _ = answers(["bart_large_en", "a/b"], tmp_path, without=missing)
    for part in (
        "could not be fetched from any of its sources",
        "needs the package `kagglehub`",
        "needs the package `huggingface_hub`",
        "hint: pip install kagglehub; or pip install huggingface_hub",
    ):
        assert part in found[0]
    assert found[1].startswith(
        "ImportError: `preset`: hf://a/b needs the package `huggingface_hub`"
    )
