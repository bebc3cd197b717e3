"""RFC 3161 time stamps over the checkpoint, from a local authority made with openssl."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from fedfm_audit import timestamp as module
from fedfm_audit.bundle import CHARTER, POLICY, TIMESTAMP
from fedfm_audit.charter_view import open_charter
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.policy import render_policy
from fedfm_audit.report import Report, Status
from fedfm_audit.tiles import render_tiles
from fedfm_audit.timestamp import TimestampError, is_about, verify_timestamp
from fedfm_audit.verify import verify_files
from fedfm_crypto.note import split_note
from secure_fedfm.config import TimestampSection
from secure_fedfm.errors import ConfigurationError, TransportError
from secure_fedfm.services.timestamping import request_timestamp, stamp_checkpoint, timestamp_path
from secure_fedfm.storage.site import Site
from tests.audit.authority import Authority, openssl_accepts
from tests.audit.simulated import founded

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
EVIDENCE = founded(3)
NOTE = EVIDENCE.note()
TEXT = split_note(NOTE)[0]
FILES = {
    CHARTER: EVIDENCE.envelope,
    POLICY: render_policy(open_charter(EVIDENCE.envelope)),
    CHECKPOINT: NOTE,
    **render_tiles(EVIDENCE.leaves),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "one")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "other")


@pytest.fixture(scope="module")
def token(authority: Authority) -> bytes:
    return authority.stamp(TEXT)


def verified(stamp: bytes | None, roots: Path | None = None) -> Report:
    files = FILES if stamp is None else {**FILES, TIMESTAMP: stamp}
    return verify_files(
        files, name="stamped", tsa_roots=None if roots is None else roots.read_bytes()
    )


def first(report: Report) -> tuple[Status, str]:
    step = report.steps[1]
    return step.status, "; ".join([step.detail, *(f"{f.place} {f.reason}" for f in step.failures)])


def test_a_stamp_verifies_under_its_authoritys_root(authority: Authority, token: bytes) -> None:
    status, said = first(verified(token, authority.root))
    assert status is Status.VERIFIED
    assert "time-stamped 20" in said


def test_openssl_says_the_same(
    authority: Authority, other: Authority, token: bytes, tmp_path: Path
) -> None:
    text, response = tmp_path / "text", tmp_path / "checkpoint.tsr"
    text.write_bytes(TEXT)
    response.write_bytes(token)
    assert openssl_accepts(response, text, authority.root)
    assert not openssl_accepts(response, text, other.root)


def test_without_a_root_it_is_not_checkable_and_the_report_says_so(token: bytes) -> None:
    status, said = first(verified(token))
    assert status is Status.VERIFIED
    assert "time stamp not checkable: no root" in said
    assert "time stamp" not in first(verified(None))[1]


def test_who_asks_for_a_stamp_must_find_one_of_that_authority(
    other: Authority, token: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stamp in (None, token):
        status, said = first(verified(stamp, other.root))
        assert status is Status.FAILED
        assert TIMESTAMP in said
    monkeypatch.setattr(module, "can_verify", lambda: False)
    assert "not checkable: rfc3161-client is not installed" in first(verified(token, other.root))[1]


def test_a_stamp_of_another_checkpoint_fails_whatever_is_installed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "can_verify", lambda: False)
    stamp = authority.stamp(TEXT + b"\n")
    status, said = first(verified(stamp))
    assert status is Status.FAILED
    assert "no time stamp of this checkpoint" in said


def test_no_changed_stamp_verifies(authority: Authority, token: bytes) -> None:
    """Any byte, a byte more or less: refused, or (outside of what is signed) no other bytes."""
    rng, roots = random.Random(3), authority.root.read_bytes()  # noqa: S311 - places, no secrets
    changed = [token[:-1], token + b"\x00", token[1:], b""]
    for place in rng.sample(range(len(token)), 60):
        changed.append(token[:place] + bytes([token[place] ^ 1]) + token[place + 1 :])
    refused = 0
    for stamp in changed:
        try:
            verify_timestamp(stamp, TEXT, roots)
        except TimestampError:
            refused += 1
    assert refused >= len(changed) - 3, "unsigned fields are few: status text, certificate order"
    assert not any(is_about(stamp, TEXT) for stamp in changed[:4])


def test_a_coordinator_gets_its_stamp_over_http(authority: Authority, tmp_path: Path) -> None:
    site = Site(tmp_path)
    with authority.served() as url:
        stamp_checkpoint(site, NOTE, TimestampSection(url=url, root=authority.root))
        path = timestamp_path(site, NOTE)
        stamped = path.read_bytes()
        stamp_checkpoint(site, NOTE, TimestampSection(url=url))
    assert path.read_bytes() == stamped  # asked once
    assert first(verified(stamped, authority.root))[0] is Status.VERIFIED


def test_an_answer_that_is_none_is_refused_and_the_evidence_goes_without(
    authority: Authority, other: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with other.served() as url, pytest.raises(TransportError, match="no time stamp from"):
        request_timestamp(url, TEXT, authority.root.read_bytes())
    gone = TimestampSection(url="http://127.0.0.1:9/")
    stamp_checkpoint(Site(tmp_path), NOTE, gone)
    assert "no time stamp from" in caplog.text
    assert not timestamp_path(Site(tmp_path), NOTE).exists()
    stamp_checkpoint(Site(tmp_path), NOTE, TimestampSection())


def test_a_missing_extra_or_root_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=r"timestamp\.root"):
        stamp_checkpoint(
            Site(tmp_path), NOTE, TimestampSection(url="http://x/", root=tmp_path / "no.pem")
        )
    monkeypatch.setattr("secure_fedfm.services.timestamping.can_verify", lambda: False)
    with pytest.raises(ConfigurationError, match=r"secure-fedfm\[timestamp\]"):
        stamp_checkpoint(Site(tmp_path), NOTE, TimestampSection(url="http://x/"))
