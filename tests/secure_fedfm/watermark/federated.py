"""An adapter of a federation, its layout, and clients that own marks in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.commitment import MarkKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import make_charter
from fedfm_protocols.federation import Federation
from fedfm_protocols.marks import Watermark
from fedfm_protocols.scenario.federations import charter_fields, make_keys
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import FloatArray, TensorLayout
from secure_fedfm.storage.keys import save_identity
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.carrier import Carrier
from secure_fedfm.watermark.owned import OwnedMark, load_marks, make_leaf, read_leaf, save_mark
from secure_fedfm.watermark.writing import MarkSum, MarkWriter
from tests.audit.marks import CARRIER, host

KEYS = make_keys(5)
OWNERS = (("client-01", "own"), ("client-02", "consortium"), ("client-02", "own"))


@cache
def released(seed: int = 1) -> Adapter:
    """A trained adapter: the random host's factors, and a head."""
    tensors: dict[str, FloatArray] = {"head.weight": np.ones((3, 4), np.float32)}
    for name, one in host(seed=seed).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = one.a
        tensors[f"base_model.model.{name}.lora_B.weight"] = one.b
    return Adapter(tensors)


@cache
def carrier() -> Carrier:
    """B and the head are trained, A is frozen."""
    trained = {n: t for n, t in released().items() if "lora_A" not in n}
    return Carrier(TensorLayout.of(trained), scale=2.0)


@cache
def owned(client: str, mark: str, keys: int = 1) -> OwnedMark:
    """A client's mark with seeded keys."""
    identity = KEYS.clients[client]
    key = MarkKey.generate(SeededRandom(f"{client} {mark}".encode()))
    claim = Claim(
        "ownership", "test", identity.public, "00" * 32, CARRIER.targets(), 256, 0.6, keys
    )
    leaf = make_leaf(key.commit(claim, identity), client, mark, identity)
    return OwnedMark(read_leaf(leaf, [identity.public], "a mark"), leaf, key)


def terms(**changes: Any) -> Watermark:
    """The charter's section for the three marks."""
    owners = [
        {
            "client": client,
            "mark": mark,
            "commitment": hashlib.sha256(owned(client, mark).leaf).hexdigest(),
        }
        for client, mark in OWNERS
    ]
    fields = {
        "owners": owners,
        "norm_bound": 4.0,
        "largest_change": 0.25,
        "clip": 4.0,
        "scale": 1 << 20,
    }
    return Watermark.model_validate({**fields, **changes})


def federation(**changes: Any) -> Federation:
    """A federation whose charter names the three marks."""
    section = terms(**changes).model_dump(mode="json")
    return Federation.of(make_charter(charter_fields(KEYS, watermark=section, rounds=1)))


def writer(client: str, **changes: Any) -> MarkWriter:
    """What a client writes."""
    marks = tuple(owned(name, mark) for name, mark in OWNERS if name == client)
    return MarkWriter(carrier(), terms(**changes), marks)


def mark_sum(**changes: Any) -> MarkSum:
    """How everybody applies the sum."""
    return MarkSum(carrier(), terms(**changes))


@dataclass(frozen=True)
class OwnerSite:
    """A client's folder with its marks in it."""

    site: Site
    client: str

    def load(self, agreed: Federation) -> tuple[OwnedMark, ...]:
        return load_marks(self.site, agreed, self.client)


def owner_site(root: Path, client: str = "client-02") -> OwnerSite:
    """A site folder that committed to the client's marks."""
    site = Site(root)
    save_identity(site.identity_file, KEYS.clients[client])
    for name, mark in OWNERS:
        if name == client:
            one = owned(name, mark)
            save_mark(site, client, mark, one.committed, one.key)
    return OwnerSite(site, client)
