"""Step 0: the charter is signed by its founders' quorum, and the policy follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfm_audit.bundle import CHARTER, POLICY, known_name
from fedfm_audit.charter_view import CharterView, open_charter
from fedfm_audit.errors import CharterViewError, PolicyError
from fedfm_audit.log_keys import LogKeys, log_keys_in
from fedfm_audit.policy import Policy, parse_policy, render_policy
from fedfm_audit.report import TrustRoots
from fedfm_audit.steps.findings import Findings
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_crypto.note import VerifierKey

GIVEN_POLICY = "the policy given by the auditor"


@dataclass(frozen=True, slots=True)
class Roots:
    """What everything else is judged by: the charter, the log's keys, the policy in force, and
    every witness key that may stand on a checkpoint, by name."""

    charter: CharterView
    log_keys: LogKeys
    policy: Policy
    witnesses: Mapping[str, VerifierKey]
    trust: TrustRoots

    @property
    def signers(self) -> Mapping[str, IdentityPublicKey]:
        """Every key that signs leaves, by its hex: the parties', and the log's."""
        return {**self.charter.keys, **self.log_keys.publics}

    def vkeys(self, size: int) -> tuple[VerifierKey, ...]:
        """The log's key in force at a head of ``size`` leaves, and all witness keys."""
        return (self.log_keys.at(size), *self.witnesses.values())


def check_roots(
    files: Mapping[str, bytes],
    given_policy: bytes | None,
    charter_sha256: str | None,
    findings: Findings,
    log_keys: LogKeys | None = None,
) -> Roots | None:
    """Read the charter, the log's keys and the policy; ``None`` if there is no charter to go on
    with.  ``log_keys`` are followed already where there are no leaves to follow them in."""
    for name in sorted(files):
        if not known_name(name):
            findings.fail(name, "a bundle holds no such file")
    charter = _charter(files, charter_sha256, findings)
    if charter is None:
        return None
    if log_keys is None:
        log_keys, wrong = log_keys_in(files, charter)
        for place, error in wrong:
            findings.fail(place, error)
    rendered = render_policy(charter, log_keys)
    if POLICY not in files:
        findings.fail(POLICY, "missing")
    elif files[POLICY] != rendered:
        findings.fail(POLICY, "differs from the policy that charter and log keys give")
    policy = _given(given_policy, findings)
    if given_policy is not None and policy is None:
        return None
    return _roots(charter, log_keys, policy, charter_sha256 is not None, rendered, findings)


def _charter(
    files: Mapping[str, bytes], charter_sha256: str | None, findings: Findings
) -> CharterView | None:
    if CHARTER not in files:
        findings.fail(CHARTER, "missing")
        return None
    try:
        charter = open_charter(files[CHARTER])
    except CharterViewError as error:
        findings.fail(CHARTER, error)
        return None
    if charter_sha256 is not None and charter.digest.hex() != charter_sha256:
        findings.fail(
            CHARTER, f"has SHA-256 {charter.digest.hex()}, the auditor expects {charter_sha256}"
        )
    return charter


def _given(given_policy: bytes | None, findings: Findings) -> Policy | None:
    if given_policy is None:
        return None
    try:
        return parse_policy(given_policy)
    except PolicyError as error:
        findings.fail(GIVEN_POLICY, error)
        return None


def _roots(
    charter: CharterView,
    log_keys: LogKeys,
    given: Policy | None,
    charter_pinned: bool,
    rendered: bytes,
    findings: Findings,
) -> Roots:
    witnesses = {key.name: key for key in charter.witnesses}
    if given is None:
        trust = TrustRoots(charter="auditor" if charter_pinned else "bundle", policy="bundle")
        return Roots(charter, log_keys, parse_policy(rendered), witnesses, trust)
    if not {one.key for one in log_keys.keys} & set(given.logs):
        findings.fail(GIVEN_POLICY, f"does not list the charter's log {charter.log_key.name!r}")
    for key in given.witnesses.values():
        if witnesses.setdefault(key.name, key) != key:
            findings.fail(
                GIVEN_POLICY, f"has another key for witness {key.name!r} than the charter"
            )
    vouched = {key.public for key in given.witnesses.values()}
    signers = [name for name in charter.signers if charter.parties[name].identity in vouched]
    anchored = "policy" if len(signers) >= charter.founders_quorum else "bundle"
    trust = TrustRoots(charter="auditor" if charter_pinned else anchored, policy="auditor")
    return Roots(charter, log_keys, given, witnesses, trust)
