"""The model card of an exported adapter: what it is, how it was made, and what is not promised."""

from __future__ import annotations

import json
from dataclasses import dataclass

from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec

_PRIVACY = {
    "local": "Every institution trained with DP-SGD and its own noise (example-level differential "
    "privacy; epsilon, delta and each institution's ledger are in the charter and the evidence).",
    "client": "Whole updates were clipped and noised before they were added (client-level "
    "differential privacy towards whoever sees the sums; epsilon and delta are in the charter).",
    "shared-noise": "DP-SGD over the rows of all institutions together, with noise that they "
    "shared (example-level differential privacy towards whoever sees the sums or this adapter, "
    "with no more institutions colluding than the charter says; epsilon, delta and each "
    "institution's ledger are in the charter and the evidence).",
    "none": "No differential privacy was applied: the adapter may reveal something about single "
    "training rows to whoever holds it.",
}
_SUITES = {
    "layered": "Updates were masked and then encrypted (suite `layered`): the coordinator saw "
    "neither a single update nor a sum, provided no more clients colluded with it than the "
    "charter tolerates.",
    "sealed": "Updates were encrypted under a key that nobody holds alone (suite `sealed`): the "
    "coordinator saw neither a single update nor a sum, provided no more clients colluded with "
    "it than the charter tolerates.",
    "clear": "Updates travelled in clear: the coordinator saw every one of them.",
    "masked": "Updates were added under secure aggregation (suite `masked`): the coordinator saw "
    "the sum of each round and no single update, provided no more clients colluded with it than "
    "the charter tolerates.",
}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the exporting program knows about the making. None means: not measured, left out.

    Fields:
        federation: its name. data: one line on the data (`TrainTest.description` in a demo).
        clients, rounds: how many took part, how many rounds were completed.
        suite, privacy: as in the charter. charter_sha256: hex.
        test_accuracy, test_rows: measured on held-out rows, and on how many.
    """

    federation: str
    data: str
    clients: int
    rounds: int
    suite: str
    privacy: str
    charter_sha256: str | None = None
    test_accuracy: float | None = None
    test_rows: int | None = None


def model_card(
    model: ModelSpec, task: TaskSpec, spec: AdapterSpec, adapter: Adapter, facts: CardFacts
) -> str:
    """The card as Markdown with the YAML header that model hubs read."""
    accuracy = "not measured"
    if facts.test_accuracy is not None:
        rows = f" on {facts.test_rows} held-out rows" if facts.test_rows is not None else ""
        accuracy = f"{100 * facts.test_accuracy:.2f} %{rows}"
    table = {
        "Base model": f"{model.name}, weights SHA-256 `{model.sha256}`",
        "Task": task.kind + (f", {len(task.labels)} labels" if task.labels else ""),
        "Adapter": _adapter(spec),
        "Federation": facts.federation,
        "Data": facts.data,
        "Clients, completed rounds": f"{facts.clients}, {facts.rounds}",
        "Suite": facts.suite,
        "Privacy": facts.privacy,
        "Test accuracy": accuracy,
        "Adapter hash": f"`{adapter.hash().hex()}`",
        "Charter SHA-256": f"`{facts.charter_sha256}`" if facts.charter_sha256 else "not stated",
    }
    lines = [
        "---",
        # JSON strings are YAML strings: no name can break out of the header.
        f"base_model: {json.dumps(model.name)}",
        f"library_name: {'transformers' if spec.head_only else 'peft'}",
        f"tags: [{'' if spec.head_only else 'lora, '}federated-learning]",
        "---",
        f"# Adapter of the federation {facts.federation}",
        "",
        "Trained by several parties on rows that they did not show each other.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in table.items()),
        "",
        "## What is and is not promised",
        "",
        f"- {_SUITES.get(facts.suite, 'Suite `' + _cell(facts.suite) + '`: see the charter.')}",
        f"- {_PRIVACY.get(facts.privacy, 'Privacy: see the charter and the ledger.')}",
        "- Accuracy is that of the rows named above and says nothing about other texts.",
        "- The evidence bundle of the federation shows how the adapter came about; "
        "`secure-fedfm audit verify BUNDLE` checks it.",
        "",
        "## Use",
        "",
        "```python",
        *_usage(model, task, spec),
        "```",
        "",
    ]
    return "\n".join(lines)


def _adapter(spec: AdapterSpec) -> str:
    if spec.head_only:
        return "no LoRA, linear head alone, pooling mean"
    trained = "A frozen (FFA-LoRA)" if spec.train == "b-only" else "A and B trained"
    return f"LoRA rank {spec.rank}, alpha {spec.alpha}, {trained}, pooling {spec.pooling}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _usage(model: ModelSpec, task: TaskSpec, spec: AdapterSpec) -> list[str]:
    auto = (
        "AutoModelForCausalLM" if task.kind == "causal-lm" else "AutoModelForSequenceClassification"
    )
    if spec.pooling == "mean":
        auto = "AutoModel"
    size = f", num_labels={len(task.labels)}" if auto.endswith("Classification") else ""
    loaded = f"{auto}.from_pretrained(name{size})"
    if not spec.head_only:
        loaded = f"PeftModel.from_pretrained({loaded}, DIR)"
    lines = [
        *([] if spec.head_only else ["from peft import PeftModel"]),
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f"name = {json.dumps(model.name)}",
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        f"model = {loaded}.eval()",
    ]
    if spec.pooling != "mean":
        return lines
    return [
        *lines,
        "",
        "import json",
        "from safetensors.torch import load_file",
        "",
        'head = load_file(f"{DIR}/head.safetensors")',
        'labels = json.load(open(f"{DIR}/labels.json"))',
        'batch = tokenizer(["some text"], return_tensors="pt", padding=True, truncation=True)',
        "hidden = model(**batch).last_hidden_state",
        'mask = batch["attention_mask"].unsqueeze(-1)',
        "pooled = (hidden * mask).sum(1) / mask.sum(1)",
        'scores = pooled @ head["weight"].T + head["bias"]',
        "print([labels[i] for i in scores.argmax(-1).tolist()])",
    ]
