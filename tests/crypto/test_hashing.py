"""Labelled hashes are injective; tensor hashes depend on values and not on memory layout."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import hash_parts, hash_tensors, length_prefixed
from fedfm_crypto.labels import Label

PARTS = st.tuples(st.sampled_from(Label), st.lists(st.binary(max_size=12), max_size=4))


def test_hash_parts_is_sha256_over_u64_length_prefixed_parts() -> None:
    label = Label.ENVELOPE.value
    expected = len(label).to_bytes(8, "big") + label + bytes(7) + b"\x03abc" + bytes(8)
    assert length_prefixed(Label.ENVELOPE, b"abc", b"") == expected
    assert hash_parts(Label.ENVELOPE, b"abc", b"") == hashlib.sha256(expected).digest()


@given(PARTS, PARTS)
def test_length_prefixing_is_injective(
    one: tuple[Label, list[bytes]], other: tuple[Label, list[bytes]]
) -> None:
    same = one == other
    assert (length_prefixed(one[0], *one[1]) == length_prefixed(other[0], *other[1])) is same


def test_moving_a_byte_between_parts_changes_the_hash() -> None:
    assert hash_parts(Label.DEALERS, b"ab", b"c") != hash_parts(Label.DEALERS, b"a", b"bc")
    assert hash_parts(Label.DEALERS, b"abc") != hash_parts(Label.DEALERS, b"abc", b"")
    assert hash_parts(Label.DEALERS, b"abc") != hash_parts(Label.UPLOAD, b"abc")


def test_hash_tensors_equals_hash_parts_over_its_definition() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    scale = np.float64(2.5)
    expected = hash_parts(
        Label.TENSORS,
        b"layer.a",
        b"<f4",
        (2).to_bytes(8, "big") + (3).to_bytes(8, "big"),
        a.tobytes(),
        b"scale",
        b"<f8",
        b"",
        np.array(scale).tobytes(),
    )
    assert hash_tensors({"scale": np.array(scale), "layer.a": a}) == expected
    assert hash_tensors({}) == hash_parts(Label.TENSORS)


def test_memory_layout_and_byte_order_do_not_matter() -> None:
    a = np.arange(12, dtype=np.int32).reshape(3, 4)
    base = hash_tensors({"a": a})
    for same in (np.asfortranarray(a), a.astype(">i4"), np.repeat(a, 2, axis=1)[:, ::2]):
        assert hash_tensors({"a": same}) == base


@pytest.mark.parametrize(
    "changed",
    [
        {"a": np.arange(12, dtype=np.int32).reshape(4, 3)},
        {"a": np.arange(12, dtype=np.int64).reshape(3, 4)},
        {"a": np.arange(12, dtype=np.uint32).reshape(3, 4)},
        {"b": np.arange(12, dtype=np.int32).reshape(3, 4)},
        {"a": np.arange(1, 13, dtype=np.int32).reshape(3, 4)},
        {"a": np.arange(12, dtype=np.int32).reshape(3, 4), "b": np.zeros(0)},
        {},
    ],
)
def test_any_other_name_dtype_shape_or_value_changes_the_hash(
    changed: dict[str, np.ndarray],
) -> None:
    assert hash_tensors(changed) != hash_tensors({"a": np.arange(12, dtype=np.int32).reshape(3, 4)})


@pytest.mark.parametrize("dtype", ["O", "U3", "c16", "g", "M8[s]"])
def test_dtypes_without_portable_bytes_are_refused(dtype: str) -> None:
    with pytest.raises(CryptoError, match="dtype"):
        hash_tensors({"a": np.zeros(2, dtype=dtype)})
