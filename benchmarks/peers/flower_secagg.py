"""Flower's SecAgg+, measured: its own client mod and its own server workflow, in one process.

``secaggplus_mod`` and ``SecAggPlusWorkflow`` run unchanged, on a grid that passes messages the way
Flower's own processes do: deflated into objects, each in a protobuf request, and inflated on the
other side.  What lies between a ClientApp and a ServerApp in a deployment (SuperNode, SuperLink,
HTTP, saving a client's context after every message) is not counted, and neither is the server's
strategy: both in Flower's favour.

Complete graph, the step of quantisation and the reconstruction threshold of the federation that it
is compared with; everything else is Flower's default.  Importing this module raises ImportError
where ``flwr`` is missing or keeps these parts elsewhere (written for flwr 1.41).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.constant import ErrorCode
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import message_to_proto
from flwr.compat.common import recorddict_compat
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp.grid import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from benchmarks.federation import CLIP, SCALE
from benchmarks.measure import CpuClock, Measurement, median, settle

# The packages export functions of the same names as these modules.
mod = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
workflow = import_module("flwr.server.workflow.secure_aggregation.secaggplus_workflow")

RUN = 1
SERVER_NODE = 1
TARGET_RANGE = int(2 * CLIP * SCALE)
"""Quantised values are 0 .. TARGET_RANGE: the same step, 1/SCALE, as ours."""
MODULUS = 1 << 32


@dataclass(frozen=True, slots=True)
class Parcel:
    """Messages on the way: each with its object tree, all objects as protobuf responses."""

    trees: list[tuple[Any, Any]]
    objects: dict[str, bytes]
    size: int


def push(messages: Sequence[Any], sender: int) -> tuple[bytes, dict[str, bytes], list[Any]]:
    """What a sending process does (``HttpGrid.push_messages``, ``run_clientapp.push_message``):
    the announcement, every object as an encoded request, and the object trees."""
    requests: dict[str, bytes] = {}

    def store(request: Any) -> Any:
        requests[request.object_id] = request.SerializeToString()
        return PushObjectResponse(stored=True)

    for message in messages:
        message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        bare = [message_to_proto(_without_content(message)) for message in messages]
        trees = [get_object_tree(message) for message in messages]
        objects: dict[str, Any] = {}
        for message in messages:
            objects.update(get_all_nested_objects(message))
        announced = PushAppMessagesRequest(
            messages_list=bare, message_object_trees=trees
        ).SerializeToString()
        push_objects(
            objects,
            make_push_object_fn_protobuf(store, Node(node_id=sender), RUN, "benchmark"),
        )
    return announced, requests, trees


def relay(requests: dict[str, bytes]) -> dict[str, bytes]:
    """What stands between the two: every stored object as the response to its pull."""
    responses = {}
    for name, data in requests.items():
        content = PushObjectRequest.FromString(data).object_content
        responses[name] = PullObjectResponse(
            object_found=True, object_available=True, object_content=content
        ).SerializeToString()
    return responses


def pull(tree: Any, responses: dict[str, bytes], receiver: int) -> Any:
    """What a receiving process does: pull every object of the tree and inflate the message."""

    def fetch(request: Any) -> Any:
        return PullObjectResponse.FromString(responses[request.object_id])

    contents = pull_objects(
        [node.object_id for node in iterate_object_tree(tree)],
        make_pull_object_fn_protobuf(fetch, Node(node_id=receiver), RUN),
    )
    message = inflate_object_from_contents(tree.object_id, contents)
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message


def _without_content(message: Any) -> Any:
    """As Flower's ``remove_content_from_message``: the announcement carries no payload."""
    if message.has_error():
        return message
    return Message(RecordDict(), metadata=message.metadata)


@dataclass
class FlowerClient:
    """One client: its node, its update, its state between messages, its processor seconds."""

    node: int
    update: NDArray[np.float32]
    context: Any
    clock: CpuClock = field(default_factory=CpuClock)

    def answer(self, message: Any) -> Any:
        """What its ClientApp returns, the mod around a client that has trained already."""
        return mod.secaggplus_mod(message, self.context, self._trained)

    def _trained(self, message: Any, context: Any) -> Any:
        del context
        started = CpuClock()
        with started.running():
            result = FitRes(
                status=Status(code=Code.OK, message=""),
                parameters=ndarrays_to_parameters([self.update]),
                num_examples=1,
                metrics={},
            )
            content = recorddict_compat.fitres_to_recorddict(result, keep_input=False)
            reply = Message(content, reply_to=message)
        self.clock.seconds -= started.seconds  # training and its result are not part of a sum
        return reply


class InProcessGrid(Grid):  # type: ignore[misc]
    """Flower's grid without a network.  ``others`` are the seconds that are not the server's."""

    def __init__(self, clients: dict[int, FlowerClient], dropped: frozenset[int]) -> None:
        self.clients = clients
        self.dropped = dropped
        self.others = CpuClock()
        self.up: Counter[int] = Counter()
        self.down: Counter[int] = Counter()

    def set_run(self, run: Any) -> None:
        """No run is registered anywhere."""

    @property
    def run(self) -> Any:
        """No run is registered anywhere."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Any:
        """As Flower's grids do it."""
        return Message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """The clients' nodes."""
        return self.clients

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Not asked for by the workflow, which always waits for the replies."""
        raise RuntimeError("the SecAgg+ workflow sends through send_and_receive only")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Not asked for by the workflow either."""
        raise RuntimeError("the SecAgg+ workflow receives through send_and_receive only")

    def send_and_receive(
        self, messages: Iterable[Any], *, timeout: float | None = None
    ) -> Iterable[Any]:
        """Every message to its client, every reply back, through Flower's encoding."""
        del timeout
        sent = list(messages)
        _, requests, trees = push(sent, SERVER_NODE)
        arrivals: list[Any] = []
        with self.others.running():
            responses = relay(requests)
            for message, tree in zip(sent, trees, strict=True):
                self._count_down(message.metadata.dst_node_id, tree, responses)
                arrivals.append(self._exchange(message, tree, responses))
        replies = []
        for tree, returned in arrivals:
            replies.append(pull(tree, returned, SERVER_NODE))
        return replies

    def _count_down(self, node: int, tree: Any, responses: dict[str, bytes]) -> None:
        parts = {part.object_id for part in iterate_object_tree(tree)}
        self.down[node] += sum(len(responses[part]) for part in parts)

    def _exchange(self, message: Any, tree: Any, responses: dict[str, bytes]) -> tuple[Any, Any]:
        node = message.metadata.dst_node_id
        client = self.clients[node]
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if node in self.dropped and stage == Stage.COLLECT_MASKED_VECTORS:
            # A SuperLink answers in the place of a node that has gone.
            gone = Message(Error(ErrorCode.NODE_UNAVAILABLE, "dropped"), reply_to=message)
            _, requests, trees = push([gone], node)
        else:
            with client.clock.running():
                reply = client.answer(pull(tree, responses, node))
                announced, requests, trees = push([reply], node)
            self.up[node] += len(announced) + sum(map(len, requests.values()))
        return trees[0], relay(requests)


class SumOnly(FedAvg):  # type: ignore[misc]
    """Samples every client and keeps what the workflow has opened, without averaging again."""

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """The opened parameters, which the workflow put into every result."""
        del server_round, failures
        return results[0][1].parameters, {}


def run_round(
    updates: Sequence[NDArray[np.float32]], *, threshold: int, dropped: int = 0
) -> Measurement:
    """Run one SecAgg+ round over ``updates`` (one a client), the last ``dropped`` clients
    vanishing after they have dealt their shares.

    Raises
    ------
    RuntimeError
        if Flower halts the round, for example because fewer than ``threshold`` clients stay.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER_NODE, RUN
    clients = {
        SERVER_NODE + 1 + i: FlowerClient(
            SERVER_NODE + 1 + i, update, Context(RUN, SERVER_NODE + 1 + i, {}, RecordDict(), {})
        )
        for i, update in enumerate(updates)
    }
    staying = list(clients)[: len(clients) - dropped]
    grid = InProcessGrid(clients, frozenset(clients) - frozenset(staying))
    protocol = workflow.SecAggPlusWorkflow(
        1.0,
        threshold,
        max_weight=1.0,
        clipping_range=CLIP,
        quantization_range=TARGET_RANGE,
        modulus_range=MODULUS,
    )
    context = _server_context(grid, updates[0].size)
    quantised: list[NDArray[np.int64]] = []
    opened: list[Any] = []
    clock = CpuClock()
    settle()
    with (
        mock.patch.object(mod, "quantize", _recording(mod.quantize, quantised, result=True)),
        mock.patch.object(
            workflow, "dequantize", _recording(workflow.dequantize, opened, result=False)
        ),
        clock.running(),
    ):
        protocol(grid, context)
    if len(opened) != 1 or len(quantised) != len(staying):
        raise RuntimeError("Flower halted the SecAgg+ round before it opened a sum")
    expected = sum((values[0].astype(np.int64) for values in quantised), np.int64(0)) % MODULUS
    return Measurement(
        client_cpu_s=median(clients[node].clock.seconds for node in staying),
        server_cpu_s=clock.seconds - grid.others.seconds,
        bytes_up=int(median(grid.up[node] for node in staying)),
        bytes_down=int(median(grid.down[node] for node in staying)),
        exact=bool(np.array_equal(opened[0][0], expected)),
    )


def _recording(function: Any, seen: list[Any], *, result: bool) -> Any:
    """``function``, remembering its results or its first arguments (by reference, at no cost)."""

    def call(first: Any, *rest: Any) -> Any:
        returned = function(first, *rest)
        seen.append(returned if result else first)
        return returned

    return call


def _server_context(grid: InProcessGrid, values: int) -> Any:
    state = RecordDict()
    state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
        ndarrays_to_parameters([np.zeros(values, np.float32)]), keep_input=True
    )
    manager = SimpleClientManager()
    for node in grid.clients:
        manager.register(GridClientProxy(node_id=node, grid=grid, run_id=RUN))
    count = len(grid.clients)
    strategy = SumOnly(min_fit_clients=count, min_available_clients=count)
    return LegacyContext(
        Context(RUN, SERVER_NODE, {}, state, {}), strategy=strategy, client_manager=manager
    )
