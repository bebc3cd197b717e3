"""Signed notes, checkpoints and cosignatures: Go's examples, our own notes, malformed ones."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.errors import NoteError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import EMPTY_ROOT, leaf_hash
from fedfm_crypto.note import (
    Checkpoint,
    NoteSignature,
    add_signature,
    cosign,
    open_note,
    parse_checkpoint,
    sign_checkpoint,
    split_note,
)
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from fedfm_crypto.verifier_key import (
    NoteAlgorithm,
    VerifierKey,
    format_vkey,
    note_key_id,
    parse_vkey,
)

ORIGIN = "log.example/hospitals"
WITNESS = "hospitals/clinic-1"
LOG = IdentityKey.generate(SeededRandom(1))
CLINIC = IdentityKey.generate(SeededRandom(2))
OTHER = IdentityKey.generate(SeededRandom(3))
HEAD = Checkpoint(ORIGIN, 17, leaf_hash(b"root"))
NOTE = sign_checkpoint(HEAD, ORIGIN, LOG)
COSIGNATURE = cosign(NOTE, WITNESS, CLINIC, 1_750_000_000)
FULL = add_signature(NOTE, COSIGNATURE)
LOG_KEY = VerifierKey(ORIGIN, NoteAlgorithm.ED25519, LOG.public)
WITNESS_KEY = VerifierKey(WITNESS, NoteAlgorithm.COSIGNATURE_V1, CLINIC.public)
KEYS = [LOG_KEY, WITNESS_KEY]

# The documentation of Go's golang.org/x/mod/sumdb/note.
GO_SIGNING_KEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = """\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
""".encode()  # noqa: E501

# Verifier keys of running systems: Go's checksum database, and from the tests of
# transparency-dev/formats a log key and a cosignature/v1 witness key.
PUBLISHED_VKEYS = [
    ("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8", 0x01),
    ("TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6", 0x01),
    ("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", 0x04),
]


def test_go_example_note_verifies_and_is_reproduced() -> None:
    key = parse_vkey(GO_VKEY)
    body, (signature,) = split_note(GO_NOTE)
    assert signature.name == key.name == "PeterNeumann"
    assert signature.key_id == key.key_id == bytes.fromhex("c74f20a3")
    key.public.verify_raw(signature.signature, body)
    seed = base64.b64decode(GO_SIGNING_KEY.split("+", 4)[4])[1:]
    signer = IdentityKey.from_secret(Secret(seed))
    assert signer.public == key.public
    again = NoteSignature(key.name, key.key_id, signer.sign_raw(body))
    assert body + b"\n" + again.line() == GO_NOTE


@pytest.mark.parametrize(("text", "algorithm"), PUBLISHED_VKEYS)
def test_published_verifier_keys(text: str, algorithm: int) -> None:
    key = parse_vkey(text)
    assert key.algorithm == algorithm
    assert format_vkey(key.name, key.public, key.algorithm) == text
    assert note_key_id(key.name, key.algorithm, key.public).hex() == text.split("+")[1]


def test_c2sp_example_checkpoint_and_cosignature_lines_have_the_shape_we_read() -> None:
    note = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "\u2014 example.com/behind-the-sofa "
        "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "\u2014 witness.example.com/w1 "
        "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZ"
        "qhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    ).encode()
    body, (log, witness) = split_note(note)
    checkpoint = parse_checkpoint(body)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.body() == body
    assert len(log.signature) == 64
    # The specification shows this cosignature's message: "time 1679315147".
    assert int.from_bytes(witness.signature[:8], "big") == 1679315147
    assert len(witness.signature) == 72
    assert body + b"\n" + log.line() + witness.line() == note


def test_a_note_opens_with_its_log_and_witness_keys() -> None:
    opened = open_note(FULL, KEYS)
    assert opened.checkpoint == HEAD
    assert opened.log_signers == (ORIGIN,)
    assert dict(opened.cosignatures) == {WITNESS: 1_750_000_000}
    lines = [format_vkey(key.name, key.public, key.algorithm) for key in KEYS]
    assert open_note(FULL, lines) == opened
    assert open_note(NOTE, KEYS).cosignatures == {}


def test_the_signed_bytes_are_those_of_the_specifications() -> None:
    body, (log, witness) = split_note(FULL)
    root = base64.b64encode(HEAD.root).decode()
    assert body == f"log.example/hospitals\n17\n{root}\n".encode()
    LOG.public.verify_raw(log.signature, body)
    CLINIC.public.verify_raw(witness.signature[8:], b"cosignature/v1\ntime 1750000000\n" + body)
    assert FULL.endswith(witness.line())
    assert witness.line().startswith("\u2014 hospitals/clinic-1 ".encode())


@given(
    origin=st.from_regex(r"[a-z0-9./-]{1,40}", fullmatch=True),
    size=st.integers(1, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
)
def test_checkpoints_round_trip(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert parse_checkpoint(checkpoint.body()) == checkpoint
    assert (
        open_note(
            sign_checkpoint(checkpoint, origin, LOG),
            [VerifierKey(origin, NoteAlgorithm.ED25519, LOG.public)],
        ).checkpoint
        == checkpoint
    )


def test_every_flipped_bit_of_a_note_is_refused() -> None:
    for bit in range(8 * len(FULL)):
        altered = bytearray(FULL)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NoteError):
            open_note(bytes(altered), KEYS)


def test_every_truncation_of_a_note_is_refused_except_at_a_line() -> None:
    for length in range(len(FULL)):
        if length != len(NOTE):
            with pytest.raises(NoteError):
                open_note(FULL[:length], KEYS)
    for tail in (b"\n", b"x", b"\n\n", COSIGNATURE):
        with pytest.raises(NoteError):
            open_note(FULL + tail, KEYS)


def test_unknown_signers_are_refused_or_ignored_as_asked() -> None:
    stranger = cosign(NOTE, "hospitals/stranger", OTHER, 1)
    note = add_signature(FULL, stranger)
    with pytest.raises(NoteError, match="unknown key 'hospitals/stranger'"):
        open_note(note, KEYS)
    assert open_note(note, KEYS, strict=False) == open_note(FULL, KEYS)
    # A known name with another key is another key.
    impostor = add_signature(NOTE, cosign(NOTE, WITNESS, OTHER, 1))
    with pytest.raises(NoteError, match="unknown key"):
        open_note(impostor, KEYS)
    assert open_note(impostor, KEYS, strict=False).cosignatures == {}


@pytest.mark.parametrize("strict", [True, False])
def test_a_bad_signature_by_a_known_key_always_refuses_the_note(strict: bool) -> None:
    other_head = sign_checkpoint(Checkpoint(ORIGIN, 18, HEAD.root), ORIGIN, LOG)
    moved = add_signature(NOTE, cosign(other_head, WITNESS, CLINIC, 5))
    with pytest.raises(NoteError, match=f"note signature of '{WITNESS}'"):
        open_note(moved, KEYS, strict=strict)
    _, (signature,) = split_note(other_head)
    with pytest.raises(NoteError, match=f"note signature of '{ORIGIN}'"):
        open_note(HEAD.body() + b"\n" + signature.line(), KEYS, strict=strict)


def test_a_shifted_time_does_not_verify() -> None:
    _, (_, witness) = split_note(FULL)
    later = (1_750_000_001).to_bytes(8, "big") + witness.signature[8:]
    with pytest.raises(NoteError, match="does not verify"):
        open_note(NOTE + NoteSignature(WITNESS, witness.key_id, later).line(), KEYS)
    for size in (64, 71, 73):
        cut = NoteSignature(WITNESS, witness.key_id, (witness.signature + b"x")[:size])
        with pytest.raises(NoteError, match="expected 72"):
            open_note(NOTE + cut.line(), KEYS)
    far = b"\x80" + bytes(7) + witness.signature[8:]
    with pytest.raises(NoteError, match="above"):
        open_note(NOTE + NoteSignature(WITNESS, witness.key_id, far).line(), KEYS)


def test_a_checkpoint_without_its_logs_signature_is_refused() -> None:
    only_witness = HEAD.body() + b"\n" + COSIGNATURE
    with pytest.raises(NoteError, match="without a signature of its log"):
        open_note(only_witness, KEYS)
    # A log key of another name is no key of this log, even if it signed.
    elsewhere = VerifierKey("log.example/other", NoteAlgorithm.ED25519, OTHER.public)
    line = NoteSignature(elsewhere.name, elsewhere.key_id, OTHER.sign_raw(HEAD.body())).line()
    with pytest.raises(NoteError, match="unknown key"):
        open_note(NOTE + line, [*KEYS, elsewhere])
    with pytest.raises(NoteError, match="without a signature of its log"):
        open_note(HEAD.body() + b"\n" + line, [*KEYS, elsewhere], strict=False)


def test_a_log_signature_does_not_count_as_a_cosignature() -> None:
    plain = VerifierKey(WITNESS, NoteAlgorithm.ED25519, CLINIC.public)
    line = NoteSignature(WITNESS, plain.key_id, CLINIC.sign_raw(HEAD.body())).line()
    with pytest.raises(NoteError, match="unknown key"):
        open_note(NOTE + line, KEYS)
    assert plain.key_id != WITNESS_KEY.key_id


def test_one_key_or_witness_name_cannot_sign_twice() -> None:
    with pytest.raises(NoteError, match="two signatures"):
        add_signature(FULL, COSIGNATURE)
    with pytest.raises(NoteError, match="two signatures"):
        add_signature(FULL, cosign(NOTE, WITNESS, CLINIC, 2))
    second = VerifierKey(WITNESS, NoteAlgorithm.COSIGNATURE_V1, OTHER.public)
    both = add_signature(FULL, cosign(NOTE, WITNESS, OTHER, 2))
    with pytest.raises(NoteError, match="two cosignatures under the witness name"):
        open_note(both, [*KEYS, second])
    for lines in (b"", COSIGNATURE + cosign(NOTE, "w/2", OTHER, 1), COSIGNATURE[:-1]):
        with pytest.raises(NoteError):
            add_signature(NOTE, lines)


ROOT_TEXT = base64.b64encode(HEAD.root).decode()


@pytest.mark.parametrize(
    "body",
    [
        "",
        f"{ORIGIN}\n17\n{ROOT_TEXT}",
        f"{ORIGIN}\n17\n{ROOT_TEXT}\nextension\n",
        f"{ORIGIN}\n017\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n+17\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n-1\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n\u0661\u0667\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n9223372036854775808\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n17\n{ROOT_TEXT[:-1]}\n",
        f"{ORIGIN}\n17\n{ROOT_TEXT.replace('=', '')}\n",
        f"{ORIGIN}\n17\n{ROOT_TEXT} \n",
        f"{ORIGIN}\n17\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n0\n{ROOT_TEXT}\n",
        f"\n17\n{ROOT_TEXT}\n",
        f"a b\n17\n{ROOT_TEXT}\n",
        f"a+b\n17\n{ROOT_TEXT}\n",
        f"a\u00a0b\n17\n{ROOT_TEXT}\n",
        f"{ORIGIN}\r\n17\n{ROOT_TEXT}\n",
    ],
)
def test_malformed_checkpoint_texts_are_refused(body: str) -> None:
    with pytest.raises(NoteError):
        parse_checkpoint(body.encode())


def test_the_empty_tree_has_a_checkpoint() -> None:
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert parse_checkpoint(empty.body()) == empty


def stray_bits(line: bytes) -> bytes:
    """The same signature in base64 whose unused low bits are set."""
    text = line.decode().rstrip("\n")
    assert text.endswith("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = text.rstrip("=")
    last = alphabet[alphabet.index(bare[-1]) + 1]
    return (bare[:-1] + last + "=" * (len(text) - len(bare)) + "\n").encode()


@pytest.mark.parametrize(
    "line",
    [
        b"- name AAAAAAAA\n",
        b"\xe2\x80\x94name AAAAAAAA\n",
        "\u2014  AAAAAAAA\n".encode(),
        "\u2014 name\n".encode(),
        "\u2014 name AAAAAA==\n".encode(),
        "\u2014 name AAAAAAAA \n".encode(),
        "\u2014 name  AAAAAAAA\n".encode(),
        "\u2014 na+me AAAAAAAA\n".encode(),
        "\u2014 na\u2003me AAAAAAAA\n".encode(),
        "\u2014 name AAAA-AAA\n".encode(),
        "\u2014 name AAAAAAAA\r\n".encode(),
        "\u2014 name AAAAAAAA".encode(),
        b"\n",
        b"\xff\n",
        stray_bits(COSIGNATURE),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_malformed_signature_lines_are_refused(line: bytes, strict: bool) -> None:
    with pytest.raises(NoteError):
        open_note(NOTE + line, KEYS, strict=strict)


@pytest.mark.parametrize("character", [chr(c) for c in range(32) if chr(c) != "\n"])
def test_control_characters_in_a_note_text_are_refused(character: str) -> None:
    line = NoteSignature("name", b"1234", b"5").line()
    assert split_note(b"any text\n\n" + line)[0] == b"any text\n"
    with pytest.raises(NoteError, match="control character"):
        split_note(f"any{character}text\n\n".encode() + line)


def test_a_note_above_the_size_limit_is_refused() -> None:
    with pytest.raises(NoteError, match="expected at most"):
        split_note(NOTE + bytes(1_000_000))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+c74f20a3",
        GO_VKEY.upper(),
        GO_VKEY.replace("c74f20a3", "c74f20a4"),
        GO_VKEY.replace("c74f20a3", "C74F20A3"),
        GO_VKEY.replace("PeterNeumann", "PeterNeumanm"),
        GO_VKEY.replace("PeterNeumann", "Peter Neumann"),
        GO_VKEY.replace("+ARpc", "+AhRpc"),
        GO_VKEY + "=",
        GO_VKEY[:-4],
        "name+00000000+",
        "example+" + "00000000+" + base64.b64encode(b"\x01\x01" + bytes(31)).decode(),
    ],
)
def test_malformed_verifier_keys_are_refused(text: str) -> None:
    with pytest.raises(NoteError):
        parse_vkey(text)


def test_signing_under_wrong_names_or_times_is_refused() -> None:
    with pytest.raises(NoteError, match="expected the origin"):
        sign_checkpoint(HEAD, "log.example/other", LOG)
    with pytest.raises(NoteError, match="key name"):
        cosign(NOTE, "two words", CLINIC, 1)
    for timestamp in (-1, 2**63):
        with pytest.raises(NoteError, match="cosignature time"):
            cosign(NOTE, WITNESS, CLINIC, timestamp)
    with pytest.raises(NoteError):
        cosign(GO_NOTE, WITNESS, CLINIC, 1)  # a note, but no checkpoint
