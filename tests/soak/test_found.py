"""What the campaigns have found, one test each; smallest form of the case that failed."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.messages import Hello
from fedfm_protocols.scenario.form import parse_scenario
from secure_fedfm.config import read_config
from secure_fedfm.errors import ConfigurationError
from tests.protocols.federations import make_keys
from tests.soak.services import CLIENT, CoordinatorBench, _link

ENDLESS = {"number": f"x = {'9' * 6000}", "nesting": "x = " + "[" * 6000}


def test_a_greeting_with_a_log_size_of_its_own_does_not_stop_the_coordinator(
    tmp_path: Path,
) -> None:
    """service/coordinator: the next checkpoint's offer raised MerkleError and ended the process."""
    bench = CoordinatorBench(tmp_path)
    key, head = make_keys(5).clients[CLIENT], bench.evidence.checkpoint
    honest = Hello(3, bytes(32), 0, 0, head.size, 0, bytes(32))
    for body, ready in ((dataclasses.replace(honest, log_size=2**32 - 1), False), (honest, True)):
        payload = _link(key, CLIENT, body, head).encode()
        assert asyncio.run(bench.service._take_payload(CLIENT, payload)) is None
        assert (CLIENT in bench.service._peers.ready) is ready
        asyncio.run(bench.service._offer(CLIENT))


@pytest.mark.parametrize("what", ENDLESS)
def test_toml_without_end_is_refused_by_name(what: str, tmp_path: Path) -> None:
    """scenario: tomllib raises ValueError and RecursionError, not only its own error."""
    with pytest.raises(ScenarioError, match="not TOML"):
        parse_scenario(ENDLESS[what])
    (tmp_path / "site.toml").write_text(ENDLESS[what])
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        read_config(tmp_path / "site.toml")
