"""Messages over the transport's limit lie on disk until they are taken, in the real services."""

from __future__ import annotations

import pytest

from secure_fedfm.learning.specs import ModelSpec
from secure_fedfm.transport.limits import TransportLimits
from tests.integration.federation_processes import COORDINATOR, TestFederation, build_federation
from tests.integration.forked_processes import Launcher

LIMIT = TransportLimits().spool_above_bytes
# B of every linear layer of two tiny blocks: 448 values for each unit of rank.
RANK = 1200


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> TestFederation:
    """A federation of one round with updates just over the limit; ``spool`` of every party says
    where each message that it took had lain."""
    root = tmp_path_factory.mktemp("large")
    federation = build_federation(root, launcher, tiny_model, clients=3, rounds=1, rank=RANK)
    with federation:
        federation.start_all(
            {
                name: {"record_spool": str(site.root / "spool")}
                for name, site in federation.sites.items()
            }
        )
        federation.run_to_end()
    return federation


def taken(federation: TestFederation, party: str) -> list[tuple[str, int, int]]:
    """(where it lay, size, messages of its sender on disk), for every message taken."""
    file = federation.sites[party].root / "spool"
    lines = [line.split() for line in file.read_text("ascii").splitlines()]
    return [(where, int(size), int(waiting)) for where, size, waiting in lines]


def test_every_message_over_the_limit_and_no_other_went_through_the_spool(
    finished: TestFederation,
) -> None:
    upload = finished.charter.quantiser.values * finished.charter.quantiser.lane_bits // 8
    assert upload > LIMIT
    for party in finished.sites:
        messages = taken(finished, party)
        assert {where for where, size, _ in messages if size > LIMIT} == {"disk"}
        assert {where for where, size, _ in messages if size <= LIMIT} == {"memory"}
        large = [size for where, size, _ in messages if where == "disk"]
        # The coordinator takes each client's upload, a client the aggregate.
        assert len(large) == (len(finished.clients) if party == COORDINATOR else 1)
        assert min(large) >= upload


def test_the_round_was_completed_by_all(finished: TestFederation) -> None:
    assert set(finished.outcomes().values()) == {"completed"}
    assert len(finished.adapters()) == 1


def test_no_temporary_file_is_left_behind(finished: TestFederation) -> None:
    """Nor was there ever one with a name that a crash could leave (test_spool.py)."""
    for site in finished.sites.values():
        assert [path for path in site.root.rglob("tmp*") if path.is_file()] == []
