"""What a site's loop takes, one at a time: messages, new connections, results of its own work.

Client and validator have the same loop around different state machines.  Messages and connections
are read beside it; what fails there, or in work that was begun beside it, ends the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from fedfm_protocols.effects import Event
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.spool import Stored


@dataclass(frozen=True, slots=True)
class Arrived:
    """The coordinator has sent something; ``message.take()`` reads it."""

    message: Stored


@dataclass(frozen=True, slots=True)
class Connected:
    """The site is connected, for the ``number``-th time."""

    number: int


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class SiteInbox:
    """The queue between everything that happens at a site and the one loop that decides."""

    def __init__(self, transport: ClientTransport) -> None:
        self._transport = transport
        self._items: asyncio.Queue[Arrived | Connected | Event | _Failed] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to listen."""
        self.begin(self._read_messages())
        self.begin(self._watch_connections())

    def close(self) -> None:
        """End all that was begun."""
        for task in tuple(self._tasks):
            task.cancel()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the loop; its failure is the loop's."""
        task = asyncio.create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def put(self, event: Event) -> None:
        """A result of this site's own work, from the loop's thread."""
        self._items.put_nowait(event)

    def put_from_thread(self, loop: asyncio.AbstractEventLoop, result: Event | Exception) -> None:
        """The same, or what made the work fail, from another thread than ``loop``'s."""
        item = _Failed(result) if isinstance(result, Exception) else result
        loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def take(self) -> Arrived | Connected | Event:
        """The next thing, in the order in which they happened.

        Raises
        ------
        Exception
            what ended a reader or work that was begun.
        """
        item = await self._items.get()
        if isinstance(item, _Failed):
            raise item.error
        return item

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._items.put_nowait(_Failed(error))

    async def _read_messages(self) -> None:
        while True:
            self._items.put_nowait(Arrived(await self._transport.receive()))

    async def _watch_connections(self) -> None:
        async for number in self._transport.connections():
            self._items.put_nowait(Connected(number))
