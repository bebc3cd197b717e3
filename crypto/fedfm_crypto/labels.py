"""The one table of domain-separation labels.

Every hash, derived key and signature of the protocol starts from one of these labels, so that
bytes made for one purpose are never accepted for another. Labels are always length-prefixed where
they are used (``hash_parts``, ``derive_key``, ``IdentityKey.sign``), hence no label followed by
data can be read as another label.

Each label is shorter than 32 bytes. A message signed with ``IdentityKey.sign`` starts with the
label's length as one byte, which is then a control character: it cannot start a DSSE
pre-authentication encoding (``DSSEv1 ``), a cosignature (``cosignature/v1``) or a note text, the
formats that the same identity key signs with a domain separation of their own.
"""

from __future__ import annotations

from enum import Enum, unique

__all__ = ["Label"]


@unique
class Label(Enum):
    """What a hash, a derived key or a signature is for; the value is its label in bytes."""

    ENVELOPE = b"secure-fedfm/v1/envelope"
    """Signature over the header of a protocol message."""
    CONTEXT_ROUND = b"secure-fedfm/v1/context-round"
    """ctx0: the context of a round before its key roster is fixed."""
    CONTEXT_KEYS = b"secure-fedfm/v1/context-keys"
    """ctx1: the context of a round from the key roster on."""
    CONTEXT_LINK = b"secure-fedfm/v1/context-link"
    """Context of messages that belong to a federation but to no round."""
    SHARE_KEY = b"secure-fedfm/v1/share-key"
    """AES-256-GCM key that boxes the shares of one dealer for one recipient."""
    PAIRWISE_MASK = b"secure-fedfm/v1/pairwise-mask"
    """Mask generator key that two clients agree on for one step."""
    SELF_MASK = b"secure-fedfm/v1/self-mask"
    """Mask generator key from a client's own seed for one step."""
    SEED_COMMITMENT = b"secure-fedfm/v1/commit-seed"
    """Commitment to a self-mask seed."""
    NONCE_COMMITMENT = b"secure-fedfm/v1/commit-nonce"
    """Commitment to a beacon nonce."""
    GRAPH_COMMITMENT = b"secure-fedfm/v1/commit-graph"
    """Commitment to a nonce of the masking graph."""
    SHARE_COMMITMENT = b"secure-fedfm/v1/commit-share"
    """Salted commitment to the shares that a dealer gives one recipient."""
    DEALERS = b"secure-fedfm/v1/dealers"
    """Hash of the set of dealers whose shares a client received."""
    STEP = b"secure-fedfm/v1/step"
    """Hash of what a later step of a session builds on: who takes part, and the adapter so far."""
    GRAPH = b"secure-fedfm/v1/graph"
    """Order of the ring of a sparse masking graph, from opened nonces."""
    TENSORS = b"secure-fedfm/v1/tensors"
    """Hash of a set of named tensors (adapter, initial weights)."""
    UPLOAD = b"secure-fedfm/v1/upload"
    """Hash over the hashes of an upload's parts, where an upload has several."""
    CONFIG = b"secure-fedfm/v1/config"
    """Hash of the training configuration that a round runs under."""
    ROUNDING = b"secure-fedfm/v1/rounding"
    """Generator key for the random bits of stochastic rounding."""
    NOISE = b"secure-fedfm/v1/noise"
    """Generator key for the random words of discrete noise."""
    ROTATION = b"secure-fedfm/v1/rotation"
    """Generator key for the public signs of a randomised Hadamard transform."""
    BULK_PUBLIC = b"secure-fedfm/v1/bulk-public"
    """Generator key of one public polynomial of the bulk encryption."""
    KEYGEN_PUBLIC = b"secure-fedfm/v1/keygen-public"
    """Generator key of the public polynomial of a collective key."""
    KEYGEN_COMMITMENT = b"secure-fedfm/v1/commit-keygen"
    """Commitment to a party's part of a collective public key."""
    KEY_SHARE = b"secure-fedfm/v1/key-share"
    """AES-256-GCM key that boxes what one dealer of a collective key gives one recipient."""
    GROUP_COMMITMENT = b"secure-fedfm/v1/commit-group"
    """Commitment to a dealer's proposal for the clients' group key."""
    KEY_EPOCH = b"secure-fedfm/v1/key-epoch"
    """Hash of all that a key epoch's clients hold in common."""
    BULK_SEED = b"secure-fedfm/v1/bulk-seed"
    """Seed of the public polynomials that one step's updates are encrypted with."""
    ACTIVE_SET = b"secure-fedfm/v1/active-set"
    """Hash of the holders that open one key sum together."""
    KEY_OPENING = b"secure-fedfm/v1/key-opening"
    """AES-256-GCM key that boxes one partial decryption for the clients."""
    SKETCH = b"secure-fedfm/v1/sketch"
    """Generator key of the buckets and signs of one row of a sketch."""
    SKETCH_SECRET = b"secure-fedfm/v1/sketch-secret"
    """Generator keys of a validator's sketch key, from its seed."""
    SKETCH_PUBLIC = b"secure-fedfm/v1/sketch-public"
    """Generator key of the public polynomials of a validator's sketch key."""
    BEACON = b"secure-fedfm/v1/beacon"
    """What fixes the sketches of a step, from nonces that were committed to before."""
    JUDGED_KEYS = b"secure-fedfm/v1/judged-keys"
    """What a robust round's context binds for keys: the collective key and the sketch key."""
    SUM_SKETCH = b"secure-fedfm/v1/sum-sketch"
    """AES-256-GCM key and associated data of a sketch of the opened sum, for the validator."""
    SCORE_COMMITMENT = b"secure-fedfm/v1/commit-score"
    """Commitment of the validator to the scores of one client."""
    MARK_CLAIM = b"secure-fedfm/v1/mark-claim"
    """Hash of an ownership claim."""
    MARK_KEY = b"secure-fedfm/v1/mark-key"
    """One sub-key of a mark, from the mark's secret."""
    MARK_COMMITMENT = b"secure-fedfm/v1/commit-mark"
    """Commitment to one sub-key of a mark."""
    MARK_SIGNATURE = b"secure-fedfm/v1/mark-signature"
    """Signature of an owner over its claim and the commitment to its keys."""
    MARK_DIRECTIONS = b"secure-fedfm/v1/mark-directions"
    """Generator key of the directions of a mark on one side of one module."""
    MARK_BITS = b"secure-fedfm/v1/mark-bits"
    """Generator key of the bits of a mark."""
    MARK_TRIGGERS = b"secure-fedfm/v1/mark-triggers"
    """Generator key of the trigger texts of one sub-key of a mark."""
    MARK_TARGETS = b"secure-fedfm/v1/mark-targets"
    """Generator key of the classes that a mark's triggers shall get."""
