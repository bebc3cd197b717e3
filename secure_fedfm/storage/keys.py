"""Private keys on disk: PKCS #8 PEM files that only their owner can read.

Standard files, so `openssl pkey` reads them too.  A passphrase (environment variable
``SECURE_FEDFM_KEY_PASSPHRASE``) encrypts them at rest.  Keys are made at the site that uses them
and never leave it; nothing here prints or returns more than its caller needs.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.secret import Secret
from secure_fedfm.errors import StorageError

PASSPHRASE_VARIABLE = "SECURE_FEDFM_KEY_PASSPHRASE"  # noqa: S105 - a name, not a secret
_PRIVATE = ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey


def _passphrase() -> bytes | None:
    text = os.environ.get(PASSPHRASE_VARIABLE)
    return text.encode() if text else None


def save_identity(path: Path, key: IdentityKey) -> None:
    """Write an Ed25519 identity or log key; refuses to overwrite."""
    _write_private(path, ed25519.Ed25519PrivateKey.from_private_bytes(key.secret.reveal()))


def load_identity(path: Path) -> IdentityKey:
    """Read an Ed25519 key written by :func:`save_identity`.

    Raises
    ------
    StorageError
        if the file is missing, readable by others, or holds another kind of key.
    """
    private = _read_private(path)
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise StorageError(f"{path} does not hold an Ed25519 key")
    return IdentityKey.from_secret(Secret(private.private_bytes_raw()))


def save_transport(path: Path, secret: Secret) -> None:
    """Write a CURVE (X25519) transport key; refuses to overwrite."""
    _write_private(path, x25519.X25519PrivateKey.from_private_bytes(secret.reveal()))


def load_transport(path: Path) -> Secret:
    """Read the secret half of a CURVE key pair, 32 bytes.

    Raises
    ------
    StorageError
        as :func:`load_identity`.
    """
    private = _read_private(path)
    if not isinstance(private, x25519.X25519PrivateKey):
        raise StorageError(f"{path} does not hold an X25519 key")
    return Secret(private.private_bytes_raw())


def _write_private(path: Path, key: _PRIVATE) -> None:
    passphrase = _passphrase()
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    try:
        # Created with its final mode: there is no moment at which others could open it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StorageError(
            f"{path} exists already; a key is never overwritten. Move it away first if this site "
            "really needs a new one"
        ) from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _read_private(path: Path) -> object:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError:
        raise StorageError(f"no key at {path}; make one with `secure-fedfm keygen`") from None
    except OSError as error:
        raise StorageError(f"cannot read the key at {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StorageError(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}), expected 0600; "
            f"run `chmod 600 {path}` and consider the key exposed"
        )
    passphrase = _passphrase()
    try:
        return serialization.load_pem_private_key(data, passphrase)
    except TypeError:
        problem = (
            f"is not encrypted, but {PASSPHRASE_VARIABLE} is set; unset it"
            if passphrase
            else f"is encrypted; set {PASSPHRASE_VARIABLE}"
        )
        raise StorageError(f"the key at {path} {problem}") from None
    except ValueError:
        raise StorageError(
            f"{path} is no usable PEM private key, or the passphrase is wrong"
        ) from None
