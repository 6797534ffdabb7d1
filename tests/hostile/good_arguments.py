"""Calls that work, of everything public: `test_argument_table.py` spoils one argument at a time.

A call is (callable, arguments); it stands under the name by which users find the callable.
"""

import json
from pathlib import Path

import numpy as np
from tiny_models import (
    SIZES,
    VOCABULARY,
    tiny_backbone,
    tiny_model,
    tiny_preprocessor,
    token_arrays,
)

import bart_fast
from bart_fast import callbacks, losses, metrics, models, optimizers, pretraining, samplers
from bart_fast.optimizers import schedules

PAIRS = {"encoder_text": ["ab", "cd"], "decoder_text": ["ab", "cd"]}


def find(name):
    """`samplers.get`, `BartBackbone` or `BartBackbone.predict`."""
    found = bart_fast
    for part in name.split("."):
        found = getattr(found, part)
    return found


def calls_of(names, arguments, owner=None):
    """The same arguments for several callables, methods of `owner` if it is given."""
    return {
        name: (find(name) if owner is None else getattr(owner, name.rsplit(".", 1)[1]), arguments)
        for name in names.split()
    }


def good_calls(folder):
    """All of them; files go into `folder`."""
    model, classifier = tiny_model(), small_classifier()
    return {
        **model_calls(model),
        **training_calls(),
        **classifier_calls(classifier),
        **pretraining_calls(),
        **file_calls(folder, model, classifier),
        **lora_calls(folder),
        **text_calls(folder, model.preprocessor, classifier.preprocessor),
        **keras_calls(str(folder)),
    }


def small_classifier():
    preprocessor = models.BartTextClassifierPreprocessor(tiny_preprocessor().tokenizer, 12)
    labels = ["other", "entailment"]
    return models.BartTextClassifier(tiny_backbone(), 2, preprocessor, id2label=labels)


def model_calls(model):
    arrays, texts = token_arrays(), {"inputs": ["ab"], "targets": ["cd"]}
    size = {"new_num_tokens": 30}
    return {
        **calls_of("BartBackbone", {**SIZES}),
        **calls_of("BartSeq2SeqLM Seq2SeqLM", {"backbone": model.backbone}),
        **calls_of("BartBackbone.__call__ BartBackbone.predict", {"x": arrays}, model.backbone),
        **calls_of("BartSeq2SeqLM.__call__", {"x": arrays}, model),
        **calls_of("BartSeq2SeqLM.predict", {"x": PAIRS, "verbose": 0}, model),
        **calls_of("BartSeq2SeqLM.generate BartSeq2SeqLM.stream", {"inputs": "ab"}, model),
        **calls_of("BartSeq2SeqLM.score BartSeq2SeqLM.cross_attention", texts, model),
        **calls_of("BartSeq2SeqLM.encode", {"inputs": ["ab"]}, model),
        **calls_of("BartBackbone.resize_token_embeddings", size, tiny_backbone()),
        **calls_of("BartSeq2SeqLM.resize_token_embeddings", size, tiny_model()),
        **calls_of("BartSeq2SeqLM.set_weights", {"weights": model.get_weights()}, model),
        **calls_of("BartSeq2SeqLM.summary", {"print_fn": len}, model),
        **calls_of("BartSeq2SeqLM.to", {"device": "cpu"}, model),
    }


def lora_calls(folder):
    """Each call is of a new backbone, or leaves it as it was."""

    def adapted(method):
        def call(**given):
            backbone = tiny_backbone()
            backbone.enable_lora(2)
            return getattr(backbone, method)(**given)

        return call

    file = str(folder / "x.lora.h5")
    return {
        "BartBackbone.to": (tiny_backbone().to, {"device": "cpu"}),
        "BartBackbone.get_layer": (
            tiny_backbone().get_layer,
            {"index": None, "name": "token_embedding"},
        ),
        "BartBackbone.enable_lora": (
            lambda **given: tiny_backbone().enable_lora(**given),
            {"rank": 2},
        ),
        "BartBackbone.set_lora_adapter": (adapted("set_lora_adapter"), {"adapter": "default"}),
        "BartBackbone.delete_lora_adapter": (
            adapted("delete_lora_adapter"),
            {"adapter": "default"},
        ),
        "BartBackbone.save_lora_weights": (adapted("save_lora_weights"), {"filepath": file}),
        "BartBackbone.load_lora_weights": (adapted("load_lora_weights"), {"filepath": file}),
    }


def training_calls():
    model = tiny_model()
    silent = {"x": PAIRS, "verbose": 0}
    generated = {**silent, "metrics": ["exact_match"]}
    on_batch = "BartSeq2SeqLM.train_on_batch BartSeq2SeqLM.test_on_batch"
    return {
        **calls_of("BartSeq2SeqLM.compile", {}, tiny_model()),
        **calls_of("BartSeq2SeqLM.fit BartSeq2SeqLM.evaluate", silent, model),
        **calls_of("BartSeq2SeqLM.evaluate_generation", generated, model),
        "callbacks.GenerationMetrics": (
            lambda **given: generation_metrics(model, **given),
            {"x": PAIRS, "metrics": ["exact_match"]},
        ),
        **calls_of(on_batch + " BartSeq2SeqLM.predict_on_batch", {"x": PAIRS}, model),
        **quantize_calls(),
    }


def generation_metrics(model, **given):
    """Made, and used once: what is to be compared is looked at then."""
    watched = callbacks.GenerationMetrics(**given)
    watched.set_model(model)
    watched.on_epoch_end(0, {})


def pretraining_calls():
    made = tiny_preprocessor()
    vocabulary = {**VOCABULARY, "<mask>": len(VOCABULARY)}
    tokenizer = models.BartTokenizer(vocabulary, [])
    denoiser = pretraining.Denoiser(tokenizer)
    texts = {"texts": ["ab cd", "ef"]}
    dataset = {**texts, "preprocessor": made, "denoiser": denoiser}
    return {
        **calls_of("pretraining.Denoiser", {"tokenizer": tokenizer}),
        **calls_of("pretraining.DenoisingDataset", dataset),
        "pretraining.Denoiser.__call__": (denoiser, texts),
        "pretraining.Denoiser.noise": (denoiser.noise, {"text": "ab cd"}),
    }


def quantize_calls():
    """Each call quantises a new model: it can be done once."""
    return {
        "BartBackbone.quantize": (
            lambda **given: tiny_backbone().quantize(**given),
            {"mode": "int8"},
        ),
        "BartSeq2SeqLM.quantize": (
            lambda **given: tiny_model().quantize(**given),
            {"mode": "int8"},
        ),
    }


def classifier_calls(classifier):
    zero_shot = {"texts": ["ab"], "candidate_labels": ["a", "b"], "hypothesis_template": "c {}"}
    called = "BartTextClassifier.__call__ BartTextClassifier.predict"
    called += " BartTextClassifier.predict_on_batch"
    return {
        **calls_of("BartTextClassifier", {"backbone": classifier.backbone, "num_classes": 2}),
        **calls_of(called, {"x": ["ab"]}, classifier),
        **calls_of("BartTextClassifier.compile", {}, small_classifier()),
        **calls_of("BartTextClassifier.classify", {"inputs": ["ab"]}, classifier),
        **calls_of("BartTextClassifier.to", {"device": "cpu"}, classifier),
        **calls_of("BartTextClassifier.classify_zero_shot", zero_shot, classifier),
    }


def file_calls(folder, model, classifier):
    """Presets and files of weights, read and written."""
    preset, of_classes, new = (str(folder / name) for name in ("preset", "classes", "new"))
    model.save_to_preset(preset)
    classifier.save_to_preset(of_classes)
    whole, part = str(folder / "all.weights.h5"), str(folder / "backbone.weights.h5")
    model.save_weights(whole)
    model.backbone.save_weights(part)
    parts = {
        "BartSeq2SeqLM": model,
        "BartBackbone": model.backbone,
        "BartTokenizer": model.preprocessor.tokenizer,
        "BartSeq2SeqLMPreprocessor": model.preprocessor,
        "BartTextClassifierPreprocessor": classifier.preprocessor,
    }
    found = calls_of("BartTextClassifier.from_preset", {"preset": of_classes})
    for name, made in parts.items():
        where = of_classes if "Classifier" in name else preset
        config = made.get_config()
        if "Preprocessor" in name:
            config["tokenizer"] = made.tokenizer
        found |= calls_of(f"{name}.from_preset", {"preset": where})
        found |= calls_of(f"{name}.from_config", {"config": config})
        found |= calls_of(f"{name}.save_to_preset", {"preset_dir": new}, made)
    for name in ("BartSeq2SeqLM", "BartBackbone", "BartTokenizer"):
        path = {"path": str(folder / "exported")}
        found |= calls_of(f"{name}.export_to_transformers", path, parts[name])
    for name, file in (("BartSeq2SeqLM", whole), ("BartBackbone", part)):
        found |= calls_of(f"{name}.load_weights", {"filepath": file}, parts[name])
        new_file = {"filepath": str(folder / "new.weights.h5")}
        found |= calls_of(f"{name}.save_weights", new_file, parts[name])
    return found


def unigram_file(folder):
    """A `tokenizer.json` of sentencepiece, with languages."""
    with np.load(Path(__file__).parents[1] / "golden" / "sentencepiece.npz") as recorded:
        case = json.loads(str(recorded["cases"]))["mbart"]
    (folder / "unigram.json").write_text(case["tokenizer.json"], encoding="utf-8")
    return folder / "unigram.json"


def text_calls(folder, preprocessor, of_classes):
    tokenizer, files = preprocessor.tokenizer, {"vocabulary": VOCABULARY, "merges": []}
    tokenizer.save_assets(folder)
    made = "BartSeq2SeqLMPreprocessor BartTextClassifierPreprocessor"
    assets = "BartTokenizer.save_assets BartTokenizer.load_assets"
    ids = {"decoder_token_ids": np.ones((1, 2), int), "decoder_padding_mask": np.ones((1, 2))}
    empty = models.BartTokenizer()
    return {
        **calls_of(made, {"tokenizer": tokenizer}),
        **calls_of("BartTokenizer", files),
        **calls_of("UnigramTokenizer", {"tokenizer_json": str(unigram_file(folder))}),
        **calls_of("BartTokenizer.set_vocabulary_and_merges", files, empty),
        **calls_of("BartTokenizer.tokenize BartTokenizer.offsets", {"inputs": "ab"}, tokenizer),
        **calls_of("BartTokenizer.detokenize", {"inputs": [5]}, tokenizer),
        **calls_of("BartTokenizer.id_to_token", {"id": 5}, tokenizer),
        **calls_of("BartTokenizer.token_to_id", {"token": "a"}, tokenizer),
        **calls_of(assets, {"dir_path": folder}, tokenizer),
        **calls_of("BartSeq2SeqLMPreprocessor.call", {"x": PAIRS}, preprocessor),
        **calls_of("BartSeq2SeqLMPreprocessor.generate_preprocess", {"x": ["ab"]}, preprocessor),
        **calls_of("BartSeq2SeqLMPreprocessor.generate_postprocess", {"x": ids}, preprocessor),
        **calls_of("BartTextClassifierPreprocessor.call", {"x": ["ab"]}, of_classes),
    }


def following(prompt, cache, index):
    return np.zeros((len(prompt), 5)), np.ones((len(prompt), 4)), cache


def keras_calls(folder):
    """As `calls`, of what stands in submodules of Keras' names."""
    made = {
        "samplers": samplers.GreedySampler(),
        "optimizers": optimizers.SGD(),
        "losses": losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": metrics.Mean(),
        "optimizers.schedules": schedules.CosineDecay(0.1, 3),
    }
    found = {}
    for module, value in made.items():
        kind = "learning_rate_schedule" if "schedules" in module else module.rstrip("s")
        kind = {"losse": "loss"}.get(kind, kind)
        found[f"{module}.serialize"] = (find(f"{module}.serialize"), {kind: value})
        config = {"config": find(f"{module}.serialize")(value)}
        found[f"{module}.deserialize"] = (find(f"{module}.deserialize"), config)
        if "schedules" not in module:
            found[f"{module}.get"] = (find(f"{module}.get"), {"identifier": value})
    prompt = {"next": following, "prompt": np.zeros((2, 4), int), "index": 1}
    for sampler in (samplers.GreedySampler(), samplers.BeamSampler(2)):
        found[f"samplers.{type(sampler).__name__}.__call__"] = (sampler, prompt)
    states = {**prompt, "hidden_states": np.ones((2, 4, 4))}
    found["samplers.ContrastiveSampler.__call__"] = (samplers.ContrastiveSampler(2), states)
    decay = {"initial_learning_rate": 0.1, "decay_steps": 3}
    for name in ("CosineDecay", "ExponentialDecay", "InverseTimeDecay", "PolynomialDecay"):
        rate = {"decay_rate": 0.5} if name in ("ExponentialDecay", "InverseTimeDecay") else {}
        path = f"optimizers.schedules.{name}"
        found[path] = (find(path), {**decay, **rate})
    restarts = {"initial_learning_rate": 0.1, "first_decay_steps": 3}
    path = "optimizers.schedules.CosineDecayRestarts"
    found[path] = (schedules.CosineDecayRestarts, restarts)
    pieces = {"boundaries": [1, 2], "values": [0.1, 0.2, 0.3]}
    found["optimizers.schedules.PiecewiseConstantDecay"] = (
        schedules.PiecewiseConstantDecay,
        pieces,
    )
    path = "optimizers.AdamW.exclude_from_weight_decay"
    found[path] = (optimizers.AdamW().exclude_from_weight_decay, {})
    batch = {"y_true": np.zeros((2, 3), int), "y_pred": np.zeros((2, 3, 5))}
    path = "losses.SparseCategoricalCrossentropy.__call__"
    found[path] = (losses.SparseCategoricalCrossentropy(from_logits=True), batch)
    texts = {"y_true": ["a"], "y_pred": ["b"]}
    found["metrics.ExactMatch.update_state"] = (metrics.ExactMatch().update_state, texts)
    counted = (metrics.SparseCategoricalAccuracy(), metrics.Perplexity(from_logits=True))
    counted += (metrics.SparseCategoricalCrossentropy(from_logits=True),)
    counted += (metrics.SparseTopKCategoricalAccuracy(),)
    for metric in (*counted, metrics.MeanMetricWrapper(lambda y_true, y_pred: 1.0)):
        found[f"metrics.{type(metric).__name__}.update_state"] = (metric.update_state, batch)
    found["metrics.MeanMetricWrapper"] = (metrics.MeanMetricWrapper, {"fn": len})
    found["metrics.Mean.update_state"] = (metrics.Mean().update_state, {"values": [1.0, 2.0]})
    finalize = optimizers.AdamW(use_ema=True)
    finalize.apply({"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})
    path = "optimizers.AdamW.finalize_variable_values"
    found[path] = (finalize.finalize_variable_values, {"parameters": {}})
    found["callbacks.BackupAndRestore"] = (callbacks.BackupAndRestore, {"backup_dir": folder})
    found["callbacks.CSVLogger"] = (callbacks.CSVLogger, {"filename": folder})
    found["callbacks.ModelCheckpoint"] = (callbacks.ModelCheckpoint, {"filepath": folder})
    found["callbacks.LearningRateScheduler"] = (callbacks.LearningRateScheduler, {"schedule": len})
    return found
