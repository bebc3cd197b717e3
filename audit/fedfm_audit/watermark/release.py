"""The tensor hash of an adapter folder, as the log states it (audit/README.md, "Leaves")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from fedfm_audit.steps.adapters import ADAPTER_FILE, HEAD_FILE, HEAD_PREFIX, MAX_ADAPTER_BYTES
from fedfm_audit.watermark.errors import SuspectError
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import hash_tensors


def release_hash(folder: Path) -> bytes:
    """32 bytes, over adapter and head.

    Raises:
        SuspectError: missing, too large, damaged, or of a dtype that the hash does not know.
    """
    try:
        tensors = _load(folder / ADAPTER_FILE)
        if (folder / HEAD_FILE).exists():
            head = _load(folder / HEAD_FILE)
            tensors |= {HEAD_PREFIX + name: tensor for name, tensor in head.items()}
        return hash_tensors(tensors)
    except (OSError, SafetensorError, CryptoError, KeyError, ValueError, TypeError) as error:
        raise SuspectError(f"{folder} cannot be hashed: {error}") from error


def _load(path: Path) -> dict[str, NDArray[Any]]:
    size = path.stat().st_size
    if size > MAX_ADAPTER_BYTES:
        raise SuspectError(f"{path.name} has {size} bytes, at most {MAX_ADAPTER_BYTES} are read")
    tensors: dict[str, NDArray[Any]] = load(path.read_bytes())
    return tensors
