"""What a round's statement says about its steps: how many, and the root of a tree over them.

The leaves of the tree (RFC 6962) are the steps' parts of the transcript in canonical JSON.  So one
step can be shown, with all its signatures, to whoever has the statement, without the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedfm_audit.errors import TranscriptError
from fedfm_audit.statements import SessionSteps
from fedfm_audit.transcript import Entry, Transcript, encode_part, read_part
from fedfm_crypto.canonical_json import canonical_decode
from fedfm_crypto.merkle import inclusion_proof, leaf_hash, tree_root, verify_inclusion


def step_hashes(transcript: Transcript) -> list[bytes]:
    """Leaf hashes of the recorded steps, in order."""
    return [leaf_hash(encode_part(entries)) for entries in transcript.steps]


def summarise_steps(transcript: Transcript, *, planned: int, good: int) -> SessionSteps:
    """The ``steps`` of a round's statement.

    ``planned`` is what RoundOpen says; ``good`` how many steps, from the first on, a quorum
    acknowledged (1 in a completed round of kind ``keys``).
    """
    root = tree_root(step_hashes(transcript))
    return SessionSteps(planned, good, len(transcript.steps), root.hex())


@dataclass(frozen=True, slots=True)
class StepProof:
    """One step of a round (its part of the transcript as ``leaf``), and its path to the root over
    all recorded steps."""

    step: int
    leaf: bytes = field(repr=False)
    path: tuple[bytes, ...]

    def entries(self) -> tuple[Entry, ...]:
        """The messages of the step; their signatures are yet to be verified.

        Raises
        ------
        TranscriptError, CanonicalJSONError
            if the leaf is not a part of a transcript.
        """
        return read_part(canonical_decode(self.leaf), f"step {self.step}")


def prove_step(transcript: Transcript, step: int) -> StepProof:
    """A proof that a step is one of the transcript's.

    Raises
    ------
    TranscriptError
        if the transcript has no such step.
    """
    recorded = len(transcript.steps)
    if not 0 <= step < recorded:
        raise TranscriptError(
            f"round {transcript.round} recorded {recorded} steps, numbered from 0; there is no "
            f"step {step}"
        )
    path = inclusion_proof(step_hashes(transcript), step)
    return StepProof(step, encode_part(transcript.steps[step]), tuple(path))


def verify_step(proof: StepProof, steps: SessionSteps) -> None:
    """Check a proof against the ``steps`` of the round's statement.

    Raises
    ------
    MerkleError
        if the step is not the one of that number under the statement's root.
    """
    verify_inclusion(
        proof.step, steps.recorded, leaf_hash(proof.leaf), proof.path, bytes.fromhex(steps.root)
    )
