"""One sum under CKKS through TenSEAL, with the parameters and the steps of two peers.

**NVFlare** (``app_opt/he/model_encryptor.py``, ``intime_accumulate_model_aggregator.py``,
``model_decryptor.py``, ``lighter/impl/he.py``): N = 8192, primes of 60, 40 and 40 bits, scale 2^40,
symmetric encryption under one secret key that all clients hold. One vector for each layer of the
model; a client weighs the values as doubles, looks for their range, encrypts and serialises; the
server loads, adds, and divides the sum. Layers are taken to have a million values.

**FedML-HE** (Jin et al. 2023, arXiv 2303.10837): N = 8192, primes of 60, 40, 40 and 60 bits, public
key. FedML's own code (``core/fhe/fhe_agg.py``) calls PALISADE, with 4096 slots as well and a scale
of 52 bits; here the same steps run through TenSEAL, and the server's weights are one
multiplication of the sum, in its favour.

TenSEAL's context has the number of threads that both leave it at, one for each core; processor
seconds count them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal

from benchmarks.measure import ProtectedSum, Stages, example_update

LAYER = 1_000_000
"""Values of one vector; only memory depends on it, a ciphertext holds 4096."""

_RESIDUE_BYTES = 8
_POLYNOMIALS = 2


@dataclass(frozen=True, slots=True)
class Configuration:
    """Parameters of a peer; ``symmetric`` is encryption under the secret key."""

    primes: tuple[int, ...]
    symmetric: bool
    degree: int = 8192
    scale_bits: int = 40

    @property
    def ciphertext_bytes(self) -> int:
        """A ciphertext in memory: all primes but the last, which is for keys."""
        return _POLYNOMIALS * (len(self.primes) - 1) * self.degree * _RESIDUE_BYTES


NVFLARE = Configuration((60, 40, 40), symmetric=True)
FEDML_HE = Configuration((60, 40, 40, 60), symmetric=False)


def ckks_sum(configuration: Configuration, values: int, clients: int) -> ProtectedSum:
    """One sum, client by client; the server holds the running sum and one upload."""
    client_context, server_context = _contexts(configuration)
    layers = [slice(start, min(start + LAYER, values)) for start in range(0, values, LAYER)]
    total: list[Any] = []
    spent, adds, server = [], [], Stages()
    for number in range(clients):
        update, client = example_update(number, values), Stages()
        upload = []
        for layer in layers:
            upload.append(_encrypt(client_context, update[layer], client))
        bytes_up = sum(map(len, upload))
        with server.running("add") as clock:
            for at, data in enumerate(upload):
                vector = tenseal.ckks_vector_from(server_context, data)
                if number:
                    total[at] = total[at] + vector
                else:
                    total.append(vector)
        adds.append(clock.seconds)
        spent.append(client)
        del upload, data, vector
    slots = configuration.degree // 2
    ciphertexts = sum(-(-(layer.stop - layer.start) // slots) for layer in layers)
    with server.running("average"):
        for at, vector in enumerate(total):
            total[at] = vector * (1.0 / clients)
    with server.running("serialise"):
        averaged = [vector.serialize() for vector in total]
    del vector, total
    opening = Stages()
    opened = np.empty(values)
    for layer, data in zip(layers, averaged, strict=True):
        with opening.running("decrypt"):
            floats = tenseal.ckks_vector_from(client_context, data).decrypt()
        opened[layer] = floats
    opened *= clients
    return ProtectedSum(
        clients=spent,
        server=server,
        opening=opening,
        adds=adds,
        bytes_up=bytes_up,
        bytes_down=sum(map(len, averaged)),
        running_sum_bytes=ciphertexts * configuration.ciphertext_bytes,
        opened=opened,
    )


def _contexts(configuration: Configuration) -> tuple[Any, Any]:
    """The clients' context with the secret key and the server's without any."""
    kind = tenseal.ENCRYPTION_TYPE
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=configuration.degree,
        coeff_mod_bit_sizes=list(configuration.primes),
        encryption_type=kind.SYMMETRIC if configuration.symmetric else kind.ASYMMETRIC,
    )
    context.global_scale = 2**configuration.scale_bits
    loaded = []
    for client in (True, False):
        data = context.serialize(
            save_public_key=client,
            save_secret_key=client,
            save_galois_keys=False,
            save_relin_keys=True,
        )
        loaded.append(tenseal.context_from(data))
    return loaded[0], loaded[1]


def _encrypt(context: Any, values: np.ndarray[Any, Any], client: Stages) -> bytes:
    with client.running("quantise"):
        weighed = values.ravel() * np.float64(1)
        np.min(values), np.max(values)
    with client.running("encrypt"):
        vector = tenseal.ckks_vector(context, weighed)
    with client.running("serialise"):
        data: bytes = vector.serialize()
    return data
