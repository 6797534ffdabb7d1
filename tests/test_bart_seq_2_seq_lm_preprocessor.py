"""`BartSeq2SeqLMPreprocessor`: arrays for training and generation, the way back, refusals."""

import json

import numpy as np
import pytest

from bart_fast.models import BartSeq2SeqLMPreprocessor, BartTokenizer

VOCABULARY = {"<s>": 0, "<pad>": 1, "</s>": 2, "Ġafter": 5, "noon": 6, "Ġsun": 7}
MERGES = ["Ġ a", "Ġ s", "n o", "o n", "Ġs u", "Ġa f", "no on", "Ġsu n", "Ġaf t", "e r", "Ġaft er"]

ARRAYS = (
    "encoder_token_ids",
    "encoder_padding_mask",
    "decoder_token_ids",
    "decoder_padding_mask",
)


@pytest.fixture
def preprocessor():
    return BartSeq2SeqLMPreprocessor(BartTokenizer(VOCABULARY, MERGES), 6, 5)


def lists(arrays):
    return {key: array.tolist() for key, array in arrays.items()}


def real(ids, mask):
    """The ids at unmasked positions, which must be the first ones."""
    assert mask == sorted(mask, reverse=True)
    return ids[: sum(mask)], ids[sum(mask) :]


class TestGolden:
    """Against what keras-hub made of the texts that its README and golden.npz record."""

    # The texts of `fit_x`; those of `tok_json` are its sources.
    TARGETS = (" airplane airport", " at", " air", "", " airport at airplane")

    @pytest.fixture
    def golden_preprocessor(self, keras_tiny):
        tokenizer = BartTokenizer()
        tokenizer.load_assets(keras_tiny / "assets" / "tokenizer")
        return BartSeq2SeqLMPreprocessor(tokenizer, 12, 10)

    @pytest.fixture
    def texts(self, keras_golden):
        sources = json.loads(str(keras_golden["tok_json"]))["texts"]
        return {"encoder_text": sources, "decoder_text": list(self.TARGETS)}

    def assert_equal(self, ours, golden, prefix):
        for key in ARRAYS:
            theirs = golden[f"{prefix}/{key}"]
            assert ours[key].dtype == theirs.dtype
            np.testing.assert_array_equal(ours[key], theirs, err_msg=f"{prefix}/{key}")

    def test_training(self, golden_preprocessor, keras_golden, texts):
        x, y, sample_weight = golden_preprocessor(texts)
        self.assert_equal(x, keras_golden, "fit_x")
        for ours, name in ((y, "fit_y"), (sample_weight, "fit_sample_weight")):
            assert ours.dtype == keras_golden[name].dtype
            np.testing.assert_array_equal(ours, keras_golden[name])

    def test_generation(self, golden_preprocessor, keras_golden, texts):
        alone = golden_preprocessor.generate_preprocess(texts["encoder_text"])
        self.assert_equal(alone, keras_golden, "gen_in")
        prompted = golden_preprocessor.generate_preprocess(texts)
        self.assert_equal(prompted, keras_golden, "gen_in_prompt")

    def test_back_to_text(self, golden_preprocessor, keras_golden):
        strings = json.loads(str(keras_golden["strings_json"]))["greedy_str"]
        generated = {
            key: keras_golden[f"greedy/gen/stop0/{key}"]
            for key in ("decoder_token_ids", "decoder_padding_mask")
        }
        # The strings were generated for the first sources only.
        assert golden_preprocessor.generate_postprocess(generated)[: len(strings)] == strings


class TestTraining:
    @pytest.mark.parametrize(
        ("source", "target", "source_ids", "decoder_ids", "labels"),
        [
            # Each: the real ids; the rest must be padding.
            (" afternoon sun", "noon sun", [0, 5, 6, 7, 2], [2, 0, 6, 7, 2], [0, 6, 7, 2]),
            ("", "", [0, 2], [2, 0, 2], [0, 2]),
            # One too long for either side: the text is cut, the markers stay.
            (" sun" * 5, "noon" * 4, [0, 7, 7, 7, 7, 2], [2, 0, 6, 6, 6], [0, 6, 6, 6, 2]),
            # Exactly full.
            (" sun" * 4, "noon" * 3, [0, 7, 7, 7, 7, 2], [2, 0, 6, 6, 6], [0, 6, 6, 6, 2]),
        ],
    )
    def test_markers_cuts_and_padding(
        self, preprocessor, source, target, source_ids, decoder_ids, labels
    ):
        x, y, sample_weight = preprocessor({"encoder_text": source, "decoder_text": target})
        x = lists(x)
        for ids, mask, expected, width in (
            (x["encoder_token_ids"], x["encoder_padding_mask"], source_ids, 6),
            (x["decoder_token_ids"], x["decoder_padding_mask"], decoder_ids, 5),
            (y.tolist(), sample_weight.tolist(), labels, 5),
        ):
            found, padding = real(ids, mask)
            assert found == expected
            assert len(ids) == width and set(padding) <= {1}

    @pytest.mark.parametrize(
        "wrap", [list, tuple, np.array, lambda texts: [text.encode() for text in texts]]
    )
    def test_batches(self, preprocessor, wrap):
        sources, targets = [" sun", " afternoon"], ["noon", ""]
        x, y, sample_weight = preprocessor(
            {"encoder_text": wrap(sources), "decoder_text": wrap(targets)}
        )
        for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
            one_x, one_y, one_weight = preprocessor(
                {"encoder_text": source, "decoder_text": target}
            )
            for key in ARRAYS:
                np.testing.assert_array_equal(x[key][row], one_x[key])
            np.testing.assert_array_equal(y[row], one_y)
            np.testing.assert_array_equal(sample_weight[row], one_weight)

    def test_empty_batch(self, preprocessor):
        x, y, sample_weight = preprocessor({"encoder_text": [], "decoder_text": []})
        shapes = [x[key].shape for key in ARRAYS] + [y.shape, sample_weight.shape]
        assert shapes == [(0, 6), (0, 6), (0, 5), (0, 5), (0, 5), (0, 5)]

    def test_labels_do_not_share_memory_with_inputs(self, preprocessor):
        x, y, _ = preprocessor({"encoder_text": ["noon"], "decoder_text": ["noon"]})
        y[:] = 0
        assert x["decoder_token_ids"].tolist() == [[2, 0, 6, 2, 1]]

    def test_labels_and_weights_given_are_ignored(self, preprocessor):
        x = {"encoder_text": "noon", "decoder_text": "noon"}
        expected = preprocessor(x)[1].tolist()
        for given in ((x, "y"), (x, "y", "weight")):
            assert preprocessor(given)[1].tolist() == expected
            assert preprocessor(*given)[1].tolist() == expected
            assert preprocessor.call(*given)[1].tolist() == expected


class TestGeneration:
    @pytest.mark.parametrize("inputs", [" sun", b" sun", np.str_(" sun"), np.array(" sun")])
    def test_one_string_has_no_batch_axis(self, preprocessor, inputs):
        for x in (inputs, {"encoder_text": inputs}, {"encoder_text": inputs, "decoder_text": ""}):
            assert lists(preprocessor.generate_preprocess(x)) == {
                "encoder_token_ids": [0, 7, 2, 1, 1, 1],
                "encoder_padding_mask": [True, True, True, False, False, False],
                "decoder_token_ids": [2, 0, 1, 1, 1],
                "decoder_padding_mask": [True, True, False, False, False],
            }

    @pytest.mark.parametrize("wrap", [list, tuple, np.array])
    def test_many(self, preprocessor, wrap):
        x = preprocessor.generate_preprocess(wrap([" sun", "noon noon"]))
        assert x["encoder_token_ids"].tolist() == [[0, 7, 2, 1, 1, 1], [0, 6, 6, 2, 1, 1]]
        assert x["decoder_token_ids"].shape == (2, 5)

    @pytest.mark.parametrize(
        ("prompt", "ids"),
        [("", [2, 0]), ("noon sun", [2, 0, 6, 7]), ("noon" * 9, [2, 0, 6, 6, 6])],
    )
    def test_prompts_stay_open(self, preprocessor, prompt, ids):
        x = preprocessor.generate_preprocess({"encoder_text": "noon", "decoder_text": prompt})
        x = lists(x)
        found, padding = real(x["decoder_token_ids"], x["decoder_padding_mask"])
        assert found == ids and len(found + padding) == 5 and set(padding) <= {1}

    @pytest.mark.filterwarnings("ignore:the end of 1 of 3 texts is left out, 5 tokens")
    def test_ragged_rows_are_the_real_part_of_the_arrays(self, preprocessor):
        x = {"encoder_text": [" sun", "noon" * 9, ""], "decoder_text": ["noon", "", " sun" * 9]}
        for rows, arrays in (
            (preprocessor._generate_rows(x, 6, 5), preprocessor.generate_preprocess(x)),
            # One id longer than the decoder's input, whose last it is the label of.
            (preprocessor._fit_rows(x, 6, 4), preprocessor(x, sequence_length=4)[0]),
        ):
            sources, targets, batched = rows
            assert batched
            arrays = lists(arrays)
            for index in range(3):
                ids, mask = (
                    arrays[f"encoder_{key}"][index] for key in ("token_ids", "padding_mask")
                )
                assert real(ids, mask)[0] == sources[index]
                ids, mask = (
                    arrays[f"decoder_{key}"][index] for key in ("token_ids", "padding_mask")
                )
                assert real(ids, mask)[0] == targets[index][: len(ids)]

    @pytest.mark.parametrize(
        ("ids", "mask", "text"),
        [
            ([2, 0, 6, 7, 2, 6], [1, 1, 1, 1, 1, 0], "noon sun"),
            ([2, 0, 6, 7], [True] * 4, "noon sun"),
            ([2, 0, 1], [1, 1, 1], ""),
            ([6, 3, 50000, 7], [1] * 4, "noon sun"),  # ids that only the model has
            ([[6, 7], [5, 1]], [[1, 0], [1, 1]], ["noon", " after"]),
            (np.zeros((0, 4), int), np.zeros((0, 4), bool), []),
        ],
    )
    def test_back_to_text(self, preprocessor, ids, mask, text):
        x = {"decoder_token_ids": np.array(ids), "decoder_padding_mask": np.array(mask)}
        assert preprocessor.generate_postprocess(x) == text


class TestLengths:
    def test_defaults(self):
        preprocessor = BartSeq2SeqLMPreprocessor(BartTokenizer(VOCABULARY, MERGES))
        assert preprocessor.encoder_sequence_length == preprocessor.decoder_sequence_length == 1024

    def test_set_afterwards(self, preprocessor):
        preprocessor.encoder_sequence_length = 3
        preprocessor.sequence_length = 4
        assert preprocessor.decoder_sequence_length == preprocessor.sequence_length == 4
        x = preprocessor.generate_preprocess("noon")
        assert (x["encoder_token_ids"].shape, x["decoder_token_ids"].shape) == ((3,), (4,))

    @pytest.mark.parametrize("method", ["call", "generate_preprocess"])
    @pytest.mark.parametrize(
        ("lengths", "shapes"),
        [
            ({}, (6, 5)),
            ({"encoder_sequence_length": 9}, (9, 5)),
            ({"decoder_sequence_length": 9}, (6, 9)),
            ({"sequence_length": 2}, (6, 2)),
            ({"decoder_sequence_length": 8, "sequence_length": 9}, (6, 8)),
        ],
    )
    def test_passed(self, preprocessor, method, lengths, shapes):
        texts = {"encoder_text": "noon", "decoder_text": "noon"}
        x = getattr(preprocessor, method)(texts, **lengths)
        x = x[0] if method == "call" else x
        assert (len(x["encoder_token_ids"]), len(x["decoder_token_ids"])) == shapes
        assert preprocessor.sequence_length == 5

    @pytest.mark.parametrize("value", [1, 0, -1, 2.5, "5", True])
    @pytest.mark.parametrize(
        "name", ["encoder_sequence_length", "decoder_sequence_length", "sequence_length"]
    )
    def test_refused(self, preprocessor, name, value):
        for use in (
            lambda: preprocessor.generate_preprocess("noon", **{name: value}),
            lambda: preprocessor({"encoder_text": "noon", "decoder_text": "noon"}, **{name: value}),
            lambda: setattr(preprocessor, name, value),
        ):
            with pytest.raises(ValueError, match=rf"{name}` must be a whole number of at least 2"):
                use()


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "part"),
        [
            ("noon", "`x` must be a dict"),
            (["noon"], "`x` must be a dict"),
            (None, "`x` must be a dict"),
            ({"encoder_text": "noon"}, "Received the keys: 'encoder_text'."),
            ({"decoder_text": "noon"}, "Received the keys: 'decoder_text'."),
            ({}, "Received the keys: none."),
            ({"encoder_text": "a", "decoder_text": "a", "text": "a"}, "'text'"),
            ({"encoder_text": "a", "decoder_text": ["a"]}, "1 strings for one string"),
            ({"encoder_text": ["a", "b"], "decoder_text": ["a"]}, "1 strings for 2 strings"),
            ({"encoder_text": 5, "decoder_text": "a"}, "`encoder_text` must be a string"),
            ({"encoder_text": "a", "decoder_text": None}, "`decoder_text` must be a string"),
            ({"encoder_text": b"\xff", "decoder_text": "a"}, "`encoder_text` must be UTF-8"),
        ],
    )
    def test_training(self, preprocessor, x, part):
        with pytest.raises(ValueError) as caught:
            preprocessor(x)
        assert part in str(caught.value)

    @pytest.mark.parametrize(
        ("x", "part"),
        [
            (5, "`x` must be a string"),
            ({"decoder_text": "a"}, "Received the keys: 'decoder_text'."),
            ({"encoder_text": ["a"], "decoder_text": []}, "0 strings for 1 strings"),
            ({"encoder_text": "a\ud800"}, "`encoder_text` must be valid Unicode"),
            ("a\ud800", "`x` must be valid Unicode"),
        ],
    )
    def test_generation(self, preprocessor, x, part):
        with pytest.raises(ValueError) as caught:
            preprocessor.generate_preprocess(x)
        assert part in str(caught.value)

    @pytest.mark.parametrize(
        "x",
        [
            {"decoder_token_ids": [0]},
            {"decoder_token_ids": [0, 1], "decoder_padding_mask": [True]},
            {"decoder_token_ids": 0, "decoder_padding_mask": True},
            {"decoder_token_ids": [0.5], "decoder_padding_mask": [True]},
            [0],
        ],
    )
    def test_back_to_text(self, preprocessor, x):
        with pytest.raises(ValueError, match="decoder_padding_mask"):
            preprocessor.generate_postprocess(x)

    def test_no_tokenizer(self):
        with pytest.raises(ValueError, match="`tokenizer` must be a `BartTokenizer`"):
            BartSeq2SeqLMPreprocessor(None)

    def test_no_vocabulary_yet(self):
        preprocessor = BartSeq2SeqLMPreprocessor(BartTokenizer())
        generated = {"decoder_token_ids": [0], "decoder_padding_mask": [True]}
        with pytest.raises(ValueError, match="no vocabulary yet"):
            preprocessor.generate_preprocess("noon")
        with pytest.raises(ValueError, match="no vocabulary yet"):
            preprocessor.generate_postprocess(generated)


def test_config(preprocessor):
    config = preprocessor.get_config()
    again = BartSeq2SeqLMPreprocessor.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    assert (again.encoder_sequence_length, again.decoder_sequence_length) == (6, 5)
    with_object = BartSeq2SeqLMPreprocessor.from_config(
        {**config, "tokenizer": preprocessor.tokenizer}
    )
    assert with_object.tokenizer is preprocessor.tokenizer
    assert repr(with_object) == (
        "<BartSeq2SeqLMPreprocessor name=bart_seq2_seq_lm_preprocessor lengths=6/5>"
    )


def test_config_written_by_keras(keras_tiny):
    config = json.loads((keras_tiny / "preprocessor.json").read_text())["config"]
    preprocessor = BartSeq2SeqLMPreprocessor.from_config(config)
    assert preprocessor.encoder_sequence_length == 1024  # keras-hub does not write it
    assert preprocessor.tokenizer.vocabulary is None


@pytest.mark.parametrize("name", ["keras_tiny", "hf_tiny"])
def test_from_preset(shared, name):
    path = shared("golden") / name
    preprocessor = BartSeq2SeqLMPreprocessor.from_preset(path, encoder_sequence_length=7)
    x = preprocessor.generate_preprocess(" airplane", sequence_length=3)
    assert x["encoder_token_ids"].tolist() == [3, 27, 18, 0, 2, 2, 2]
    assert x["decoder_token_ids"].tolist() == [0, 3, 2]


def test_lengths_are_saved(preprocessor, tmp_path):
    preprocessor.save_to_preset(tmp_path / "preset")
    again = BartSeq2SeqLMPreprocessor.from_preset(tmp_path / "preset")
    assert again.get_config() == preprocessor.get_config()
    assert again.tokenizer.vocabulary == VOCABULARY
    own = BartTokenizer({**VOCABULARY, "Ġ": 8}, MERGES)
    chosen = BartSeq2SeqLMPreprocessor.from_preset(tmp_path / "preset", tokenizer=own)
    assert chosen.tokenizer is own
