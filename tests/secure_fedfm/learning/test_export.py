"""An exported adapter is a normal PEFT folder and scores as it did in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from secure_fedfm.errors import DataError, ModelError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.batches import EncodedRows
from secure_fedfm.learning.central import train_centrally
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.evaluate import AdapterEvaluator, evaluate_folder, load_exported
from secure_fedfm.learning.export import Manifest, export_adapter, read_manifest
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.model_card import CardFacts
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec

FACTS = CardFacts(
    federation="clinics",
    data="generated | rows",
    clients=5,
    rounds=3,
    suite="masked",
    privacy="none",
    test_accuracy=0.9123,
    test_rows=300,
)


def _random_adapter(model: AdaptedModel) -> Adapter:
    random = np.random.default_rng(4)
    step = random.normal(0, 0.3, model.layout.size).astype(np.float32)
    return model.state().moved(model.layout, step)


def _export(folder: Path, model: ModelSpec, spec: AdapterSpec, task: TaskSpec) -> AdaptedModel:
    adapted = load_adapted(model, spec, task)
    manifest = Manifest(model, task, spec, 64)
    export_adapter(folder, adapted, _random_adapter(adapted), manifest, FACTS)
    return adapted


def test_peft_alone_plus_the_head_gives_the_same_scores(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, tmp_path: Path
) -> None:
    adapted = _export(tmp_path, tiny_encoder, AdapterSpec(), task)
    base = transformers.AutoModel.from_pretrained(tiny_encoder.name)
    module = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder.name)
    head = load_file(tmp_path / "head.safetensors")
    inputs = tokenizer(list(tickets.texts[:6]), return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = module(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        scores = (hidden * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]
        rows = EncodedRows(tickets, task.labels, adapted.base.tokenizer, 64)
        expected = adapted.scorer.scores(rows.batch(range(6)))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    assert json.loads((tmp_path / "labels.json").read_text()) == list(task.labels)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_every_family_comes_back_equal(
    family: str,
    tiny_encoder: ModelSpec,
    tiny_distilbert: ModelSpec,
    tiny_gpt2: ModelSpec,
    task: TaskSpec,
    causal_task: TaskSpec,
    tickets: Dataset,
    tmp_path: Path,
) -> None:
    model = {"bert": tiny_encoder, "distilbert": tiny_distilbert, "gpt2": tiny_gpt2}[family]
    chosen = causal_task if family == "gpt2" else task
    spec = AdapterSpec(pooling="native", last_layers=2)
    adapted = _export(tmp_path, model, spec, chosen)
    scorer, tokenizer = load_exported(tmp_path)
    batch = EncodedRows(tickets, chosen.labels, tokenizer, 64).batch(range(5))
    with torch.no_grad():
        torch.testing.assert_close(scorer.scores(batch), adapted.scorer.scores(batch))
    assert not (tmp_path / "head.safetensors").exists()


def test_folder_and_memory_evaluate_alike(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, tmp_path: Path
) -> None:
    plan = TrainingPlan(epochs=4, batch_size=8, schedule_rounds=2, head_learning_rate=3e-2)
    trained = train_centrally(tiny_encoder, AdapterSpec(), task, plan, tickets, rounds=2)
    adapted = load_adapted(tiny_encoder, AdapterSpec(), task)
    manifest = Manifest(tiny_encoder, task, AdapterSpec(), 64)
    export_adapter(tmp_path, adapted, trained, manifest, FACTS)
    evaluator = AdapterEvaluator(tiny_encoder, AdapterSpec(), task, tickets, max_tokens=64)
    expected, found = evaluator.evaluate(trained), evaluate_folder(tmp_path, tickets)
    assert found.accuracy == expected.accuracy > 0.8
    assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    assert read_manifest(tmp_path) == manifest
    with pytest.raises(DataError, match="'zebra' in row 1"):
        evaluate_folder(tmp_path, Dataset(("a",), ("zebra",)))


def test_equal_adapters_give_equal_folders_that_name_the_model(
    tiny_encoder: ModelSpec, task: TaskSpec, tmp_path: Path
) -> None:
    named = ModelSpec("owner/name", tiny_encoder.sha256)
    location = Path(tiny_encoder.name)
    for folder in (tmp_path / "one", tmp_path / "two"):
        adapted = load_adapted(named, AdapterSpec(), task, location)
        export_adapter(
            folder,
            adapted,
            _random_adapter(adapted),
            Manifest(named, task, AdapterSpec(), 64),
            FACTS,
        )
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "labels.json",
        "secure_fedfm.json",
    ]
    for name in names:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes(), name
        assert str(location).encode() not in content, name
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/name"
    assert config["inference_mode"] is True


def test_the_card_says_what_is_not_promised(
    tiny_encoder: ModelSpec, task: TaskSpec, tmp_path: Path
) -> None:
    _export(tmp_path, tiny_encoder, AdapterSpec(), task)
    card = (tmp_path / "README.md").read_text()
    assert "No differential privacy was applied" in card
    assert "91.23 % on 300 held-out rows" in card
    assert "generated \\| rows" in card
    assert tiny_encoder.sha256 in card


def test_damaged_folders_have_one_clear_error(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="give a folder that secure-fedfm exported"):
        evaluate_folder(tmp_path, tickets)
    _export(tmp_path, tiny_encoder, AdapterSpec(), task)
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot read"):
        evaluate_folder(tmp_path, tickets)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be loaded as a PEFT adapter"):
        evaluate_folder(tmp_path, tickets)
    (tmp_path / "secure_fedfm.json").write_text('{"version": 1}')
    with pytest.raises(ModelError, match="damaged"):
        evaluate_folder(tmp_path, tickets)
