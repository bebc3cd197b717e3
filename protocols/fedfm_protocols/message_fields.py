"""Bounds and field types that the bodies of messages are made of.

Source: protocols/README.md, section "Codec".
"""

from __future__ import annotations

from typing import Annotated

from fedfm_crypto.codec import Bytes32, MaxCount, MaxLength, Name

MAX_PARTICIPANTS = 4096
MAX_STEPS = 1024
MAX_NOTE_BYTES = 65536
MAX_LOG_KEY_CHANGES = 1000
MAX_ENVELOPE_BYTES = 131_072
MAX_SEALED_BYTES = 262_144
MAX_WORDS_BYTES = 1 << 30
MAX_REASON_BYTES = 512
SHARE_VALUE_BYTES = 33
PUBLIC_SHARE_BYTES = 196_608  # three residues of 8,192 values
KEY_SHARE_BYTES = 131_072  # two residues of 8,192 values
MAX_WRAP_BYTES = 270_000
MAX_WRAP_ENVELOPE_BYTES = 271_000
MAX_OPENING_BYTES = KEY_SHARE_BYTES + 64
MAX_OPENING_ENVELOPE_BYTES = 132_096
MAX_PUBLIC_KEY_BYTES = 400_000
MAX_SKETCH_BYTES = 400_000
MAX_EVALUATION_BYTES = 1 << 20
MAX_SCORES_BYTES = 1 << 29
MAX_SUM_SKETCH_BYTES = 33_000  # 4,096 integers of 8 bytes, sealed
MAX_DECRYPTORS = 500
MAX_EARLIER_KEYS = 1024

Names = Annotated[tuple[Name, ...], MaxCount(MAX_PARTICIPANTS)]
Note = Annotated[bytes, MaxLength(MAX_NOTE_BYTES)]
EncodedEnvelope = Annotated[bytes, MaxLength(MAX_ENVELOPE_BYTES)]
EncodedEnvelopes = Annotated[tuple[EncodedEnvelope, ...], MaxCount(MAX_PARTICIPANTS)]
Proof = Annotated[tuple[Bytes32, ...], MaxCount(64)]
Words = Annotated[bytes, MaxLength(MAX_WORDS_BYTES)]
ShareValue = Annotated[bytes, MaxLength(SHARE_VALUE_BYTES)]
