"""`BartTokenizer`: files, presets, configuration, copies."""

import copy
import json
import pickle

import pytest
from page_vocabulary import PAGE_MERGES, PAGE_VOCABULARY, SPECIAL

from bart_fast.models import BartTokenizer


@pytest.fixture(scope="module")
def page():
    return BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES)


class TestFiles:
    def test_written_as_keras_hub_does(self, keras_tiny, tmp_path):
        assets = keras_tiny / "assets" / "tokenizer"
        tokenizer = BartTokenizer()
        tokenizer.load_assets(assets)
        tokenizer.save_assets(tmp_path)
        for name in ("vocabulary.json", "merges.txt"):
            assert (tmp_path / name).read_bytes() == (assets / name).read_bytes()

    def test_header_and_line_ends(self, tmp_path):
        path = tmp_path / "merges.txt"
        path.write_bytes("\r\n".join(["#version: 0.2", *PAGE_MERGES, ""]).encode())
        tokenizer = BartTokenizer(PAGE_VOCABULARY, path)
        assert tokenizer.merges == PAGE_MERGES
        assert tokenizer(" after").tolist() == [5]

    @pytest.mark.parametrize("argument", ["vocabulary", "merges"])
    def test_absent(self, argument, tmp_path):
        arguments = {"vocabulary": PAGE_VOCABULARY, "merges": PAGE_MERGES}
        with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
            BartTokenizer(**{**arguments, argument: str(tmp_path / "absent.txt")})
        with pytest.raises(IsADirectoryError):
            BartTokenizer(**{**arguments, argument: tmp_path})

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
    def test_bad_vocabulary(self, content, tmp_path):
        path = tmp_path / "vocab.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^`.*vocab\.json` "):
            BartTokenizer(path, [])

    def test_bad_merges(self, tmp_path):
        path = tmp_path / "merges.txt"
        path.write_bytes(b"\xff \xfe\n")
        with pytest.raises(ValueError, match=r"^`.*merges\.txt` is not UTF-8"):
            BartTokenizer(SPECIAL, path)


class TestPresets:
    @pytest.mark.parametrize("name", ["keras_tiny", "hf_tiny", "hf_tiny_asym"])
    def test_read(self, shared, name):
        tokenizer = BartTokenizer.from_preset(str(shared("golden") / name), sequence_length=3)
        assert tokenizer(" airplane").tolist() == [27, 18, 2]
        assert tokenizer.vocabulary_size() == 33

    def test_round_trip(self, tmp_path):
        tokenizer = BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES, 7, True, ["noon"])
        tokenizer.save_to_preset(tmp_path / "preset")
        again = BartTokenizer.from_preset(tmp_path / "preset")
        assert again.get_config() == tokenizer.get_config()
        assert (again.vocabulary, again.merges) == (PAGE_VOCABULARY, PAGE_MERGES)

    def test_nothing_to_save(self, tmp_path):
        with pytest.raises(ValueError, match="no vocabulary yet"):
            BartTokenizer().save_to_preset(tmp_path / "preset")
        assert not (tmp_path / "preset").exists()


class TestConfig:
    def test_round_trip(self):
        tokenizer = BartTokenizer(
            PAGE_VOCABULARY, PAGE_MERGES, 7, True, ["noon"], "int64", name="mine", trainable=False
        )
        config = tokenizer.get_config()
        assert config == {
            "name": "mine",
            "trainable": False,
            "dtype": "int64",
            "config_file": "tokenizer.json",
            "sequence_length": 7,
            "add_prefix_space": True,
            "unsplittable_tokens": ["noon"],
        }
        again = BartTokenizer.from_config(json.loads(json.dumps(config)))
        assert again.get_config() == config and again.vocabulary is None

    def test_written_by_keras(self, keras_tiny):
        config = json.loads((keras_tiny / "tokenizer.json").read_text())["config"]
        tokenizer = BartTokenizer.from_config(config)
        assert tokenizer.dtype == "int32"
        assert set(tokenizer.unsplittable_tokens) == {"<s>", "</s>", "<pad>"}
        tokenizer.load_assets(keras_tiny / "assets" / "tokenizer")
        assert tokenizer(" airplane").tolist() == [27, 18]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("sequence_length", 0),
            ("sequence_length", 1.5),
            ("dtype", "float32"),
            ("dtype", 5),
            ("unsplittable_tokens", [5]),
            ("unsplittable_tokens", [""]),
        ],
    )
    def test_refused(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}`"):
            BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES, **{name: value})

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
    def test_copies(self, page, copied):
        again = copied(page)
        assert again(" after").tolist() == [5]
        assert again.get_config() == page.get_config()
        assert copied(BartTokenizer()).vocabulary is None

    def test_repr(self, page):
        assert repr(page) == "<BartTokenizer name=bart_tokenizer vocabulary=6>"
        assert repr(BartTokenizer()) == "<BartTokenizer name=bart_tokenizer vocabulary=none>"
