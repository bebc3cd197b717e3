"""Bundles as folders and zips: what is read, what is refused, what is written."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from fedfm_audit.bundle import (
    Limits,
    bundle_files,
    pack_zip,
    read_bundle,
    write_bundle,
    write_files,
)
from fedfm_audit.errors import BundleError
from fedfm_audit.log import Log
from fedfm_audit.verify import verify_bundle
from fedfm_crypto.note import split_note
from tests.audit.synthetic import ORIGIN, Federation

Files = dict[str, bytes]


def test_folder_and_zip_hold_the_same(tmp_path: Path, bundle: Files) -> None:
    folder = write_files(bundle, tmp_path / "bundle")
    packed = write_files(bundle, tmp_path / "bundle.zip")
    assert read_bundle(folder) == read_bundle(packed) == bundle
    assert verify_bundle(folder).ok
    assert verify_bundle(packed).ok


def test_a_real_log_gives_the_same_bundle(
    tmp_path: Path, federation: Federation, bundle: Files
) -> None:
    with Log.open(tmp_path / "log", ORIGIN) as log:
        for leaf in federation.leaves:
            log.append(leaf)
        note = log.sign_checkpoint(federation.log_key)
        lines = [entry.line() for entry in split_note(federation.note())[1][1:]]
        log.attach_cosignatures(lines, _vkeys(federation))
        destination = write_bundle(
            log, federation.charter, federation.transcripts, tmp_path / "out" / "bundle"
        )
        assert note != log.checkpoint
    assert read_bundle(destination) == bundle


def _vkeys(federation: Federation) -> list[str]:
    policy = federation.files()["policy"].decode().splitlines()
    return [line.split()[-1] for line in policy if line.startswith(("log ", "witness "))]


def test_a_bundle_needs_a_checkpoint_over_all_leaves(
    tmp_path: Path, federation: Federation
) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        log.append(b"a")
        with pytest.raises(BundleError, match="no checkpoint"):
            bundle_files(log, federation.charter, {})
        log.sign_checkpoint(federation.log_key)
        log.append(b"b")
        with pytest.raises(BundleError, match="covers 1 of 2 leaves"):
            bundle_files(log, federation.charter, {})


def test_nothing_is_overwritten(tmp_path: Path, bundle: Files) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(BundleError, match="exists already"):
        write_files(bundle, tmp_path / "there")


@pytest.mark.parametrize(
    "name",
    [
        "README",
        "charter.json.bak",
        "transcripts/1.json",
        "transcripts/000001.json~",
        "transcripts/000009.json",
        "tile/0/000.p/10",
        "tile/0/001",
        "tile/64/000",
        "tile/entries/000.p/12",
        ".hidden",
    ],
)
def test_an_extra_file_is_named(tmp_path: Path, bundle: Files, name: str) -> None:
    folder = write_files({**bundle, name: b"x"}, tmp_path / "bundle")
    report = verify_bundle(folder)
    assert not report.ok
    assert any(failure.place == name for step in report.steps for failure in step.failures)


def test_a_missing_file_is_named(tmp_path: Path, bundle: Files) -> None:
    for number, name in enumerate(bundle):
        rest = {other: data for other, data in bundle.items() if other != name}
        report = verify_bundle(write_files(rest, tmp_path / str(number)))
        assert not report.ok
        assert any(failure.place == name for step in report.steps for failure in step.failures)


# ---- folders


def test_links_and_special_files_are_refused(tmp_path: Path, bundle: Files) -> None:
    def link(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.write_bytes((folder / "policy").read_bytes())
        (folder / "policy").unlink()
        (folder / "policy").symlink_to(outside)

    def folder_link(folder: Path) -> None:
        (folder / "tile").rename(folder.parent / "tile")
        (folder / "tile").symlink_to(folder.parent / "tile")

    def pipe(folder: Path) -> None:
        os.mkfifo(folder / "transcripts" / "000009.json")

    for change in (link, folder_link, pipe):
        folder = write_files(bundle, tmp_path / change.__name__ / "bundle")
        change(folder)
        with pytest.raises(BundleError, match="link or a special file"):
            read_bundle(folder)
        report = verify_bundle(folder)
        assert not report.ok
        assert report.step(0).failures


@pytest.mark.parametrize(
    "limits",
    [Limits(files=3), Limits(file_bytes=1000), Limits(total_bytes=20_000), Limits(depth=1)],
)
def test_folders_and_zips_are_bounded(tmp_path: Path, bundle: Files, limits: Limits) -> None:
    with pytest.raises(BundleError):
        read_bundle(write_files(bundle, tmp_path / "bundle"), limits)
    if limits.depth > 1:
        with pytest.raises(BundleError):
            read_bundle(write_files(bundle, tmp_path / "bundle.zip"), limits)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="neither"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert not verify_bundle(tmp_path / "empty").ok


# ---- zips


def zipped(members: list[tuple[zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for info, data in members:
            info.compress_type = method
            archive.writestr(info, data)
    return packed.getvalue()


def info(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.external_attr = mode << 16
    member.create_system = 3
    return member


def members(bundle: Files) -> list[tuple[zipfile.ZipInfo, bytes]]:
    return [(info(name), bundle[name]) for name in sorted(bundle)]


def bad_zips(bundle: Files) -> dict[str, tuple[bytes, str]]:
    good = members(bundle)
    linked = [entry for entry in good if entry[0].filename != "policy"]
    later = [(info(entry.filename), data) for entry, data in good]
    later[0][0].date_time = (2026, 1, 1, 0, 0, 0)
    return {
        "duplicate": (zipped([*good, good[0]]), "twice"),
        "absolute": (zipped([*good, (info("/policy"), b"")]), "no plain relative"),
        "climbing": (zipped([*good, (info("tile/../../x"), b"")]), "no plain relative"),
        "backslash": (zipped([*good, (info("tile\\x"), b"")]), "no plain relative"),
        "folder": (zipped([*good, (info("tile/"), b"")]), "no plain relative"),
        "link": (
            zipped([*linked, (info("policy", stat.S_IFLNK | 0o777), b"/etc/hostname")]),
            "link",
        ),
        "compressed": (zipped(members(bundle), zipfile.ZIP_DEFLATED), "compressed"),
        "unsorted": (zipped(good[::-1]), "unpack"),
        "dated": (zipped(later), "unpack"),
        "prefix": (b"#!/bin/sh\n" + pack_zip(bundle), "unpack"),
        "suffix": (pack_zip(bundle) + b"\x00", "unpack|not a readable zip"),
        "truncated": (pack_zip(bundle)[:-30], "not a readable zip"),
        "noise": (b"no zip at all", "not a readable zip"),
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "name",
    [
        "duplicate",
        "absolute",
        "climbing",
        "backslash",
        "folder",
        "link",
        "compressed",
        "unsorted",
        "dated",
        "prefix",
        "suffix",
        "truncated",
        "noise",
    ],
)
def test_bad_zips_are_refused(tmp_path: Path, bundle: Files, name: str) -> None:
    data, reason = bad_zips(bundle)[name]
    path = tmp_path / "bundle.zip"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=reason):
        read_bundle(path)
    assert not verify_bundle(path).ok


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped([(info("policy"), bytes(50_000_000))], zipfile.ZIP_DEFLATED))
    with pytest.raises(BundleError, match="compressed"):
        read_bundle(path)


def test_every_bit_of_the_zip_counts(tmp_path: Path, bundle: Files) -> None:
    """A zip has bytes that no file content covers: dates, modes, comments, lengths."""
    packed = pack_zip(bundle)
    path = tmp_path / "bundle.zip"
    first = {name: packed.find(name.encode()) for name in bundle}
    headers = [position for place in first.values() for position in range(place - 30, place)]
    directory = list(range(packed.rfind(b"PK\x01\x02"), len(packed)))
    refused = 0
    for position in headers + directory:
        altered = bytearray(packed)
        altered[position] ^= 1 << (position % 8)
        path.write_bytes(altered)
        with pytest.raises(BundleError):
            read_bundle(path)
        refused += 1
    assert refused > 300
