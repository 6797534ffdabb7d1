"""Sentencepiece vocabularies in `tokenizer.json`: ids, text, languages and answers are those of
Hugging Face's fast tokenizers and mBARTs (make_sentencepiece.py)."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from torch_files import save_safetensors

from bart_fast.models import (
    BartSeq2SeqLM,
    BartSeq2SeqLMPreprocessor,
    BartTextClassifier,
    BartTokenizer,
    Tokenizer,
    UnigramTokenizer,
)

RECORDED = Path(__file__).with_name("sentencepiece.npz")
NAMES = ("mbart", "mbart_50", "mbart_50_forced", "xlmr")
LANGUAGES = NAMES[:3]


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def cases(recorded):
    return json.loads(str(recorded["cases"]))


@pytest.fixture
def directory(request, recorded, cases, tmp_path):
    """A directory as transformers writes it."""
    name, folder = request.param, tmp_path / request.param
    folder.mkdir()
    for file in ("config.json", "tokenizer_config.json"):
        (folder / file).write_text(json.dumps(cases[name][file]))
    (folder / "tokenizer.json").write_text(cases[name]["tokenizer.json"])
    start = f"{name}/"
    tensors = {
        key.removeprefix(start): values.astype(np.float32)
        for key, values in recorded.items()
        if key.startswith(start)
    }
    save_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_ids_and_text_equal_hugging_face(directory, cases):
    case, texts = cases[directory.name], cases["texts"]
    tokenizer = Tokenizer.from_preset(directory)
    assert type(tokenizer) is UnigramTokenizer
    assert tokenizer(texts) == case["ids"]
    assert tokenizer.detokenize(case["rows"]) == case["decoded"]
    special = tokenizer.special_token_ids
    kept = [[id for id in row if id not in special] for row in case["rows"]]
    assert tokenizer.detokenize(kept) == case["decoded_without_special"]
    assert tokenizer.vocabulary_size() == case["config.json"]["vocab_size"]
    assert tokenizer.id_to_token(tokenizer.token_to_id("▁")) == "▁"
    starts = tokenizer.offsets("the  cat")[:, 0].tolist()
    assert starts == sorted(starts)
    preprocessor = BartSeq2SeqLMPreprocessor(tokenizer, 32, 32)
    arrays = preprocessor.generate_preprocess(texts)
    for ids, mask, source in zip(
        arrays["encoder_token_ids"], arrays["encoder_padding_mask"], case["sources"], strict=True
    ):
        assert ids[mask].tolist() == source


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_answers_and_loss_equal_hugging_face(directory, cases):
    case, texts = cases[directory.name], cases["texts"]
    model = BartSeq2SeqLM.from_preset(directory)
    model.compile(sampler="preset")
    language = model.preprocessor.tokenizer.target_language
    assert language == {"mbart": "ro_RO", "mbart_50_forced": "de_DE"}.get(directory.name)
    calls = {"greedy": {}, "beams": {"num_beams": 3}}
    if directory.name in LANGUAGES:
        french = model.preprocessor.tokenizer.token_to_id("fr_XX")
        calls["french"] = {"forced_bos_token_id": french}
    for call, settings in calls.items():
        output = model.generate(texts, return_dict_in_generate=True, **settings)
        assert output.texts == case["answers"][call], call
        assert ["".join(model.stream(text, **settings)) for text in texts] == output.texts
        for ids, mask, expected in zip(
            output.sequences, output.padding_mask, case["answer_ids"][call], strict=True
        ):
            answer = ids[mask].tolist()
            assert answer == expected[: len(answer)], call
            assert set(expected[len(answer) :]) <= {1}, call
    # Of labels the language is that of `tgt_lang`, where the tokenizer has languages.
    if directory.name in LANGUAGES:
        model.preprocessor.tokenizer.target_language = "fr_XX"
    arrays, labels, counts = model.preprocessor(
        {"encoder_text": texts[:2], "decoder_text": texts[:2]}, decoder_sequence_length=26
    )
    expected = np.array(case["labels"])
    np.testing.assert_array_equal(np.where(counts, labels, -100), expected)
    last = [row[row >= 0][-1] for row in expected]
    np.testing.assert_array_equal(arrays["decoder_token_ids"][:, 0], last)
    scores = model.score(texts[:2], texts[:2])
    assert -scores.logprobs.sum() / scores.mask.sum() == pytest.approx(case["loss"], abs=1e-5)


@pytest.mark.parametrize("directory", LANGUAGES, indirect=True)
def test_languages(directory, cases):
    model = BartSeq2SeqLM.from_preset(directory)
    model.compile(sampler="greedy")
    tokenizer = model.preprocessor.tokenizer
    fr, en = tokenizer.token_to_id("fr_XX"), tokenizer.token_to_id("en_XX")
    assert (tokenizer.source_language, "fr_XX" in tokenizer.languages) == ("en_XX", True)
    first, text = [], ["the cat"]
    for language in ("en_XX", "fr_XX"):
        tokenizer.source_language = language
        first.append(model.preprocessor.generate_preprocess(text, encoder_sequence_length=8))
    en_ids, fr_ids = (arrays["encoder_token_ids"][0].tolist() for arrays in first)
    assert [fr if id == en else id for id in en_ids] == fr_ids != en_ids
    # A language that is set, and one that a call forces.
    tokenizer.target_language = "fr_XX"
    opening = [fr] if directory.name == "mbart" else [tokenizer.end_token_id, fr]

    def ids(**settings):
        answers = model.generate(text, return_dict_in_generate=True, **settings)
        return answers.sequences[0, : len(opening)].tolist()

    assert ids() == opening
    start = cases[directory.name]["config.json"]["decoder_start_token_id"]
    de = tokenizer.token_to_id("de_DE")
    assert ids(forced_bos_token_id=de)[:2] == [start, de][: len(opening)]
    with pytest.raises(ValueError, match=r"`source_language` must be a language of the tokenizer"):
        tokenizer.source_language = "xx_XX"
    with pytest.raises(ValueError, match="`target_language` must be a language"):
        UnigramTokenizer(directory / "tokenizer.json", target_language="</s>")
    tokenizer.target_language, tokenizer.tokenizer_config = None, {}
    with pytest.raises(ValueError, match="`target_language` must be set for targets"):
        model.fit({"encoder_text": text, "decoder_text": text}, verbose=0)
    assert ids()[0] == start


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_files_and_copies_keep_the_tokenizer(directory, cases, tmp_path):
    texts = cases["texts"]
    model = BartSeq2SeqLM.from_preset(directory)
    tokenizer = model.preprocessor.tokenizer
    if directory.name in LANGUAGES:
        tokenizer.source_language, tokenizer.target_language = "de_DE", "fr_XX"
    tokenizer.sequence_length = 9
    expected = tokenizer(texts).tolist(), model.preprocessor.generate_preprocess(texts[0])
    model.export_to_transformers(tmp_path / "new")
    files = {path.name for path in (tmp_path / "new").iterdir()}
    assert "tokenizer.json" in files and "vocab.json" not in files
    again = BartSeq2SeqLM.from_preset(tmp_path / "new").preprocessor
    (tmp_path / "assets").mkdir()
    tokenizer.save_assets(tmp_path / "assets")
    made = BartSeq2SeqLMPreprocessor.from_config(model.preprocessor.get_config())
    made.tokenizer.load_assets(tmp_path / "assets")
    assert made.tokenizer(texts).tolist() == expected[0]
    for other in (
        again,
        pickle.loads(pickle.dumps(model)).preprocessor,
        copy.deepcopy(model).preprocessor,
    ):
        assert other.tokenizer(texts).tolist() == expected[0]
        assert other.tokenizer.source_language == tokenizer.source_language
        source = other.generate_preprocess(texts[0])["encoder_token_ids"]
        np.testing.assert_array_equal(source, expected[1]["encoder_token_ids"])
    saved = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    before = cases[directory.name]["tokenizer_config.json"]
    assert before.keys() <= saved.keys()
    with pytest.raises(ValueError, match=r"sentencepiece tokenizer.*\n.*export_to_transformers"):
        tokenizer.save_to_preset(tmp_path / "keras")


@pytest.mark.parametrize("directory", ["mbart"], indirect=True)
def test_what_is_no_tokenizer_json_of_sentencepiece(directory, tmp_path):
    with pytest.raises(ValueError, match="make another `UnigramTokenizer`"):
        UnigramTokenizer(directory / "tokenizer.json").set_vocabulary_and_merges({}, [])
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        UnigramTokenizer()("a")
    for wrong, message in (
        (3, "must be the name or the text"),
        ('{"model": 3}', "is no description of a tokenizer"),
        (
            '{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}}',
            "special tokens of BART",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            UnigramTokenizer(wrong)
    (directory / "tokenizer.json").rename(directory / "sentencepiece.bpe.model")
    for load in (BartSeq2SeqLM.from_preset, BartTokenizer.from_preset):
        with pytest.raises(ValueError, match=r"sentencepiece\.bpe\.model.*\n.*save_pretrained"):
            load(directory)
    assert BartSeq2SeqLM.from_preset(directory, preprocessor=None).preprocessor is None


@pytest.mark.parametrize("directory", NAMES, indirect=True)
def test_spans_of_answers_leave_the_markers_out(directory):
    """Templates differ in how many tokens stand before a text."""
    model = BartSeq2SeqLM.from_preset(directory)
    if "mbart" in directory.name:
        model.preprocessor.tokenizer.target_language = "fr_XX"
    tokenizer, text = model.preprocessor.tokenizer, "the cat"
    call = {"max_length": 6, "num_beams": 1, "return_dict_in_generate": True}
    output = model.generate(text, output_attentions=True, **call)
    arrays = model.preprocessor.generate_preprocess(text)
    ids = arrays["encoder_token_ids"][arrays["encoder_padding_mask"]]
    expected, offsets = tokenizer.tokenize(text).tolist(), tokenizer.offsets(text).tolist()
    for id, span in zip(ids.tolist(), output.source_offsets[0].tolist(), strict=True):
        if expected and id == expected[0]:
            assert span == offsets.pop(0)
            expected.pop(0)
        else:
            assert span == [0, 0]
    assert not expected


@pytest.mark.parametrize("directory", ["xlmr"], indirect=True)
def test_classifiers_read_byte_level_vocabularies(directory):
    with pytest.raises(ValueError, match="`tokenizer` must be a `BartTokenizer`"):
        BartTextClassifier.from_preset(directory, num_classes=2)
