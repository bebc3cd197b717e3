"""What the paired audit trains: a small random BERT and public sentences, or a model of yours.

The audit is about the training path, which is the same code for every model; a random model of
three blocks goes through it in seconds and needs no download.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator, public_uniform
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import PreparedRows, prepare_rows
from secure_fedfm.learning.weights import pin_model
from secure_fedfm.privacy.plan import PrivatePlan

_WORDS = (
    *("card", "lost", "found", "pay", "bill", "money", "late", "my", "the", "is", "was", "where"),
    *("now", "please", "help", "me", "with", "account", "new", "code"),
)
_TASK = TaskSpec("classification", ("first", "second", "third"))
_MAX_TOKENS = 32


@dataclass(frozen=True)
class AuditSubject:
    """A model, a data set D, its neighbour D' = D and one row more (at the end), and settings.

    `start` is the adapter that every audited round starts from: public random values, so that no
    gradient is zero for a trivial reason.
    """

    model: AdaptedModel
    rows: PreparedRows
    neighbour: PreparedRows
    start: Adapter
    plan: TrainingPlan
    private: PrivatePlan


AUDITED = PrivatePlan(
    noise_multiplier=1.0,
    sampling_rate=0.06,  # of two dozen rows: some steps are empty
    steps_per_round=12,
    clip=1.0,
    expected_batch=2.0,
)
"""Settings of the audited rounds."""


def pinned_subject(name: str | None, location: Path | None, private: PrivatePlan) -> AuditSubject:
    """`small_subject`, or the encoder `name` with its last two blocks adapted.

    Raises:
        ModelError: not found.
    """
    if name is None and location is None:
        return small_subject(private)
    found = pin_model(name if name is not None else str(location), location)
    return subject(found, AdapterSpec(), private, location=location)


def small_subject(private: PrivatePlan, rows: int = 24) -> AuditSubject:
    """A random three-block BERT with default adapter on `rows` sentences made of twenty words."""
    with tempfile.TemporaryDirectory() as folder:
        return subject(_write_model(Path(folder)), AdapterSpec(last_layers=1), private, rows)


def subject(
    model: ModelSpec,
    adapter: AdapterSpec,
    private: PrivatePlan,
    rows: int = 24,
    location: Path | None = None,
) -> AuditSubject:
    """The same sentences on any encoder model.

    Raises:
        ModelError: as for `load_base`.
    """
    adapted = AdaptedModel(load_base(model, _TASK, adapter, location), adapter, _TASK)
    data = _sentences(rows + 1)
    start = adapted.state()
    moved = {
        name: start[name] + public_uniform(shape, 0.05, "privacy audit", name)
        for name, shape in zip(adapted.layout.names, adapted.layout.shapes, strict=True)
    }
    return AuditSubject(
        adapted,
        prepare_rows(adapted, data.rows(range(rows)), _TASK.labels, _MAX_TOKENS),
        prepare_rows(adapted, data, _TASK.labels, _MAX_TOKENS),
        Adapter({**start, **moved}),
        TrainingPlan(schedule="constant"),
        private,
    )


def _sentences(rows: int) -> Dataset:
    random = generator("privacy audit sentences")
    texts = (
        " ".join(str(word) for word in random.choice(_WORDS, int(random.integers(2, 14))))
        for _ in range(rows)
    )
    return Dataset(tuple(texts), tuple(_TASK.labels[i % 3] for i in range(rows)))


def _write_model(folder: Path) -> ModelSpec:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",  # noqa: S106
        unk_token="[UNK]",  # noqa: S106
        model_max_length=64,
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    log = transformers.utils.logging
    bars = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transformers.BertModel(config).save_pretrained(folder)
    if bars:
        log.enable_progress_bar()
    return pin_model(str(folder))
