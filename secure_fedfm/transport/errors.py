"""What can go wrong in the transport; one branch of the application's exception tree.

FedFMError > ApplicationError > TransportError (secure_fedfm.errors)
    LimitsError               limits that contradict each other or the design
    CurveKeyError             a transport key with the wrong length, encoding or value
    BindError                 the server could not take its address
    RemoteBindError           an address that other machines can reach, without leave to use it
    NotConnectedError         no live connection to that peer now (resending is the service's work)
      HandshakeRefusedError   the peer answered and refused: wrong key on one side
    DuplicateIdentityError    another process took over with the same transport key
    AuthenticatorError        the ZAP handler ended: the server stopped itself
    TransportStoppedError     the transport was not started, or was stopped
    FramingError              a frame or message that breaks the framing rules
      MalformedFrameError     not a frame of this version, or fields that contradict each other
      MessageTooLargeError    more bytes than the limits admit
      ChunkOrderError         a chunk repeated, skipped, or of no message in progress
      ReplayedMessageError    a message id that was used before
      ChunkHashError          chunk or message bytes that do not match their SHA-256
    QuotaError                a sender beyond its share
    SpoolError                a large message cannot be kept on disk: full, or not writable
"""

from __future__ import annotations

from secure_fedfm.errors import TransportError


class LimitsError(TransportError):
    """Limits that contradict each other or leave the range of the design."""


class CurveKeyError(TransportError):
    """A transport key with the wrong length, encoding or value."""


class BindError(TransportError):
    """The server could not take its address."""


class RemoteBindError(BindError):
    """An address that other machines can reach, without explicit leave."""


class NotConnectedError(TransportError):
    """No live connection to the peer; what was being sent may or may not have arrived."""


class HandshakeRefusedError(NotConnectedError):
    """The other side answered and refused the CURVE handshake."""


class DuplicateIdentityError(TransportError):
    """Another process connected with the same transport key and took over."""


class AuthenticatorError(TransportError):
    """The ZAP handler ended; the server admits nobody and has stopped."""


class TransportStoppedError(TransportError):
    """The transport was not started yet, or is stopped."""


class FramingError(TransportError):
    """A frame or a message that breaks the framing rules; the message is dropped."""


class MalformedFrameError(FramingError):
    """Not a frame of this version, or header fields that contradict each other."""


class MessageTooLargeError(FramingError):
    """A message with more bytes than the limits admit."""


class ChunkOrderError(FramingError):
    """A chunk repeated, skipped, or belonging to no message in progress."""


class ReplayedMessageError(FramingError):
    """A message id at or below one that was already used on this connection."""


class ChunkHashError(FramingError):
    """Chunk or message bytes that do not match the SHA-256 they came with."""


class QuotaError(TransportError):
    """A sender beyond its share of messages, bytes or incomplete messages."""


class SpoolError(TransportError):
    """A large message cannot be kept on disk, or not be read back."""


__all__ = [
    "AuthenticatorError",
    "BindError",
    "ChunkHashError",
    "ChunkOrderError",
    "CurveKeyError",
    "DuplicateIdentityError",
    "FramingError",
    "HandshakeRefusedError",
    "LimitsError",
    "MalformedFrameError",
    "MessageTooLargeError",
    "NotConnectedError",
    "QuotaError",
    "RemoteBindError",
    "ReplayedMessageError",
    "SpoolError",
    "TransportError",
    "TransportStoppedError",
]
