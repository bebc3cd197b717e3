"""Asking a time-stamping authority for a token over the checkpoint, once the federation is over.

The authority sees a hash. If it does not answer, the evidence is what it is without: the
coordinator says so and goes on; started again it asks again.
"""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from pathlib import Path

from fedfm_audit.timestamp import (
    INSTALL,
    MAX_TIMESTAMP_BYTES,
    TimestampError,
    can_verify,
    is_about,
    verify_timestamp,
)
from fedfm_crypto.note import parse_checkpoint, split_note
from secure_fedfm.config import TimestampSection
from secure_fedfm.errors import ConfigurationError, TransportError
from secure_fedfm.storage.site import Site

LOG = logging.getLogger("secure_fedfm.coordinator")
QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
SECONDS = 30.0


def request_timestamp(url: str, text: bytes, roots: bytes | None) -> bytes:
    """The authority's response about the SHA-256 of ``text``; verified where ``roots`` are given.

    Raises
    ------
    TransportError
        if it does not answer, or with anything but a granted time stamp of this very request.
    """
    from rfc3161_client import (  # noqa: PLC0415
        HashAlgorithm,
        TimestampRequestBuilder,
        decode_timestamp_response,
    )

    query = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256)
    asked = query.cert_request(cert_request=True).build()
    request = urllib.request.Request(  # noqa: S310 - the configuration allows http and https only
        url, asked.as_bytes(), {"Content-Type": QUERY, "Accept": REPLY}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            response: bytes = answer.read(MAX_TIMESTAMP_BYTES + 1)
        if not is_about(response, text):
            raise TimestampError("the answer is no time stamp of what was asked")
        decoded = decode_timestamp_response(response)
        if decoded.status != 0 or decoded.tst_info.nonce != asked.nonce:
            raise TimestampError(f"status {decoded.status}, or another request's nonce")
        if roots is not None:
            verify_timestamp(response, text, roots)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise TransportError(f"no time stamp from {url}: {error}") from error
    return response


def timestamp_path(site: Site, note: bytes) -> Path:
    """Where the token over a checkpoint lies: SITE/timestamps/SIZE-ROOT.tsr."""
    head = parse_checkpoint(split_note(note)[0])
    return site.timestamps_folder / f"{head.size:06d}-{head.root.hex()[:16]}.tsr"


def read_roots(section: TimestampSection) -> bytes | None:
    """The certificates that an answer must verify under, if any; asked for when the coordinator
    starts, so that nothing is found missing at the end.

    Raises
    ------
    ConfigurationError
        if the extra ``timestamp`` is missing or the roots cannot be read.
    """
    if not section.url:
        return None
    if not can_verify():
        raise ConfigurationError(f"timestamp.url is set and needs rfc3161-client: {INSTALL}")
    try:
        return None if section.root is None else section.root.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"timestamp.root: {error}; give a PEM file or leave it out"
        ) from error


def stamp_checkpoint(site: Site, note: bytes, section: TimestampSection) -> None:
    """Have the checkpoint in ``note`` stamped, if an authority is configured and it is not yet.

    Raises
    ------
    ConfigurationError
        as :func:`read_roots`.
    """
    path = timestamp_path(site, note)
    if not section.url or path.exists():
        return
    roots = read_roots(section)
    try:
        response = request_timestamp(section.url, split_note(note)[0], roots)
    except TransportError as error:
        LOG.error("%s; the evidence has none until the coordinator is started again", error)
        return
    site.write(path, response)
    LOG.info("time stamp of the checkpoint at %s", path, extra={"kind": "time-stamped"})
