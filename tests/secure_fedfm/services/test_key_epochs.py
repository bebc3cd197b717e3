"""When the coordinator has a key made: for want of one, in doubt, and for those who lack it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedfm_protocols.coordinator_round import CollectiveKey
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.federation import Federation
from fedfm_protocols.thresholds import Thresholds
from secure_fedfm.services.key_epochs import MOST_KEYS_FOR_ONE, KeyEpochs

NAMES = ("a", "b", "c", "d", "e")
EVERYBODY = set(NAMES)
KEY = CollectiveKey(1, b"1" * 32, NAMES)
OTHER = b"2" * 32


@dataclass
class _Terms:
    """What the decision reads of a federation."""

    encrypted: bool = True
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(5, 1, 1))


def epochs(held: dict[str, bytes] | None = None, *, encrypted: bool = True) -> KeyEpochs:
    everybody = dict.fromkeys(NAMES, KEY.key_hash)
    return KeyEpochs(cast(Federation, _Terms(encrypted)), held=everybody if held is None else held)


def finished(outcome: str, acks: str = "", key: CollectiveKey | None = None) -> Finished:
    taken: dict[Any, bytes] = {(name, 0, "RoundAck"): b"" for name in acks}
    taken |= {(name, 0, "KeyOffer"): b"" for name in NAMES}
    return cast(
        Finished, SimpleNamespace(outcome=outcome, key=key, round=SimpleNamespace(taken=taken))
    )


def test_without_encryption_there_is_no_key_and_everybody_takes_part() -> None:
    plain = epochs({}, encrypted=False)
    assert not plain.needed(EVERYBODY, None)
    assert plain.holding(EVERYBODY, None) == EVERYBODY


def test_the_first_key_is_needed_and_the_same_is_not_made_again() -> None:
    made = epochs({})
    assert made.needed(EVERYBODY, None)
    assert made.holding(EVERYBODY, None) == set()
    made.note(finished("completed", "abcd", KEY))
    assert made.holding(EVERYBODY, KEY) == set("abcd")
    made.held["e"] = KEY.key_hash
    assert not made.needed(EVERYBODY, KEY)


def test_who_lacks_the_key_gets_one_a_few_times_and_then_no_more() -> None:
    lost = epochs({**dict.fromkeys("abcd", KEY.key_hash), "e": OTHER})
    assert [lost.needed(EVERYBODY, KEY) for _ in range(MOST_KEYS_FOR_ONE + 2)] == [
        *[True] * MOST_KEYS_FOR_ONE,
        *[False] * 2,
    ]
    assert lost.supplied == Counter(e=MOST_KEYS_FOR_ONE)
    assert lost.holding(EVERYBODY, KEY) == set("abcd")


def test_who_is_not_there_is_not_waited_for() -> None:
    away = epochs(dict.fromkeys("abcd", KEY.key_hash))
    assert not away.needed(set("abcd"), KEY)
    assert away.supplied == Counter()


@pytest.mark.parametrize(
    ("held", "holders"),
    [
        (dict.fromkeys("abc", KEY.key_hash), NAMES),  # too few for a round, whoever they are
        (dict.fromkeys("abcde", KEY.key_hash), ("e", "x")),  # too few shares to open a sum
    ],
)
def test_a_key_that_cannot_serve_is_replaced_however_often(
    held: dict[str, bytes], holders: tuple[str, ...]
) -> None:
    useless = epochs(held)
    for _ in range(2 * MOST_KEYS_FOR_ONE):
        assert useless.needed(EVERYBODY, CollectiveKey(1, KEY.key_hash, holders))


def test_a_sum_that_did_not_open_casts_doubt_on_the_key_until_a_round_completes() -> None:
    doubted = epochs()
    doubted.note(finished("void"))
    assert doubted.needed(EVERYBODY, KEY)
    doubted.note(finished("aborted"))
    assert not doubted.needed(EVERYBODY, KEY)
