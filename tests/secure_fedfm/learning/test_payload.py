"""Tensors to a vector and back; adapters are immutable and hashed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedfm.errors import ModelError
from secure_fedfm.learning.adapter_state import Adapter, read_tensor_file
from secure_fedfm.learning.payload import TensorLayout, delta

shapes = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    min_size=1,
    max_size=5,
)


@given(shapes, st.integers(0, 2**32))
def test_layout_round_trip(named: dict[str, tuple[int, ...]], seed: int) -> None:
    random = np.random.default_rng(seed)
    tensors = {n: random.normal(size=s).astype(np.float32) for n, s in named.items()}
    layout = TensorLayout.of(tensors)
    vector = layout.flatten(tensors)
    assert vector.shape == (sum(t.size for t in tensors.values()),)
    back = layout.unflatten(vector)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_the_documented_order_is_the_order() -> None:
    tensors = {"b": np.full((2,), 2, np.float32), "a": np.arange(4, dtype=np.float32).reshape(2, 2)}
    layout = TensorLayout.of(tensors)
    assert layout.names == ("a", "b")
    assert layout.offsets == (0, 4)
    assert layout.flatten(tensors).tolist() == [0, 1, 2, 3, 2, 2]


def test_layout_hash_is_over_canonical_json_and_sees_shape_and_name() -> None:
    layout = TensorLayout(("a", "b"), ((2, 3), (4,)))
    assert layout.hash() == hashlib.sha256(b'[["a",[2,3]],["b",[4]]]').digest()
    assert TensorLayout(("a", "b"), ((3, 2), (4,))).hash() != layout.hash()
    assert TensorLayout(("a", "c"), ((2, 3), (4,))).hash() != layout.hash()


def test_misfits_are_refused() -> None:
    layout = TensorLayout(("a",), ((2,),))
    with pytest.raises(ModelError, match="'a' is missing"):
        layout.flatten({})
    with pytest.raises(ModelError, match="expected float32 of shape"):
        layout.flatten({"a": np.zeros(3, np.float32)})
    with pytest.raises(ModelError, match="expected float32 of shape"):
        layout.unflatten(np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="sorted"):
        TensorLayout(("b", "a"), ((1,), (1,)))


def test_delta_is_after_minus_before_and_must_be_finite() -> None:
    layout = TensorLayout(("a",), ((2,),))
    before, after = {"a": np.array([1, 2], np.float32)}, {"a": np.array([4, 1], np.float32)}
    assert delta(layout, before, after).tolist() == [3, -1]
    with pytest.raises(ModelError, match="diverged"):
        delta(layout, before, {"a": np.array([np.inf, 0], np.float32)})


def test_an_adapter_cannot_be_changed_and_its_hash_covers_frozen_tensors() -> None:
    source = np.zeros((2, 2), np.float32)
    adapter = Adapter({"m.lora_A.weight": source, "head.bias": np.ones(2, np.float32)})
    digest = adapter.hash()
    source[0, 0] = 5
    assert adapter.hash() == digest
    with pytest.raises(ValueError, match="read-only"):
        adapter["m.lora_A.weight"][0, 0] = 1
    changed = Adapter({**adapter, "m.lora_A.weight": source})
    assert changed != adapter
    assert Adapter.from_bytes(adapter.to_bytes()) == adapter
    assert set(adapter.peft_tensors()) == {"m.lora_A.weight"}
    assert set(adapter.head_tensors()) == {"bias"}


def test_unreadable_tensor_files_are_named(tmp_path: object) -> None:
    with pytest.raises(ModelError, match="not a safetensors file"):
        Adapter.from_bytes(b"{}")
    from pathlib import Path

    with pytest.raises(ModelError, match="cannot read"):
        read_tensor_file(Path(str(tmp_path)) / "absent.safetensors")
