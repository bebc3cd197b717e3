"""C2SP tlog-policy: which log key, which witnesses and how many of them make a head valid.

The bundle's policy is rendered from the charter, one text for one charter.  An auditor's own
policy may be any text in the format; it is parsed strictly, within bounds.
Source: https://c2sp.org/tlog-policy
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedfm_audit.charter_view import CharterView
from fedfm_audit.errors import PolicyError
from fedfm_audit.log_keys import LogKeys
from fedfm_crypto.errors import NoteError
from fedfm_crypto.note import NoteAlgorithm, VerifierKey, format_vkey, parse_vkey

MAX_POLICY_BYTES = 1 << 20
MAX_LINES = 10_000
CLIENT_GROUP = "clients"
_COUNT = re.compile(r"[1-9][0-9]{0,5}")
_NONE = "none"


@dataclass(frozen=True, slots=True)
class Group:
    """Witnessed when at least ``needed`` of ``members`` (witnesses or earlier groups) are."""

    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy.  ``quorum`` names a witness or a group; ``none`` asks for no witness."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, Group]
    quorum: str

    @property
    def vkeys(self) -> tuple[VerifierKey, ...]:
        """All keys of logs and witnesses."""
        return (*self.logs, *self.witnesses.values())

    def satisfied_by(self, cosigned: Iterable[VerifierKey]) -> bool:
        """Whether cosignatures of these keys meet the quorum."""
        keys = set(cosigned)
        met = {name: key in keys for name, key in self.witnesses.items()}
        # Groups only refer to names defined before them, so one pass in order is enough.
        for name, group in self.groups.items():
            met[name] = sum(met[member] for member in group.members) >= group.needed
        return self.quorum == _NONE or met[self.quorum]


def render_policy(charter: CharterView, keys: LogKeys | None = None) -> bytes:
    """The one policy text of a charter: the log key in force at the end of ``keys`` (left out: the
    charter's), every client as a witness, and ``vote_quorum`` of them as the quorum."""
    last = charter.log_key if keys is None else keys.last
    changes = () if keys is None else keys.keys[1:]
    names = [key.name for key in charter.witnesses]
    lines = [
        f"# C2SP tlog-policy of federation {charter.federation}",
        f"# rendered from the charter with SHA-256 {charter.digest.hex()}",
        *(f"# leaf {change.above} changed the log's key" for change in changes),
        f"log {_vkey(last)}",
        "",
        *(f"witness {key.name} {_vkey(key)}" for key in charter.witnesses),
        "",
        f"group {CLIENT_GROUP} {charter.thresholds.vote_quorum} {' '.join(names)}",
        f"quorum {CLIENT_GROUP}",
    ]
    return ("\n".join(lines) + "\n").encode()


def _vkey(key: VerifierKey) -> str:
    return format_vkey(key.name, key.public, key.algorithm)


def parse_policy(data: bytes) -> Policy:
    """Read a policy text.

    Raises
    ------
    PolicyError
        naming the line that is wrong.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"policy of {len(data)} bytes, at most {MAX_POLICY_BYTES} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"policy is not UTF-8 at byte {error.start}") from error
    if not text.endswith("\n") or any((c < " " and c not in "\t\n") or c == "\x7f" for c in text):
        raise PolicyError("policy must end in a newline and hold no control characters")
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise PolicyError(f"policy of {len(lines)} lines, at most {MAX_LINES} are read")
    parser = _Parser()
    for number, line in enumerate(lines, start=1):
        words = [word for word in re.split(r"[ \t]+", line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            parser.take(words)
        except (PolicyError, NoteError) as error:
            raise PolicyError(f"policy line {number}: {error}") from error
    return parser.finish()


class _Parser:
    def __init__(self) -> None:
        self._logs: list[VerifierKey] = []
        self._witnesses: dict[str, VerifierKey] = {}
        self._groups: dict[str, Group] = {}
        self._used: set[str] = set()
        self._quorum: str | None = None

    def take(self, words: list[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self._logs.append(self._key(vkey, NoteAlgorithm.ED25519, self._logs))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                known = self._witnesses.values()
                key = self._key(vkey, NoteAlgorithm.COSIGNATURE_V1, known)
                self._witnesses[self._new_name(name)] = key
            case ["group", name, count, *members] if members:
                group = Group(self._needed(count, len(members)), self._members(members))
                self._groups[self._new_name(name)] = group
            case ["quorum", name] if self._quorum is None:
                if name != _NONE and not self._defined(name):
                    raise PolicyError(f"quorum {name!r} is not defined above")
                self._quorum = name
            case _:
                raise PolicyError(
                    f"{' '.join(words)[:80]!r} is no log, witness, group or (single) quorum line"
                )

    def finish(self) -> Policy:
        if self._quorum is None:
            raise PolicyError("policy without a quorum line")
        return Policy(tuple(self._logs), self._witnesses, self._groups, self._quorum)

    def _key(
        self, text: str, algorithm: NoteAlgorithm, known: Iterable[VerifierKey]
    ) -> VerifierKey:
        key = parse_vkey(text)
        if key.algorithm is not algorithm:
            raise PolicyError(
                f"key {key.name!r} has algorithm 0x{key.algorithm:02x}, expected 0x{algorithm:02x}"
            )
        if any(other.public == key.public for other in known):
            raise PolicyError(f"the key of {key.name!r} is listed twice")
        return key

    def _defined(self, name: str) -> bool:
        return name in self._witnesses or name in self._groups

    def _new_name(self, name: str) -> str:
        if name == _NONE or self._defined(name):
            raise PolicyError(f"the name {name!r} is already taken")
        return name

    def _members(self, names: list[str]) -> tuple[str, ...]:
        for name in names:
            if not self._defined(name):
                raise PolicyError(f"group member {name!r} is not defined above")
            if name in self._used:
                raise PolicyError(f"{name!r} is a member of a group already")
            self._used.add(name)
        return tuple(names)

    @staticmethod
    def _needed(count: str, members: int) -> int:
        if count in ("any", "all"):
            return 1 if count == "any" else members
        if _COUNT.fullmatch(count) is None or int(count) > members:
            raise PolicyError(f"a group of {members} cannot need {count[:16]!r} of them")
        return int(count)
