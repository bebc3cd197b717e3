"""One exception tree with one root."""

from __future__ import annotations

import inspect

import pytest

from fedfm_crypto import errors

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if value.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_hangs_on_the_one_root_and_is_drawn(error: type[Exception]) -> None:
    assert issubclass(error, errors.FedFMError)
    assert error.__name__ in errors.__all__
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__


def test_the_branches_are_where_the_contract_puts_them() -> None:
    for name in ("InvalidKey", "Signature", "Decryption", "Share", "Capacity", "NonFinite"):
        assert issubclass(getattr(errors, f"{name}Error"), errors.CryptoError)
    assert issubclass(errors.CanonicalJSONError, errors.CodecError)
    assert issubclass(errors.NonFiniteError, ValueError)
    for other in (errors.CodecError, errors.MerkleError, errors.NoteError, errors.DSSEError):
        assert not issubclass(other, errors.CryptoError)
