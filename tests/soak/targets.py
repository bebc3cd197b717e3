"""All targets of hostile input.

Not here: bundles of evidence.  ``tests/audit/test_mutations.py`` changes every byte region of one
and ``tests/audit/test_lying_federation.py`` has a federation lie under its own keys.
"""

from __future__ import annotations

import logging
import random
from contextlib import ExitStack

from tests.soak.documents import document_targets
from tests.soak.encrypted import encrypted_targets
from tests.soak.engine import Attempt, Target
from tests.soak.front_door import FrontDoor, frame_targets
from tests.soak.handlers import client_targets, coordinator_targets
from tests.soak.parsers import parser_targets
from tests.soak.robust import robust_targets
from tests.soak.services import service_targets

_OPEN = ExitStack()  # the front door, once a case wanted it
_DOORS: list[Target] = []


def _front_door(rng: random.Random) -> Attempt:
    if not _DOORS:
        _DOORS.append(_OPEN.enter_context(FrontDoor()).target())
    return _DOORS[0].make(rng)


def close_all() -> None:
    """Stop what the targets have started; they start it again if they must."""
    _DOORS.clear()
    _OPEN.close()


def all_targets() -> list[Target]:
    """Every target, the cheap ones first.  Making the list starts nothing."""
    return [
        *parser_targets(),
        *document_targets(),
        *frame_targets(),
        *client_targets(),
        *coordinator_targets(),
        *encrypted_targets(),
        *robust_targets(),
        *service_targets(),
        Target("front-door", _front_door),
    ]


def quiet() -> int:
    """The services warn of every hostile message; thousands of warnings are no news.  Returns the
    level that was set before."""
    logger = logging.getLogger("secure_fedfm")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    return before
