"""Two histories of one log, shown to somebody who has neither of them.

::

    {"version": 1, "charter": <base64>, "log_keys": [<base64 leaf>, ...], "notes": [<note>, ...],
     "headers": [{"header": <base64>, "signature": <base64>}, ...]}

A client that was shown two histories keeps this document (canonical JSON): the signed charter, the
leaves by which the log's key changed, checkpoints that the log's key signed, and signed headers of
others that echo another head.  Two notes of one size with different roots prove the fork to
anybody, since no log has both; so does one note that a bundle of the federation contradicts.  A
header alone is its sender's word: the sender holds the other note, and both documents together
decide.  Source: RFC 9162 section 2.1.4; audit/README.md, "Documents made from a bundle".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import combinations
from typing import Any

from fedfm_audit.charter_view import CharterView, open_charter
from fedfm_audit.compare import read_log
from fedfm_audit.errors import ProofError
from fedfm_audit.log_keys import follow_log_keys
from fedfm_audit.report import printable
from fedfm_audit.strict_document import (
    base64_of,
    check_version,
    exact_fields,
    items_of,
    read_document,
    text_of,
)
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import SignedHeader
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.note import Checkpoint, open_note
from fedfm_crypto.strict_base64 import encode_base64

VERSION = 1
MAX_DOCUMENT_BYTES = 16 << 20
MAX_ITEMS = 1000
_LISTS = ("log_keys", "notes", "headers")
_FIELDS = frozenset({"version", "charter", *_LISTS})
_HEADER_FIELDS = frozenset({"header", "signature"})


class Verdict(Enum):
    """What a document shows."""

    PROVEN = "proven"
    CLAIMED = "claimed"
    NOT_SHOWN = "not shown"


@dataclass(frozen=True, slots=True)
class SplitViewDocument:
    """What one party keeps; ``notes`` are signed by the log, ``headers`` by parties."""

    charter: bytes = field(repr=False)
    log_keys: tuple[bytes, ...]
    notes: tuple[bytes, ...]
    headers: tuple[SignedHeader, ...]

    def encode(self) -> bytes:
        """Canonical JSON of the document."""
        return canonical_encode(
            {
                "version": VERSION,
                "charter": encode_base64(self.charter),
                "log_keys": [encode_base64(leaf) for leaf in self.log_keys],
                "notes": [note.decode() for note in self.notes],
                "headers": [
                    {
                        "header": encode_base64(encode(signed.header)),
                        "signature": encode_base64(signed.signature),
                    }
                    for signed in self.headers
                ],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> SplitViewDocument:
        """Parse a document; only the bytes that :meth:`encode` writes are accepted.

        Raises
        ------
        ProofError
            if it is anything else.
        """
        return read_document(data, "a split-view document", MAX_DOCUMENT_BYTES, cls._read)

    @classmethod
    def _read(cls, parsed: object) -> SplitViewDocument:
        fields = exact_fields(parsed, _FIELDS, "the document")
        check_version(fields["version"], VERSION)
        listed = {name: items_of(fields[name], name, MAX_ITEMS) for name in _LISTS}
        return cls(
            charter=base64_of(fields["charter"], "charter"),
            log_keys=tuple(base64_of(item, "log_keys") for item in listed["log_keys"]),
            notes=tuple(text_of(item, "notes").encode() for item in listed["notes"]),
            headers=tuple(_header(item) for item in listed["headers"]),
        )


@dataclass(frozen=True, slots=True)
class SplitView:
    """What documents (and a bundle) show together; ``findings`` say it for people."""

    verdict: Verdict
    federation: str
    charter: str
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """One versioned JSON document."""
        return {
            "version": VERSION,
            "verdict": self.verdict.value,
            "federation": self.federation,
            "charter": self.charter,
            "findings": list(self.findings),
        }

    def to_text(self) -> str:
        """A few lines for a person; the verdict comes first."""
        lines = [
            f"{self.verdict.value.upper()}  federation {self.federation}, charter {self.charter}",
            *self.findings,
        ]
        return "\n".join(printable(line) for line in lines) + "\n"


def judge_split_view(
    documents: Sequence[SplitViewDocument],
    *,
    bundle: Mapping[str, bytes] | None = None,
    charter_sha256: str | None = None,
) -> SplitView:
    """What one party's document, or several parties' together, show.

    Raises
    ------
    ProofError
        if a document is of another charter, or holds anything that is not signed as it must be.
    """
    charter = _one_charter(documents, charter_sha256)
    heads: dict[int, set[bytes]] = {}
    signed: list[SignedHeader] = []
    for document in documents:
        for head in _heads(charter, document):
            heads.setdefault(head.size, set()).add(head.root)
        signed += _headers(charter, document)
    proven = [
        f"the log's key signed two heads of size {size}: roots {first.hex()} and {second.hex()}"
        for size, roots in sorted(heads.items())
        for first, second in combinations(sorted(roots), 2)
    ]
    if bundle is not None:
        proven += _against_bundle(charter, bundle, heads)
    claims = [claim for one in signed for claim in _claims(one, heads)]
    verdict = Verdict.PROVEN if proven else Verdict.CLAIMED if claims else Verdict.NOT_SHOWN
    findings = [*proven, *claims]
    if not proven and len(heads) > 1:
        sizes = ", ".join(map(str, sorted(heads)))
        findings.append(
            f"the log's key signed heads of sizes {sizes}, which one history may have: its owner "
            "must show a consistency proof; give a bundle of the federation to find out"
        )
    if not findings:
        findings.append("nothing in it contradicts anything else")
    return SplitView(verdict, charter.federation, charter.digest.hex(), tuple(findings))


def _one_charter(documents: Sequence[SplitViewDocument], charter_sha256: str | None) -> CharterView:
    if not documents:
        raise ProofError("no document was given")
    charters = {document.charter for document in documents}
    try:
        views = [open_charter(charter) for charter in charters]
    except FedFMError as error:
        raise ProofError(f"the charter in the document: {error}") from error
    digests = {view.digest.hex() for view in views}
    if len(digests) > 1:
        raise ProofError(f"the documents are of different charters: {', '.join(sorted(digests))}")
    if charter_sha256 is not None and digests != {charter_sha256}:
        raise ProofError(f"the charter has SHA-256 {digests.pop()}, expected {charter_sha256}")
    return views[0]


def _heads(charter: CharterView, document: SplitViewDocument) -> list[Checkpoint]:
    try:
        keys = [key.key for key in follow_log_keys(charter, document.log_keys)]
        return [open_note(note, keys, strict=True).checkpoint for note in document.notes]
    except FedFMError as error:
        raise ProofError(f"a note that is not the log's: {error}") from error


def _headers(charter: CharterView, document: SplitViewDocument) -> list[SignedHeader]:
    for signed in document.headers:
        party = charter.parties.get(signed.header.sender)
        if party is None:
            raise ProofError(f"a header of {signed.header.sender}, who is not in the charter")
        try:
            signed.verify(party.identity)
        except FedFMError as error:
            raise ProofError(f"a header that does not verify: {error}") from error
    return list(document.headers)


def _claims(signed: SignedHeader, heads: Mapping[int, set[bytes]]) -> list[str]:
    header = signed.header
    others = heads.get(header.checkpoint_size, set()) - {header.checkpoint_root}
    said = (
        f"{header.sender} signed in its {header.type} that it was shown the log at size "
        f"{header.checkpoint_size} with root {header.checkpoint_root.hex()}"
    )
    if others:
        return [
            f"{said}; the log's key signed root {root.hex()} at that size. Either {header.sender} "
            "lies or the log has two histories: its own split-view document, or its note of that "
            "head, decides"
            for root in sorted(others)
        ]
    if header.checkpoint_size not in heads:
        return [f"{said}; no head of that size, signed by the log, is here to compare it with"]
    return []


def _against_bundle(
    charter: CharterView, bundle: Mapping[str, bytes], heads: Mapping[int, set[bytes]]
) -> list[str]:
    """Heads that the leaves below another head of the same key contradict."""
    log = read_log(bundle)
    if log is None or log.roots.charter.digest != charter.digest:
        raise ProofError(
            "the bundle is of another charter, or its steps 0 to 2 fail: see `audit verify`"
        )
    tree, found = log.tree, []
    for size, roots in sorted(heads.items()):
        for root in sorted(roots) if size <= tree.size else ():
            if tree.root(size) != root:
                found.append(
                    f"the log's key signed root {root.hex()} at size {size}; the leaves of the "
                    f"bundle, under a head of size {tree.size} signed by the log too, give "
                    f"{tree.root(size).hex()}"
                )
    return found


def _header(value: object) -> SignedHeader:
    fields = exact_fields(value, _HEADER_FIELDS, "headers")
    header, signature = (base64_of(fields[name], name) for name in ("header", "signature"))
    return decode(SignedHeader, header + signature)
