"""What a test may have a party's process write down: for ``faults``, which installs it.

Everything goes to files that are appended to or written anew at once: the process may be killed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_crypto.lattice.bulk_keys import BulkKey
from fedfm_crypto.lattice.collective import SecretContribution
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.privacy import UpdateEncoding
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.services.coordinator import CoordinatorService
from secure_fedfm.services.privacy import RoundLedger
from secure_fedfm.transport.framing import MessagePlan
from secure_fedfm.transport.spool import Stored


def patch(owner: type[Any], name: str, replacement: Callable[..., Any]) -> None:
    """Put another method in place, in this process."""
    setattr(owner, name, replacement)


def record_updates(folder: str) -> None:
    """Write every update as trained (in privacy modes that share noise: before noise), and its
    lane words before any mask (with the noise), to ``folder``."""
    original = UpdateEncoding.encode
    counter = iter(range(1, 1 << 30))

    @functools.wraps(original)
    def encode(self: UpdateEncoding, update: Any, *rest: Any) -> Any:
        words = original(self, update, *rest)
        number = next(counter)
        np.save(Path(folder) / f"update-{number}.npy", np.asarray(update))
        np.save(Path(folder) / f"words-{number}.npy", words)
        return words

    patch(UpdateEncoding, "encode", encode)


def record_secrets(folder: str) -> None:
    """Write the secrets that the client draws to ``folder``: what an attacker who has all keys
    would know, so that a test can show that nothing else undoes the protection.

    ``secrets-N``: share key, then mask key and seed of every step of the Nth round that sums
    updates, 32 bytes each; ``bulk-N.npy``: the key of its Nth upload.
    """
    draw, generate = RoundSecrets.draw, BulkKey.generate
    rounds, keys = iter(range(1, 1 << 30)), iter(range(1, 1 << 30))

    def drawing(steps: int, random: Any, contribution: Any = None) -> RoundSecrets:
        secrets = draw(steps, random, contribution)
        if contribution is None:
            data = secrets.share_key.secret.reveal()
            for step in secrets.steps:
                data += step.mask_key.secret.reveal() + step.seed.reveal()
            (Path(folder) / f"secrets-{next(rounds)}").write_bytes(data)
        return secrets

    def generating(random: Any) -> BulkKey:
        key = generate(random)
        np.save(Path(folder) / f"bulk-{next(keys)}.npy", key.coefficients)
        return key

    patch(RoundSecrets, "draw", staticmethod(drawing))
    patch(BulkKey, "generate", staticmethod(generating))


def record_drawn(file: str) -> None:
    """Append the hash of every secret that the client draws to ``file``, over all its lives: keys
    of shares and masks, seeds, nonces, keys of uploads, parts of collective keys."""
    draw, generate = RoundSecrets.draw, BulkKey.generate
    contribute: Callable[[Any], SecretContribution] = SecretContribution.generate

    def write(kind: str, secret: bytes) -> None:
        with Path(file).open("a", encoding="ascii") as stream:
            stream.write(f"{kind} {hashlib.sha256(secret).hexdigest()}\n")

    def drawing(steps: int, random: Any, contribution: Any = None) -> RoundSecrets:
        secrets = draw(steps, random, contribution)
        write("share-key", secrets.share_key.secret.reveal())
        for step in secrets.steps:
            write("mask-key", step.mask_key.secret.reveal())
            write("seed", step.seed.reveal())
        write("nonce", secrets.nonce.reveal())
        return secrets

    def generating(random: Any) -> BulkKey:
        key = generate(random)
        write("bulk-key", key.coefficients.tobytes())
        return key

    def contributing(random: Any) -> SecretContribution:
        part = contribute(random)
        write("contribution", part.transformed.tobytes())
        return part

    patch(RoundSecrets, "draw", staticmethod(drawing))
    patch(BulkKey, "generate", staticmethod(generating))
    patch(SecretContribution, "generate", staticmethod(contributing))


def record_protected(file: str) -> None:
    """Append to ``file`` what hides what: ``key HASH WORDS`` for the encryption key and each mask
    of an upload, with the hash of the lane words that they hide."""
    prepare, protect = LatticeEncryption.prepare, LatticeEncryption.protect
    generate = BulkKey.generate
    drawn = [b""]
    made: list[tuple[Any, list[bytes]]] = []  # what was prepared, and with which secrets

    def generating(random: Any) -> BulkKey:
        key = generate(random)
        drawn.append(key.coefficients.tobytes())
        return key

    def preparing(self: LatticeEncryption, *, masks: Any, **more: Any) -> Any:
        listed = tuple(masks)
        prepared = prepare(self, masks=listed, **more)
        made.append((prepared, [drawn[-1], *(mask.reveal() for mask, _ in listed)]))
        return prepared

    def protecting(self: LatticeEncryption, prepared: Any, words: Any, lane_bits: int) -> Any:
        hidden = hashlib.sha256(np.asarray(words).tobytes()).hexdigest()
        (secrets,) = [found for other, found in made if other is prepared]
        with Path(file).open("a", encoding="ascii") as stream:
            for kind, secret in zip(("key", *["mask"] * len(secrets)), secrets, strict=False):
                stream.write(f"{kind} {hashlib.sha256(secret).hexdigest()} {hidden}\n")
        return protect(self, prepared, words, lane_bits)

    patch(BulkKey, "generate", staticmethod(generating))
    patch(LatticeEncryption, "prepare", preparing)
    patch(LatticeEncryption, "protect", protecting)


def record_spending(file: str) -> None:
    """Append to ``file``, in the order of events, ``charged ROUND`` when a charge is on disk and
    ``trained ROUND STEP`` when training begins."""
    enter, train = RoundLedger.enter, LocalLearner.train

    def write(line: str) -> None:
        with Path(file).open("a", encoding="ascii") as stream:
            stream.write(line + "\n")

    def entering(self: RoundLedger, entry: Any) -> None:
        enter(self, entry)
        write(f"charged {entry.round}")

    def training(self: LocalLearner, adapter: Any, number: int, *rest: Any, **more: Any) -> Any:
        write(f"trained {number} {more.get('step', 0)}")
        return train(self, adapter, number, *rest, **more)

    patch(RoundLedger, "enter", entering)
    patch(LocalLearner, "train", training)


def record_spool(file: str) -> None:
    """Append a line to ``file`` for every message taken: ``disk`` or ``memory``, its size, and how
    many messages lie on disk at that moment."""
    original = Stored.take

    def take(self: Stored) -> bytes:
        where, waiting = "disk" if self.on_disk else "memory", self._spool.files
        payload = original(self)
        with Path(file).open("a", encoding="ascii") as stream:
            stream.write(f"{where} {len(payload)} {waiting}\n")
        return payload

    patch(Stored, "take", take)


def record_traffic(folder: str) -> None:
    """Write all that the coordinator receives (whole payloads, as the transport hands them over)
    and sends, one file each, to ``folder``."""
    take, send = CoordinatorService._take_payload, CoordinatorService._send
    counter = iter(range(1, 1 << 30))

    def write(way: str, peer: str, payload: bytes) -> None:
        try:
            kind = Envelope.decode(payload).header.type
        except CodecError:
            kind = "Undecodable"
        (Path(folder) / f"{next(counter):06d}.{way}.{peer}.{kind}").write_bytes(payload)

    async def taking(self: CoordinatorService, sender: str, payload: bytes) -> Any:
        write("from", sender, payload)
        return await take(self, sender, payload)

    async def sending(
        self: CoordinatorService, name: str, envelope: Envelope, plan: MessagePlan | None = None
    ) -> None:
        write("to", name, envelope.encode())
        await send(self, name, envelope, plan)

    patch(CoordinatorService, "_take_payload", taking)
    patch(CoordinatorService, "_send", sending)


def record_received(file: str) -> None:
    """Append a line to ``file`` for every message of a round that the coordinator receives:
    sender, context, type, what it refers to, and the hash of all its bytes."""
    take = CoordinatorService._take_payload

    async def taking(self: CoordinatorService, sender: str, payload: bytes) -> Any:
        header = Envelope.decode(payload).header
        if header.context != self._federation.link_context:
            place = (sender, header.context.hex(), header.type, header.refers_to.hex())
            with Path(file).open("a", encoding="ascii") as stream:
                stream.write(" ".join((*place, hashlib.sha256(payload).hexdigest())) + "\n")
        return await take(self, sender, payload)

    patch(CoordinatorService, "_take_payload", taking)
