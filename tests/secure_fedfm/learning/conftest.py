"""Tiny random models with a tiny tokenizer, written to disk once: real loading, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import ModelSpec, TaskSpec
from secure_fedfm.learning.weights import pin_model

WORDS = (
    *("card", "lost", "found", "stolen", "pay", "bill", "money", "late", "my", "the", "is", "was"),
    *("where", "now", "please", "help", "me"),
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Torch's threads spin while they wait: on shared cores more than one is far slower."""
    torch.set_num_threads(1)


def _save_tokenizer(folder: Path) -> int:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    return len(vocabulary)


def _save_model(folder: Path, kind: type[Any], config: Any) -> ModelSpec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        kind(config).save_pretrained(folder)
    return pin_model(str(folder))


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A BERT of four blocks; dropout on in its config, as in real ones."""
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=_save_tokenizer(folder),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return _save_model(folder, transformers.BertModel, config)


@pytest.fixture(scope="session")
def tiny_distilbert(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A DistilBERT without a head: its native head has two fresh layers."""
    folder = tmp_path_factory.mktemp("distilbert")
    config = transformers.DistilBertConfig(
        vocab_size=_save_tokenizer(folder),
        dim=32,
        n_layers=3,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return _save_model(folder, transformers.DistilBertModel, config)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A GPT-2 of three blocks; its linear layers are Conv1D."""
    folder = tmp_path_factory.mktemp("gpt2")
    config = transformers.GPT2Config(
        vocab_size=_save_tokenizer(folder),
        n_embd=32,
        n_layer=3,
        n_head=2,
        n_positions=64,
        initializer_range=0.2,
        bos_token_id=2,
        eos_token_id=3,
    )
    return _save_model(folder, transformers.GPT2LMHeadModel, config)


@pytest.fixture(scope="session")
def tickets() -> Dataset:
    """Forty-eight short texts of three labels, of different lengths."""
    texts, labels = [], []
    for number in range(16):
        extra = " ".join(WORDS[(number + i) % len(WORDS)] for i in range(number % 7))
        for label, text in (("lost", "my card lost"), ("pay", "pay bill"), ("time", "late now")):
            texts.append(f"{text} {extra} {WORDS[number]}")
            labels.append(label)
    return Dataset(tuple(texts), tuple(labels))


@pytest.fixture(scope="session")
def task(tickets: Dataset) -> TaskSpec:
    return TaskSpec("classification", tickets.label_names())


@pytest.fixture(scope="session")
def causal_task() -> TaskSpec:
    return TaskSpec("causal-lm", ())


@pytest.fixture(scope="session")
def plan() -> TrainingPlan:
    return TrainingPlan(epochs=3, batch_size=8, schedule_rounds=3)
