"""Changing the key that signs the log, while the coordinator is stopped.

The next key waits in SITE/keys/log-next.pem until the log says that it is in force; then it takes
the place of log.pem, and the key before it is gone.  A crash at any point leaves one of the two in
force, and the log says which.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from fedfm_audit.log import Log
from fedfm_audit.log_keys import LogKeys, log_keys_of, vkey_text
from fedfm_audit.storage import sync_folder
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import VerifierKey, parse_vkey
from fedfm_crypto.random_source import RandomSource, system_random
from fedfm_protocols.federation import Federation
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.storage.keys import load_identity, save_identity
from secure_fedfm.storage.site import Site


@dataclass(frozen=True, slots=True)
class Rotation:
    """The leaf that changed the log's key, and the verifier keys before and after it."""

    index: int
    before: str
    after: str


def rotate_log_key(
    site: Site, federation: Federation, random: RandomSource = system_random
) -> Rotation:
    """Make a new log key, enter it in the log under the old one, and replace the old one.

    Raises
    ------
    StorageError
        if the log was not founded yet or is concluded, or the site's log key is not in force.
    LogLockedError
        if the coordinator is running.
    """
    finish_rotation(site, federation)
    following = _next_key(site, random)
    evidence = Evidence(site, federation, site.identity(), site.log_key())
    try:
        before = vkey_text(evidence.log_keys.last)
        index = evidence.change_log_key(following)
        after = vkey_text(evidence.log_keys.last)
    finally:
        evidence.close()
    finish_rotation(site, federation)
    return Rotation(index, before, after)


def finish_rotation(site: Site, federation: Federation) -> None:
    """Put the next key in place, if the log says that it is in force; else leave both files."""
    if not site.next_log_key_file.exists():
        return
    waiting = load_identity(site.next_log_key_file)
    if waiting.public == _in_force(site, federation).public:
        os.replace(site.next_log_key_file, site.log_key_file)
        sync_folder(site.log_key_file.parent)


def _in_force(site: Site, federation: Federation) -> VerifierKey:
    log = federation.charter.log
    first = LogKeys.starting(parse_vkey(log.key), federation.charter_hash.hex())
    with Log.open(site.log_folder, log.origin) as opened:
        return log_keys_of(first, opened.leaves).last


def _next_key(site: Site, random: RandomSource) -> IdentityKey:
    """The key that waits already (a rotation was cut off), or a new one."""
    if not site.next_log_key_file.exists():
        save_identity(site.next_log_key_file, IdentityKey.generate(random))
    return load_identity(site.next_log_key_file)
