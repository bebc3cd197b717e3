"""A validator's durable memory: exact, one transaction with its journal, of one federation."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from fedfm_protocols.effects import Persist
from fedfm_protocols.validator_states import EpochSecret, JudgedRound, ValidatorMemory
from secure_fedfm.errors import StorageError
from secure_fedfm.services.validator_memory import (
    ValidatorJournal,
    decode_memory,
    encode_memory,
)
from secure_fedfm.storage.database import Database

FEDERATION = "ab" * 32
RANDOM = SeededRandom(b"validator memory")


def epoch(number: int) -> EpochSecret:
    return EpochSecret(
        number,
        RANDOM(32),
        Secret(RANDOM(32)),
        AgreementKey.generate(RANDOM),
        number - 1,
        (RANDOM(300), RANDOM(500)),
    )


def judged(number: int) -> JudgedRound:
    seen = CheckpointSeen(7, RANDOM(32))
    names = ("clinic-1", "clinic-3")
    return JudgedRound(number, 0, RANDOM(32), 2, RANDOM(32), b"said", RANDOM(32), names, seen)


def plain(memory: ValidatorMemory) -> object:
    """What can be compared: keys by their bytes."""
    keys = [
        (k.epoch, k.key_hash, k.secret.reveal(), k.box.secret.reveal(), k.served, k.announced)
        for k in memory.keys
    ]
    return memory.epoch, keys, memory.rule, memory.judged


@pytest.mark.parametrize(
    "memory",
    [
        ValidatorMemory(),
        ValidatorMemory(2, (epoch(1), epoch(2)), b"a rule's own", judged(3)),
        ValidatorMemory(
            2, (epoch(2),), b"", replace(judged(3), binding_request=bytes(32), binding=b"bound")
        ),
    ],
)
def test_memories_are_read_back_exactly(memory: ValidatorMemory) -> None:
    assert plain(decode_memory(encode_memory(memory))) == plain(memory)


def test_what_is_no_memory_is_refused() -> None:
    data = encode_memory(ValidatorMemory(1, (epoch(1),), b"", judged(1)))
    for wrong in (b"", data[:-1], data + b"\x00"):
        with pytest.raises(StorageError, match="no readable validator memory"):
            decode_memory(wrong)


def test_a_record_goes_with_its_memory_and_openings_or_not_at_all(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.sqlite")
    journal = ValidatorJournal(database, FEDERATION)
    assert plain(journal.recall()) == plain(ValidatorMemory())
    first = ValidatorMemory(1, (epoch(1),), b"one", judged(1))
    openings = {"clinic-1": (bytes(32), b"scores"), "clinic-3": (bytes(32), b"others")}
    journal.record(Persist(1, 0, "judged", b"verdict"), first, openings)
    assert plain(journal.recall()) == plain(first)
    assert journal.judged_rounds() == 1
    # Another verdict on the same round is a second one: nothing of it is kept.
    second = replace(first, rule=b"two")
    with pytest.raises(StorageError, match="will not do it twice"):
        journal.record(Persist(1, 0, "judged", b"another"), second)
    assert plain(journal.recall()) == plain(first)
    database.close()
    mode = (tmp_path / "state.sqlite").stat().st_mode
    assert not mode & (stat.S_IRWXG | stat.S_IRWXO)


def test_the_file_of_another_federation_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.sqlite")
    ValidatorJournal(database, FEDERATION)
    with pytest.raises(StorageError, match="belongs to another federation"):
        ValidatorJournal(database, "cd" * 32)
    database.close()
