"""One leaf of a log, shown to somebody who has no bundle.

::

    {"version": 1, "charter": <base64>, "leaf": <base64>, "index": N, "path": [<hex>, ...],
     "checkpoint": <note text>,
     "step": null | {"number": S, "part": <base64>, "path": [<hex>, ...]},
     "log_keys": [{"leaf": <base64>, "index": N, "path": [<hex>, ...]}, ...]}

The document (canonical JSON) carries the signed charter, because it names who may sign which
statement; the path is the inclusion proof of RFC 6962; the checkpoint stands as it does in the
bundle.  ``log_keys`` are the leaves by which the log's key changed, each with its path; the field
is there exactly if there is one.  ``step`` is one step of a session with its path to the root that
the round's statement holds.  ``tlog_proof`` is the same proof as other implementations read it,
without charter and leaf.  Source: https://c2sp.org/tlog-proof
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fedfm_audit.errors import ProofError
from fedfm_audit.steps_summary import StepProof
from fedfm_audit.strict_document import (
    base64_of,
    check_version,
    exact_fields,
    items_of,
    read_document,
    text_of,
)
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.strict_base64 import encode_base64

VERSION = 1
MAX_DOCUMENT_BYTES = 64 << 20
_FIELDS = frozenset({"version", "charter", "leaf", "index", "path", "checkpoint", "step"})
_STEP_FIELDS = frozenset({"number", "part", "path"})
_LOG_KEYS = "log_keys"
_CHANGE_FIELDS = frozenset({"leaf", "index", "path"})
_MAX_CHANGES = 1000
_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_PATH = 64  # twice what a tree of this log or a session can need


@dataclass(frozen=True, slots=True)
class PlacedLeaf:
    """A leaf, its index, and its path to the checkpoint's root."""

    leaf: bytes = field(repr=False)
    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class InclusionDocument:
    """A leaf, the charter that says who may sign it, its path, and the checkpoint's note;
    ``log_keys`` are the changes of the log's key below that checkpoint."""

    charter: bytes = field(repr=False)
    leaf: bytes = field(repr=False)
    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes = field(repr=False)
    step: StepProof | None = None
    log_keys: tuple[PlacedLeaf, ...] = ()

    def encode(self) -> bytes:
        """Canonical JSON of the document."""
        step = self.step
        changes = [
            {
                "leaf": encode_base64(one.leaf),
                "index": one.index,
                "path": [node.hex() for node in one.path],
            }
            for one in self.log_keys
        ]
        return canonical_encode(
            {
                **({_LOG_KEYS: changes} if changes else {}),
                "version": VERSION,
                "charter": encode_base64(self.charter),
                "leaf": encode_base64(self.leaf),
                "index": self.index,
                "path": [node.hex() for node in self.path],
                "checkpoint": self.checkpoint.decode(),
                "step": None
                if step is None
                else {
                    "number": step.step,
                    "part": encode_base64(step.leaf),
                    "path": [node.hex() for node in step.path],
                },
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> InclusionDocument:
        """Parse a document; only the bytes that :meth:`encode` writes are accepted.

        Raises
        ------
        ProofError
            if it is anything else.
        """
        return read_document(data, "an inclusion document", MAX_DOCUMENT_BYTES, cls._read)

    @classmethod
    def _read(cls, parsed: object) -> InclusionDocument:
        changed = isinstance(parsed, dict) and _LOG_KEYS in parsed
        names = _FIELDS | ({_LOG_KEYS} if changed else set())
        fields = exact_fields(parsed, names, "the document")
        check_version(fields["version"], VERSION)
        step = fields["step"]
        return cls(
            charter=base64_of(fields["charter"], "charter"),
            leaf=base64_of(fields["leaf"], "leaf"),
            index=_number(fields["index"], "index"),
            path=_path(fields["path"]),
            checkpoint=text_of(fields["checkpoint"], "checkpoint").encode(),
            step=None if step is None else _read_step(step),
            log_keys=_read_changes(fields[_LOG_KEYS]) if changed else (),
        )

    def tlog_proof(self) -> bytes:
        """The proof in the format c2sp.org/tlog-proof@v1; the leaf is the data it is about."""
        lines = [
            "c2sp.org/tlog-proof@v1",
            f"index {self.index}",
            *(encode_base64(node) for node in self.path),
            "",
        ]
        return ("\n".join(lines) + "\n").encode() + self.checkpoint


def _read_changes(value: object) -> tuple[PlacedLeaf, ...]:
    found = []
    for item in items_of(value, _LOG_KEYS, _MAX_CHANGES, least=1):
        fields = exact_fields(item, _CHANGE_FIELDS, _LOG_KEYS)
        found.append(
            PlacedLeaf(
                base64_of(fields["leaf"], "log_keys.leaf"),
                _number(fields["index"], "log_keys.index"),
                _path(fields["path"]),
            )
        )
    return tuple(found)


def _read_step(value: object) -> StepProof:
    fields = exact_fields(value, _STEP_FIELDS, "step")
    return StepProof(
        _number(fields["number"], "step.number"),
        base64_of(fields["part"], "step.part"),
        _path(fields["path"]),
    )


def _number(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ProofError(f"{where}: expected a number")
    return value


def _path(value: object) -> tuple[bytes, ...]:
    nodes = [text_of(node, "path") for node in items_of(value, "path", _MAX_PATH)]
    if not all(_HASH.fullmatch(node) for node in nodes):
        raise ProofError("path: expected hashes in lowercase hex")
    return tuple(bytes.fromhex(node) for node in nodes)
