"""The label table keeps purposes apart."""

from __future__ import annotations

from itertools import permutations

import pytest

from fedfm_crypto.hashing import length_prefixed
from fedfm_crypto.labels import Label


def test_labels_are_unique_and_carry_the_version() -> None:
    values = [label.value for label in Label]
    assert len(set(values)) == len(values) == len(Label.__members__)
    assert all(value.startswith(b"secure-fedfm/v1/") for value in values)


def test_length_prefixed_labels_are_prefix_free() -> None:
    for one, other in permutations(Label, 2):
        assert not length_prefixed(other).startswith(length_prefixed(one))
        signed_one = bytes([len(one.value)]) + one.value
        assert not (bytes([len(other.value)]) + other.value).startswith(signed_one)


@pytest.mark.parametrize("label", Label)
def test_a_labelled_message_cannot_start_a_dsse_or_note_message(label: Label) -> None:
    # Its first byte is the label's length: a control character, and no newline.
    assert len(label.value) < 0x20
    assert len(label.value) != 0x0A
