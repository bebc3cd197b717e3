"""Step 5: each round starts from the adapter that the one before left, up to the final one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from fedfm_audit.charter_view import CharterView
from fedfm_audit.messages import KEYS
from fedfm_audit.statements import ConclusionPredicate, RoundPredicate
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.leaves import Leaf
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import hash_tensors

ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
HEAD_PREFIX = "head."
MAX_ADAPTER_BYTES = 4 << 30


def check_chain(
    charter: CharterView,
    leaves: Sequence[Leaf],
    rounds: Sequence[RoundEvidence],
    findings: Findings,
) -> str:
    """Follow the adapter hash through the log and return the last one (hex)."""
    opened = {evidence.index: evidence.opened.adapter_hash.hex() for evidence in rounds}
    current = charter.initial_adapter.hex()
    for leaf in leaves:
        predicate = leaf.statement.predicate
        if isinstance(predicate, RoundPredicate):
            if predicate.adapter_in != current:
                findings.fail(
                    leaf.place, f"starts from adapter {predicate.adapter_in}, in force is {current}"
                )
            if opened.get(leaf.index, predicate.adapter_in) != predicate.adapter_in:
                findings.fail(leaf.place, "its RoundOpen names another adapter")
            if predicate.adapter_out != predicate.adapter_in:
                if predicate.outcome != "completed":
                    findings.fail(leaf.place, f"{predicate.outcome}, yet it changes the adapter")
                elif predicate.kind == KEYS:
                    findings.fail(leaf.place, "makes a key, yet it changes the adapter")
            current = predicate.adapter_out
        elif isinstance(predicate, ConclusionPredicate) and predicate.adapter != current:
            findings.fail(
                leaf.place, f"concludes with adapter {predicate.adapter}, in force is {current}"
            )
    return current


def check_adapter(folder: Path, expected: str, findings: Findings) -> None:
    """Compare the tensors of an adapter folder with the last adapter hash of the log."""
    try:
        tensors = dict(_load(folder / ADAPTER_FILE))
        if (folder / HEAD_FILE).exists():
            head = _load(folder / HEAD_FILE)
            tensors.update({HEAD_PREFIX + name: tensor for name, tensor in head.items()})
        found = hash_tensors(tensors).hex()
    except (OSError, SafetensorError, CryptoError, KeyError, ValueError, TypeError) as error:
        findings.fail(str(folder), f"cannot be hashed: {error}")
        return
    if found != expected:
        findings.fail(str(folder), f"has tensor hash {found}, the log ends with {expected}")


def _load(path: Path) -> Mapping[str, NDArray[Any]]:
    size = path.stat().st_size
    if size > MAX_ADAPTER_BYTES:
        raise ValueError(f"{path.name} has {size} bytes, at most {MAX_ADAPTER_BYTES} are read")
    tensors: dict[str, NDArray[Any]] = load(path.read_bytes())
    return tensors
