"""Suspects on disk: every form that a mark must be found in, and files that lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from fedfm_audit.watermark.adapter_suspect import AdapterSuspect
from fedfm_audit.watermark.claim import TargetModule
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.errors import SuspectError
from fedfm_audit.watermark.merged_suspect import MergedSuspect
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.suspect import LowRank, LowRankSuspect, NameIndex, Suspect
from fedfm_audit.watermark.tensor_file import TensorFile
from tests.audit.marks import Shape, host, owner, write_adapter

SHAPE = Shape(modules=3, width=40, rank=4)
SIDE = owner(1, SHAPE, size=128)
HOST = host(SHAPE)


def responses(suspect: Suspect) -> Any:
    return respond(Directions(SIDE.claim, SIDE.opening().key), suspect).values


EXPECTED = responses(LowRankSuspect(HOST))


def close(found: Any, tolerance: float = 1e-5) -> None:
    scale = float(np.abs(EXPECTED).max())
    np.testing.assert_allclose(found / scale, EXPECTED / scale, atol=tolerance)


# ---- adapters


def test_an_adapter_folder(tmp_path: Path) -> None:
    suspect = AdapterSuspect.open(write_adapter(tmp_path, HOST))
    close(responses(suspect))
    assert suspect.modules() == SIDE.claim.modules


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "base_model.model.bert."])
def test_prefixes_of_tensor_names_do_not_matter(tmp_path: Path, prefix: str) -> None:
    close(responses(AdapterSuspect.open(write_adapter(tmp_path, HOST, prefix=prefix))))


def test_half_precision(tmp_path: Path) -> None:
    close(responses(AdapterSuspect.open(write_adapter(tmp_path, HOST, dtype="float16"))), 1e-2)


def test_the_scale_is_taken_into_account_module_by_module(tmp_path: Path) -> None:
    """(c B, alpha / c) is the same adapter, per module too, and with rsLoRA."""
    first, *_ = HOST
    factors = {n: LowRank(f.b * (8 if n == first else 1), f.a, f.scale) for n, f in HOST.items()}
    close(responses(AdapterSuspect.open(
        write_adapter(tmp_path / "a", factors, {"alpha_pattern": {"00.query": 1}}))))  # fmt: skip
    config = {"use_rslora": True, "lora_alpha": 2.0 * 2}
    close(responses(AdapterSuspect.open(write_adapter(tmp_path / "b", HOST, config))))


def test_another_rank(tmp_path: Path) -> None:
    wider = {
        n: LowRank(np.hstack([f.b, f.b]), np.vstack([f.a, f.a]) / np.float32(2), f.scale)
        for n, f in HOST.items()
    }
    close(responses(AdapterSuspect.open(write_adapter(tmp_path, wider))))


def test_modules_that_were_thrown_away_are_counted_as_unchanged(tmp_path: Path) -> None:
    kept = dict(list(HOST.items())[:2])
    suspect = AdapterSuspect.open(write_adapter(tmp_path, kept))
    found = respond(Directions(SIDE.claim, SIDE.opening().key), suspect)
    assert found.modules == 2
    assert not np.allclose(found.values, EXPECTED)


# ---- merged weights


def base_weights(transposed: bool = False) -> dict[str, Any]:
    generator = np.random.default_rng(9)
    found = {f"{n}.weight": generator.normal(size=(40, 40)) * 0.04 for n in HOST}
    return {n: (w.T if transposed else w).astype(np.float32).copy() for n, w in found.items()}


def merged_weights(base: dict[str, Any], transposed: bool = False) -> dict[str, Any]:
    found = {}
    for name, factors in HOST.items():
        change = factors.product()
        found[f"{name}.weight"] = base[f"{name}.weight"] + (change.T if transposed else change)
    return {n: np.ascontiguousarray(w) for n, w in found.items()}


def test_merged_weights(tmp_path: Path) -> None:
    base = base_weights()
    save_file(base, tmp_path / "base.safetensors")
    merged = {f"model.{n}": w for n, w in merged_weights(base).items()}
    save_file(merged, tmp_path / "merged.safetensors")
    places = (tmp_path / "merged.safetensors", tmp_path / "base.safetensors")
    close(responses(MergedSuspect.open(*places)), 1e-4)


def test_shards_strips_and_transposed_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedfm_audit.watermark import merged_suspect

    monkeypatch.setattr(merged_suspect, "_STRIP_VALUES", 16 * 40)  # three strips a matrix
    base = base_weights(transposed=True)
    for place, weights in (("base", base), ("merged", merged_weights(base, transposed=True))):
        (tmp_path / place).mkdir()
        for number, (name, weight) in enumerate(weights.items()):
            save_file({name: weight}, tmp_path / place / f"model-{number}.safetensors")
    turned = owner(1, SHAPE, size=128)
    modules = tuple(TargetModule(m.name, 40, 40, 4, True) for m in turned.claim.modules)
    suspect = MergedSuspect.open(tmp_path / "merged", tmp_path / "base")
    plain = Directions(SIDE.claim, SIDE.opening().key)
    total = np.zeros(128)
    for module in modules:
        pieces = list(suspect.pieces(module, suspect.locate(modules)[module.name]))
        assert len(pieces) == 3
        for where, u, v in plain.blocks(module):
            for piece in pieces:
                assert not isinstance(piece, LowRank)
                assert piece.transposed
                part = v.part(piece.start, piece.start + len(piece.values))
                total[where] += np.einsum("jk,jk->j", part, u.signs() @ piece.values.T)
    close(total, 1e-4)
    import dataclasses

    claim = dataclasses.replace(SIDE.claim, modules=modules)
    opening = SIDE.key.open(SIDE.key.commit(claim, SIDE.identity), 0)
    directions = Directions(claim, opening.key)
    through = respond(directions, suspect).values
    same = respond(directions, LowRankSuspect(HOST)).values
    np.testing.assert_allclose(through, same, atol=1e-4 * float(np.abs(same).max()))


def bfloat16(name: str, values: Any) -> bytes:
    """A safetensors file with one bfloat16 tensor, rounded towards zero."""
    data: bytes = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    header = {name: {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_bfloat16_and_doubles(tmp_path: Path) -> None:
    values = np.linspace(-3, 3, 12).reshape(3, 4)
    (tmp_path / "b.safetensors").write_bytes(bfloat16("w", values))
    np.testing.assert_allclose(
        TensorFile.open(tmp_path / "b.safetensors").rows("w", 1, 3), values[1:3], rtol=2**-7
    )
    save_file({"w": values}, tmp_path / "d.safetensors")
    read = TensorFile.open(tmp_path / "d.safetensors").matrix("w")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values, rtol=1e-6)


# ---- names


def test_names_match_at_dots_and_only_if_one_does() -> None:
    index = NameIndex(["bert.layer.0.query", "bert.layer.1.query", "x.layer.1.query", "query"])
    assert index.find("layer.0.query") == "bert.layer.0.query"
    assert index.find("ayer.0.query") is None
    assert index.find("layer.1.query") is None  # of two, none
    assert index.find("model.bert.layer.1.query") == "bert.layer.1.query"
    assert index.find("other.query") is None  # one component says too little


def test_one_tensor_for_two_modules_is_refused() -> None:
    with pytest.raises(SuspectError, match="stand for two modules"):
        NameIndex(["layer.0"]).all([TargetModule("a.layer.0", 8, 8, 1),
                                    TargetModule("b.layer.0", 8, 8, 1)])  # fmt: skip


# ---- hostile and damaged files


def write(folder: Path, data: bytes) -> Path:
    write_adapter(folder, HOST)
    (folder / "adapter_model.safetensors").write_bytes(data)
    return folder


def with_header(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "empty": b"",
    "header longer than the file": with_header({}, length=1 << 20),
    "header of 2^63": with_header({}, length=1 << 63),
    "no JSON": with_header(b"{{{"),
    "nested": with_header(b"[" * 100_000),
    "a list": with_header([]),
    "a name twice": with_header(
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    ),
    "offsets beyond the file": with_header({"a": tensor([1 << 20], 0, 4 << 20)}),
    "negative": with_header({"a": tensor([-1], 0, -4)}),
    "overlap": with_header({"a": tensor([1], 0, 4), "b": tensor([1], 2, 6)}, bytes(6)),
    "gap": with_header({"a": tensor([1], 4, 8)}, bytes(8)),
    "leftovers": with_header({"a": tensor([1], 0, 4)}, bytes(5)),
    "bytes for another shape": with_header({"a": tensor([2], 0, 4)}, bytes(4)),
    "shape of truth values": with_header({"a": tensor([True], 0, 4)}, bytes(4)),
    "huge shape": with_header({"a": tensor([1 << 47, 1 << 47], 0, 0)}),
    "unknown dtype": with_header({"a": tensor([1], 0, 4, "F33")}, bytes(4)),
    "dtype of an object": with_header({"a": tensor([1], 0, 4, {})}, bytes(4)),  # type: ignore[arg-type]
}
HOSTILE = {
    "no LoRA at all": save({"w": np.zeros((2, 2), np.float32)}),
    "half a layer": save({"layers.00.query.lora_A.weight": np.zeros((2, 40), np.float32)}),
    "a vector for a factor": save(
        {f"layers.00.query.lora_{x}.weight": np.zeros(40, np.float32) for x in "AB"}
    ),
    "integers": save(
        {f"layers.00.query.lora_{x}.weight": np.zeros((40, 40), np.int8) for x in "AB"}
    ),
    "not finite": save(
        {f"layers.00.query.lora_{x}.weight": np.full((40, 40), np.nan, np.float32) for x in "AB"}
    ),
    "infinite as a float32": save(
        {f"layers.00.query.lora_{x}.weight": np.full((40, 40), 1e300) for x in "AB"}
    ),
    "another width": save(
        {f"layers.00.query.lora_{x}.weight": np.zeros((8, 8), np.float32) for x in "AB"}
    ),
    "a rank above any": save(
        {
            "layers.00.query.lora_A.weight": np.zeros((64, 40), np.float32),
            "layers.00.query.lora_B.weight": np.zeros((40, 64), np.float32),
        }
    ),
    "factors of two ranks": save(
        {
            "layers.00.query.lora_A.weight": np.zeros((4, 40), np.float32),
            "layers.00.query.lora_B.weight": np.zeros((40, 3), np.float32),
        }
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_are_refused_before_anything_is_read(tmp_path: Path, what: str) -> None:
    folder = write(tmp_path, DAMAGED[what])
    with pytest.raises(SuspectError, match="is no valid safetensors file"):
        AdapterSuspect.open(folder)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_adapters_are_errors_that_say_so(tmp_path: Path, what: str) -> None:
    folder = write(tmp_path, HOSTILE[what])
    with pytest.raises(SuspectError):
        responses(AdapterSuspect.open(folder))


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"peft_type": "IA3"}',
        b'{"peft_type": "LORA", "lora_alpha": NaN}',
        b'{"peft_type": "LORA", "lora_alpha": 1e400}',
        b'{"peft_type": "LORA", "lora_alpha": true}',
        b'{"peft_type": "LORA", "lora_alpha": 1' + b"0" * 4000 + b"}",
        b'{"peft_type": "LORA", "alpha_pattern": [1]}',
        b'{"peft_type": "LORA", "alpha_pattern": {"(a+)+b": 1}}',
        b" " * (1 << 20) + b'{"peft_type": "LORA"}',
        b"\xff",
    ],
    ids=lambda config: ascii(config[:40]),
)
def test_hostile_configurations_are_errors_that_say_so(tmp_path: Path, config: bytes) -> None:
    write_adapter(tmp_path, HOST)
    (tmp_path / "adapter_config.json").write_bytes(config)
    with pytest.raises(SuspectError):
        AdapterSuspect.open(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    write_adapter(tmp_path, HOST)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(SuspectError, match="check the path"):
        AdapterSuspect.open(tmp_path)
    os.mkfifo(tmp_path / "adapter_model.safetensors")
    with pytest.raises(SuspectError, match="no regular file"):
        AdapterSuspect.open(tmp_path)


def test_a_base_of_another_model_is_refused(tmp_path: Path) -> None:
    base = base_weights()
    save_file(merged_weights(base), tmp_path / "merged.safetensors")
    for name, weights in {
        "lacking": {"other.weight": np.zeros((40, 40), np.float32)},
        "narrow": {n: w[:20].copy() for n, w in base.items()},
    }.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
        with pytest.raises(SuspectError, match="base model"):
            responses(
                MergedSuspect.open(
                    tmp_path / "merged.safetensors", tmp_path / f"{name}.safetensors"
                )
            )
    (tmp_path / "none").mkdir()
    with pytest.raises(SuspectError, match="0 safetensors files"):
        MergedSuspect.open(tmp_path / "none", tmp_path / "merged.safetensors")
