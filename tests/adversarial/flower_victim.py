"""The double-listing attack on Flower's SecAgg+: a malicious server, Flower's own client mod.

The server lists one client both as active and as dead when it asks for shares.  Flower's clients
answer with both kinds (flwr 1.41, ``secaggplus_mod._unmask``), and the server takes every mask off
that client's vector.  Importing this module raises ImportError where ``flwr`` is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import MessageType, bytes_to_ndarray
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from benchmarks.peers.flower_secagg import (
    MODULUS,
    RUN,
    SERVER_NODE,
    TARGET_RANGE,
    FlowerClient,
    mod,
)


@dataclass(frozen=True)
class Recovered:
    """What the server has taken from one client, beside what that client quantised."""

    vector: NDArray[np.int64]
    truth: NDArray[np.int64]
    seed_shares: int
    key_shares: int


class MaliciousServer:
    """Plays the four stages of SecAgg+ with Flower's client mod, and lies in the last one."""

    def __init__(self, updates: list[NDArray[np.float32]], threshold: int) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER_NODE, RUN
        self.threshold = threshold
        self.clients = {
            node: FlowerClient(node, update, Context(RUN, node, {}, RecordDict(), {}))
            for node, update in enumerate(updates, 2)
        }

    def _ask(self, node: int, stage: str, **fields: Any) -> Any:
        record = ConfigRecord({Key.STAGE: stage, **fields})
        question = Message(
            content=RecordDict({RECORD_KEY_CONFIGS: record}),
            dst_node_id=node,
            message_type=MessageType.TRAIN,
            group_id="1",
        )
        return self.clients[node].answer(question).content.config_records[RECORD_KEY_CONFIGS]

    def recover(self, victim: int) -> Recovered:
        """Run a round and take the victim's vector out of it."""
        keys = self._setup()
        boxes = self._share(keys)
        quantised: list[NDArray[np.int64]] = []
        real = mod.quantize

        def recording(*args: Any) -> Any:
            result = real(*args)
            quantised.append(result[0].copy())
            return result

        with mock.patch.object(mod, "quantize", recording):
            masked = {node: self._collect(node, boxes[node]) for node in self.clients}
        place = list(self.clients).index(victim)
        seeds, secrets = self._unmask(victim)
        vector = self._strip(victim, masked[victim], combine_shares(seeds), secrets, keys)
        return Recovered(vector, quantised[place].astype(np.int64), len(seeds), len(secrets))

    def _setup(self) -> dict[int, tuple[bytes, bytes]]:
        terms = {
            Key.SAMPLE_NUMBER: len(self.clients),
            Key.SHARE_NUMBER: len(self.clients),
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: 1.0,
            Key.TARGET_RANGE: TARGET_RANGE,
            Key.MOD_RANGE: MODULUS,
            Key.MAX_WEIGHT: 1.0,
        }
        answers = {node: self._ask(node, Stage.SETUP, **terms) for node in self.clients}
        return {n: (a[Key.PUBLIC_KEY_1], a[Key.PUBLIC_KEY_2]) for n, a in answers.items()}

    def _share(
        self, keys: dict[int, tuple[bytes, bytes]]
    ) -> dict[int, tuple[list[int], list[bytes]]]:
        named = {str(node): list(pair) for node, pair in keys.items()}
        boxes: dict[int, tuple[list[int], list[bytes]]] = {n: ([], []) for n in self.clients}
        for node in self.clients:
            dealt = self._ask(node, Stage.SHARE_KEYS, **named)
            for to, box in zip(
                dealt[Key.DESTINATION_LIST], dealt[Key.CIPHERTEXT_LIST], strict=True
            ):
                boxes[to][0].append(node)
                boxes[to][1].append(box)
        return boxes

    def _collect(self, node: int, box: tuple[list[int], list[bytes]]) -> list[NDArray[np.int64]]:
        fields = {Key.SOURCE_LIST: box[0], Key.CIPHERTEXT_LIST: box[1]}
        answer = self._ask(node, Stage.COLLECT_MASKED_VECTORS, **fields)
        return [bytes_to_ndarray(data) for data in answer[Key.MASKED_PARAMETERS]]

    def _unmask(self, victim: int) -> tuple[list[bytes], list[bytes]]:
        """The lie: everybody is active, and the victim is dead as well."""
        fields = {Key.ACTIVE_NODE_ID_LIST: list(self.clients), Key.DEAD_NODE_ID_LIST: [victim]}
        seeds, secrets = [], []
        for node in self.clients:
            answer = self._ask(node, Stage.UNMASK, **fields)
            shares = list(zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True))
            ours = [share for owner, share in shares if owner == victim]
            seeds.append(ours[0])
            secrets.append(ours[1])
        return seeds, secrets

    def _strip(
        self,
        victim: int,
        masked: list[NDArray[np.int64]],
        seed: bytes,
        secrets: list[bytes],
        keys: dict[int, tuple[bytes, bytes]],
    ) -> NDArray[np.int64]:
        shapes = [part.shape for part in masked]
        bare = parameters_subtraction(masked, pseudo_rand_gen(seed, MODULUS, shapes))
        secret = bytes_to_private_key(combine_shares(secrets))
        for other in self.clients:
            if other != victim:
                shared = generate_shared_key(secret, bytes_to_public_key(keys[other][0]))
                pair = pseudo_rand_gen(shared, MODULUS, shapes)
                undo = parameters_subtraction if victim > other else parameters_addition
                bare = undo(bare, pair)
        # Flower puts the weight before the vector (factor_combine).
        vector: NDArray[np.int64] = parameters_mod(bare, MODULUS)[1].astype(np.int64)
        return vector
