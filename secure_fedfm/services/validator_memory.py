"""A validator's durable memory: its sketch keys, the rule's memory, and what it said last.

The state file holds secrets (seeds of sketch keys, box keys) and is readable by its owner only.
What is written with a journal record is written in the same transaction, so that after a crash at
any moment the same request gets the same answer, or the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.codec import U32, U64, Bytes32, MaxCount, MaxLength, decode, encode
from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.errors import CodecError, CryptoError
from fedfm_crypto.secret import Secret
from fedfm_protocols.effects import Persist
from fedfm_protocols.message_fields import Names
from fedfm_protocols.validator_states import EpochSecret, JudgedRound, ValidatorMemory
from secure_fedfm.errors import StorageError
from secure_fedfm.storage.database import Database, store_journal, store_memory, store_openings

_KEY = "validator"
_MOST_KEYS = 2
_MOST_MEMORY_BYTES = 1 << 26
_MOST_ANNOUNCED_BYTES = 1 << 21

Encoded = Annotated[bytes, MaxLength(_MOST_ANNOUNCED_BYTES)]


@dataclass(frozen=True, slots=True)
class _StoredKey:
    epoch: U32
    key_hash: Bytes32
    seed: Bytes32 = field(repr=False)
    box: Bytes32 = field(repr=False)
    served: U32
    key: Encoded = field(repr=False)
    evaluation: Encoded = field(repr=False)


@dataclass(frozen=True, slots=True)
class _StoredJudgement:
    round: U64
    step: U32
    context: Bytes32
    key_epoch: U32
    request_hash: Bytes32
    verdict: Encoded = field(repr=False)
    verdict_hash: Bytes32
    accepted: Names
    log_size: U64
    log_root: Bytes32
    binding_request: Annotated[bytes, MaxLength(32)]
    binding: Encoded = field(repr=False)


@dataclass(frozen=True, slots=True)
class _StoredMemory:
    epoch: U32
    keys: Annotated[tuple[_StoredKey, ...], MaxCount(_MOST_KEYS)]
    rule: Annotated[bytes, MaxLength(_MOST_MEMORY_BYTES)] = field(repr=False)
    judged: _StoredJudgement | None


def encode_memory(memory: ValidatorMemory) -> bytes:
    """The memory as bytes, secrets included."""
    return encode(
        _StoredMemory(
            memory.epoch,
            tuple(_store_key(key) for key in memory.keys),
            memory.rule,
            None if memory.judged is None else _store_judged(memory.judged),
        )
    )


def decode_memory(data: bytes) -> ValidatorMemory:
    """The inverse of :func:`encode_memory`.

    Raises
    ------
    StorageError
        if the stored bytes are not a memory of this version.
    """
    try:
        stored = decode(_StoredMemory, data)
        return ValidatorMemory(
            stored.epoch,
            tuple(_read_key(key) for key in stored.keys),
            stored.rule,
            None if stored.judged is None else _read_judged(stored.judged),
        )
    except (CodecError, CryptoError) as error:
        raise StorageError("the state file holds no readable validator memory") from error


def _store_key(key: EpochSecret) -> _StoredKey:
    return _StoredKey(
        key.epoch,
        key.key_hash,
        key.secret.reveal(),
        key.box.secret.reveal(),
        key.served,
        *key.announced,
    )


def _read_key(stored: _StoredKey) -> EpochSecret:
    return EpochSecret(
        stored.epoch,
        stored.key_hash,
        Secret(stored.seed),
        AgreementKey.from_secret(Secret(stored.box)),
        stored.served,
        (stored.key, stored.evaluation),
    )


def _store_judged(judged: JudgedRound) -> _StoredJudgement:
    return _StoredJudgement(
        judged.round,
        judged.step,
        judged.context,
        judged.key_epoch,
        judged.request_hash,
        judged.verdict,
        judged.verdict_hash,
        judged.accepted,
        judged.checkpoint.size,
        judged.checkpoint.root,
        judged.binding_request,
        judged.binding,
    )


def _read_judged(stored: _StoredJudgement) -> JudgedRound:
    return JudgedRound(
        stored.round,
        stored.step,
        stored.context,
        stored.key_epoch,
        stored.request_hash,
        stored.verdict,
        stored.verdict_hash,
        stored.accepted,
        CheckpointSeen(stored.log_size, stored.log_root),
        stored.binding_request,
        stored.binding,
    )


class ValidatorJournal:
    """The validator's memory, journal and score openings in the site's state file.

    Raises
    ------
    StorageError
        if the file belongs to another federation.
    """

    def __init__(self, database: Database, federation: str) -> None:
        self._database = database
        stored = database.recall("federation")
        if stored is not None and stored != federation.encode():
            raise StorageError(
                "the state file belongs to another federation (charter "
                f"{stored.decode()[:16]}, this one is {federation[:16]}); every federation needs "
                "a site folder of its own"
            )
        database.remember({"federation": federation.encode()})

    def recall(self) -> ValidatorMemory:
        """The memory of the last run, or an empty one."""
        data = self._database.recall(_KEY)
        return ValidatorMemory() if data is None else decode_memory(data)

    def judged_rounds(self) -> int:
        """How many rounds were judged here."""
        return len({number for number, record, _ in self._database.journal() if record == "judged"})

    def record(
        self,
        persist: Persist,
        memory: ValidatorMemory,
        openings: Mapping[str, tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Write a journal record, the memory that belongs to it and what opens a verdict's
        commitments, all or nothing."""
        with self._database.transaction() as connection:
            store_journal(
                connection, persist.round, persist.record, persist.value, step=persist.step
            )
            store_memory(connection, {_KEY: encode_memory(memory)})
            store_openings(connection, persist.round, persist.step, openings or {})
