"""Random sources: length is checked, seeded streams repeat."""

from __future__ import annotations

import pytest

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.random_source import SeededRandom, draw, system_random


def test_system_random_gives_fresh_bytes() -> None:
    assert len(system_random(32)) == 32
    assert system_random(32) != system_random(32)


def test_equal_seeds_give_equal_streams_however_they_are_cut() -> None:
    one, other = SeededRandom(7), SeededRandom(7)
    assert one(5) + one(0) + one(27) == other(32)
    assert SeededRandom(7)(32) != SeededRandom(8)(32)
    assert SeededRandom(b"7")(32) != SeededRandom(7)(32)


def test_draw_refuses_a_source_that_returns_too_little_or_no_bytes() -> None:
    assert draw(SeededRandom(1), 16) == SeededRandom(1)(16)
    with pytest.raises(CryptoError, match="31 bytes, expected 32"):
        draw(lambda count: bytes(count - 1), 32)
    with pytest.raises(CryptoError, match="bytearray"):
        draw(bytearray, 32)  # type: ignore[arg-type]
