"""The example that builds the shipped model: its stream of batches and its checkpoints."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "text_repair"))

import checkpoint as checkpoint_module  # noqa: E402
import noise as noise_module  # noqa: E402
import pairs as pairs_module  # noqa: E402
import slips  # noqa: E402
import sources  # noqa: E402
import split as split_module  # noqa: E402
import vocabulary  # noqa: E402
from pairs import Pair, Position  # noqa: E402


def encode(texts: list[str]) -> list[list[int]]:
    """A tokenizer for tests: a letter a token, above the special ids."""
    return [[5 + ord(letter) % 200 for letter in text] for text in texts]


WORD_STARTS = [id == 5 + ord(" ") for id in range(205)]


@pytest.fixture
def stream(monkeypatch) -> pairs_module.PairStream:
    monkeypatch.setattr(pairs_module, "SHARD_PAIRS", 64)
    split = split_module.Split()
    for source in sources.SOURCES:
        for n in range(100):
            text = f"The {chr(97 + n % 26)} cat of {source} didn't see {chr(97 + n // 26)}."
            split.train.append(sources.Sentence(source, text, continues=n > 0))
            split.follower.append(-1 if source == "tatoeba" or n == 99 else len(split.train))
    noise = noise_module.Noise(slips.Speller({}))
    return pairs_module.PairStream(split, noise, encode, WORD_STARTS, seed=5, batch_tokens=400)


def arrays(batch: pairs_module.Batch) -> list[np.ndarray]:
    return [*batch.inputs().values(), batch.targets, batch.sample_weight]


def test_batch_has_the_layout_of_the_preprocessor():
    pairs = [Pair([7, 8], [9], [1, 1]), Pair([7], [9, 10, 11], [1, 3, 3, 1])]
    batch = pairs_module.make_batch(pairs)
    assert batch.encoder_token_ids.tolist() == [[0, 7, 8, 2], [0, 7, 2, 1]]
    assert batch.encoder_padding_mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert batch.decoder_token_ids.tolist() == [[2, 0, 9, 1, 1], [2, 0, 9, 10, 11]]
    assert batch.decoder_padding_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert batch.targets.tolist() == [[0, 9, 2, 1, 1], [0, 9, 10, 11, 2]]
    assert batch.tokens == 8
    # Rows times width by the sum of the weights: Keras' loss becomes a mean over tokens.
    weights = np.array([[1, 1, 1, 0, 0], [1, 1, 3, 3, 1]]) * (10 / 12)
    np.testing.assert_allclose(batch.sample_weight, weights, rtol=1e-6)
    assert batch.encoder_token_ids.dtype == np.int32
    assert batch.sample_weight.dtype == np.float32


def test_words_that_stay_weigh_more():
    given, text = "he sed no to it", "He said, no to it."
    weights = pairs_module.keep_weights(given, text, encode([text])[0], WORD_STARTS)
    heavy = [letter for letter, weight in zip(text, weights[:-1], strict=True) if weight > 1]
    assert "".join(heavy) == " no to"
    assert set(weights) == {1.0, pairs_module.KEEP_WEIGHT_OF_CARELESS}
    weights = pairs_module.keep_weights("He sed no to it", text, encode([text])[0], WORD_STARTS)
    assert set(weights) == {1.0, pairs_module.KEEP_WEIGHT}, "who sets capitals is mostly right"


def test_packing_keeps_every_pair_within_the_budget():
    random = Random(0)
    pairs = [Pair([5] * random.randint(1, 30), [5, n], []) for n in range(50)]
    pairs.append(Pair([5], [5] * 200, []))
    batches = pairs_module.pack(pairs, 100, random)
    assert sorted(str(pair) for batch in batches for pair in batch) == sorted(map(str, pairs))
    for batch in batches:
        assert sum(len(pair.target) + 2 for pair in batch) <= 100 or len(batch) == 1


def test_stream_goes_on_where_it_was_stopped(stream):
    whole = list(islice(stream.batches(), 40))
    assert whole[-1][0] > Position(epoch=1)
    assert [position for position, _ in whole] == sorted(position for position, _ in whole)
    stopped, _ = whole[17]
    following = Position(stopped.epoch, stopped.shard, stopped.batch + 1)
    for (position, batch), (again, batch_again) in zip(
        whole[18:], stream.batches(following), strict=False
    ):
        assert position == again
        assert all(map(np.array_equal, arrays(batch), arrays(batch_again)))


def test_an_epoch_visits_its_share_of_each_source_and_the_next_one_the_rest(stream):
    first, second = stream._epoch_indices(0), stream._epoch_indices(1)
    assert len(first) == stream.pairs_per_epoch() == 50 + 100 + 100
    assert not set(first[first < 100]) & set(second[second < 100])
    assert set(first[first >= 100]) == set(range(100, 300))
    assert list(first) != list(second)


def test_joined_sentences_follow_each_other_in_their_paragraph(stream):
    random, seen = Random(0), set()
    for _ in range(300):
        text = stream._joined(150, random)
        sentences = text.split(". ")
        seen.add(min(len(sentences), 3))
        if len(sentences) == 2:
            assert sentences[1].rstrip(".") == stream._texts[151].rstrip(".")
        assert len(text) <= pairs_module.LONG_CHARACTERS[1]
    assert seen == {1, 2, 3}


def test_failure_of_the_worker_reaches_the_training(stream):
    def broken(texts):
        raise RuntimeError("no tokens")

    stream._encode = broken
    with pytest.raises(RuntimeError, match="no tokens"):
        next(stream.batches())


# Checkpoints -------------------------------------------------------------------------------------


class Optimizer:
    def state(self) -> dict[str, np.ndarray]:
        return {"iterations": np.array([3]), "m": np.arange(4.0)}


class Model:
    optimizer = Optimizer()
    broken = False

    def save_to_preset(self, folder: str) -> None:
        Path(folder).mkdir()
        if self.broken:
            raise OSError("disk full")
        (Path(folder) / "config.json").write_text("{}")


def test_the_newest_whole_checkpoint_is_found_and_the_older_removed(tmp_path):
    assert checkpoint_module.latest_checkpoint(tmp_path) is None
    for step in (9, 10):
        checkpoint_module.save_checkpoint(
            tmp_path, Model(), step=step, pairs=7 * step, next_batch=Position(1, 2, step)
        )
    (tmp_path / "checkpoint-0000011.part").mkdir()
    found = checkpoint_module.latest_checkpoint(tmp_path)
    assert (found.step, found.pairs, found.next_batch) == (10, 70, Position(1, 2, 10))
    assert (found.preset / "config.json").is_file()
    assert found.optimizer_state()["m"].tolist() == [0, 1, 2, 3]
    assert not (tmp_path / "checkpoint-0000009").exists()


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path):
    model = Model()
    options = {"pairs": 1, "next_batch": Position()}
    checkpoint_module.save_checkpoint(tmp_path, model, step=1, **options)
    model.broken = True
    with pytest.raises(OSError, match="disk full"):
        checkpoint_module.save_checkpoint(tmp_path, model, step=2, **options)
    assert checkpoint_module.latest_checkpoint(tmp_path).step == 1
    model.broken = False
    checkpoint_module.save_checkpoint(tmp_path, model, step=2, **options)
    assert checkpoint_module.latest_checkpoint(tmp_path).step == 2


# Vocabulary --------------------------------------------------------------------------------------


def test_vocabulary_has_the_special_tokens_first(tmp_path):
    pytest.importorskip("tokenizers")
    noise = noise_module.Noise(slips.Speller({}))
    texts = [f"The {word} cat sat on the mat, didn't it?" for word in "ab cd ef gh ij".split()] * 9  # noqa: SIM905
    assert not vocabulary.has_vocabulary(tmp_path)
    vocabulary.train_vocabulary(vocabulary.texts_to_learn_from(texts, noise, 1), tmp_path, 300)
    assert vocabulary.has_vocabulary(tmp_path)
    ids = json.loads((tmp_path / "vocabulary.json").read_text())
    assert [ids[token] for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [0, 1, 2, 3, 4]
    assert sorted(ids.values()) == list(range(len(ids)))
    merges = (tmp_path / "merges.txt").read_text().splitlines()
    assert merges[0].startswith("#version")
    assert all("".join(merge.split()) in ids for merge in merges[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocabulary.json"]


# Training ----------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> list[str]:
    """Arguments of a training that takes a second: small corpora, a small model, short shards."""
    pytest.importorskip("tokenizers")
    train = pytest.importorskip("train")
    data = tmp_path / "data"
    data.mkdir()
    animals, verbs = ["cat", "dog", "cow", "owl", "fox", "hen"], ["sees", "likes", "hears", "meets"]
    lines = [
        f"The {a} {verb} the {adjective} {b}."
        for a in animals for verb in verbs for b in animals
        for adjective in ("old", "big", "shy")
    ]  # fmt: skip
    (data / "tatoeba.txt").write_text("\n".join(lines[:200]))
    (data / "openstax.txt").write_text(
        "\n".join(" ".join(lines[n : n + 4]) for n in range(200, 320, 4))
    )
    (data / "standard_ebooks.txt").write_text("\n".join(lines[320:400]))
    (data / "misspellings.csv").write_text("teh,the\nhaers,hears\n")
    monkeypatch.setattr(pairs_module, "SHARD_PAIRS", 100)
    for name, value in {"HEADS": 2, "WIDTH": 16, "INNER_WIDTH": 32}.items():
        monkeypatch.setattr(train, name, value)
    return ["--data", str(data), "--pairs", "150", "--batch-tokens", "300", "--threads", "1",
            "--dropout", "0.1", "--test-limit", "5", "--layers", "1"]  # fmt: skip


def weights_of(work: Path) -> list[np.ndarray]:
    import bart_fast

    found = checkpoint_module.latest_checkpoint(work)
    model = bart_fast.BartSeq2SeqLM.from_preset(str(found.preset))
    return model.get_weights()


def test_a_training_stopped_after_every_step_ends_with_the_same_weights(tiny, tmp_path, capsys):
    import train

    train.main([*tiny, "--work", str(tmp_path / "straight")])
    report = json.loads((tmp_path / "straight" / "report.json").read_text())
    assert set(report["noised"]) == set(sources.SOURCES)
    assert "| noised | tatoeba |" in capsys.readouterr().out

    stopped = tmp_path / "stopped"
    for _ in range(30):
        train.main([*tiny, "--work", str(stopped), "--minutes", "0"])
        if (stopped / "report.json").is_file():
            break
    steps = checkpoint_module.latest_checkpoint(stopped).step
    assert steps > 3
    assert steps == checkpoint_module.latest_checkpoint(tmp_path / "straight").step
    assert all(map(np.array_equal, weights_of(stopped), weights_of(tmp_path / "straight")))


def test_a_work_directory_keeps_its_settings(tiny, tmp_path):
    import train

    train.main([*tiny, "--work", str(tmp_path / "work"), "--minutes", "0"])
    with pytest.raises(SystemExit, match=r"`--seed`: received 2, but .* was begun with 1"):
        train.main([*tiny, "--work", str(tmp_path / "work"), "--seed", "2"])


def test_a_deeper_model_begins_with_the_layers_of_a_shallow_one(tiny, tmp_path):
    import train

    import bart_fast

    train.main([*tiny, "--work", str(tmp_path / "shallow"), "--minutes", "0"])
    preset = checkpoint_module.latest_checkpoint(tmp_path / "shallow").preset
    shallow = bart_fast.BartSeq2SeqLM.from_preset(str(preset))
    options = train.parse_arguments([*tiny, "--layers", "2"])
    deep = train.grown(shallow, options)
    of_deep, of_shallow = deep.backbone._model, shallow.backbone._model
    assert deep.backbone.num_layers == 2
    for name, _ in of_deep.parameters():
        same = of_shallow.get_parameter(name.replace("layers.1", "layers.0"))
        assert np.array_equal(of_deep.get_parameter(name), same), name
    with pytest.raises(SystemExit, match=r"`--layers`: received 0, but `--start-from` has 1"):
        train.grown(shallow, train.parse_arguments([*tiny, "--layers", "0"]))
