"""A TCP proxy in front of Redis that does to connections what networks do: it delays, cuts, swallows replies, goes silent.

It runs in a process of its own (one event loop, no threads) and is told what to do, one word at a time; each word is
answered once it is in force. What it decides by chance follows from its seed and the order of the chunks that it sees.

    delay(most_s)   each chunk, either way, waits up to so long; 0: no more
    cut(share)      this share of the connections that are open is reset now
    drop(count)     the next replies are swallowed, each with its connection: the command was executed, nobody hears of it
    tear(count)     the next replies break off in the middle, and their connections end
    silence()       connections are accepted and never answered, open ones fall silent; nothing reaches the server
    calm()          all of this is over; what was silent is reset
"""

import asyncio
import contextlib
import ctypes
import json
import os
import random
import re
import signal
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Self

PR_SET_PDEATHSIG = 1  # of prctl(2)
NOTHING_READ = b"*-1\r\n"  # what a read is answered that waited in vain: to lose that would be no fault
_GREETING = re.compile(rb"\*\d+\r\n\$6\r\nCLIENT\r\n")  # a new connection's; to lose its answer would be no loss either
CHUNK_BYTES = 1 << 16
ANSWER_S = 120.0


@dataclass(eq=False)
class Link:
    """One connection of a client and the one to the server behind it; `asked` while an answer is due."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    asked: bool = False

    def reset(self) -> None:
        """End both at once; the client sees a reset, not an orderly end."""
        for writer in (self.client, self.server):
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                writer.transport.abort()


@dataclass
class Counts:
    """What it did so far, in connections; `delayed` in chunks."""

    accepted: int = 0
    refused: int = 0
    cut: int = 0
    dropped: int = 0
    torn: int = 0
    silenced: int = 0
    delayed: int = 0


@dataclass
class Proxy:
    """The proxy itself, in the event loop of its process."""

    target: int
    chance: random.Random
    counts: Counts = field(default_factory=Counts)
    delay_s: float = 0.0
    drops: int = 0
    tears: int = 0
    silent: bool = False
    links: set[Link] = field(default_factory=set)

    async def serve(self, listening: socket.socket, control: socket.socket) -> None:
        """Until the control's other end is closed."""
        server = await asyncio.start_server(self._accept, sock=listening)
        reader, writer = await asyncio.open_unix_connection(sock=control)
        while line := await reader.readline():
            word, argument = json.loads(line)
            getattr(self, f"_{word}")(argument)
            writer.write(json.dumps({**vars(self.counts), "open": len(self.links)}).encode() + b"\n")
            await writer.drain()
        server.close()

    # Words

    def _look(self, argument: None) -> None:
        del argument

    def _delay(self, most_s: float) -> None:
        self.delay_s = most_s

    def _drop(self, count: int) -> None:
        self.drops += count

    def _tear(self, count: int) -> None:
        self.tears += count

    def _cut(self, share: float) -> None:
        for link in [one for one in self.links if self.chance.random() < share]:
            self.counts.cut += 1
            self.links.discard(link)  # at once: its task hears of the reset a turn of the loop later, or two
            link.reset()

    def _silence(self, argument: None) -> None:
        del argument
        self.silent = True
        self.counts.silenced += len(self.links)

    def _calm(self, argument: None) -> None:
        del argument
        self.delay_s, self.drops, self.tears = 0.0, 0, 0
        if self.silent:
            self.silent = False
            for link in [*self.links]:
                self.links.discard(link)
                link.reset()

    # Connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(writer)
        self.links.add(link)
        self.counts.accepted += 1
        try:
            if self.silent:
                self.counts.silenced += 1
                await self._never_answered(reader)
                return
            try:
                answers, link.server = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:  # the server is down
                self.counts.refused += 1
                return
            # One side's end, or fault, is the other's as well.
            asking = asyncio.ensure_future(self._ask(link, reader))
            answering = asyncio.ensure_future(self._answer(link, answers))
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            for task in (asking, answering):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task
        finally:
            self.links.discard(link)
            link.reset()

    async def _never_answered(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(CHUNK_BYTES):
                pass

    async def _ask(self, link: Link, reader: asyncio.StreamReader) -> None:
        assert link.server is not None
        while chunk := await reader.read(CHUNK_BYTES):
            await self._wait()
            if not self.silent:
                link.asked = link.asked or _GREETING.match(chunk) is None
                link.server.write(chunk)
                await link.server.drain()

    async def _answer(self, link: Link, answers: asyncio.StreamReader) -> None:
        while chunk := await answers.read(CHUNK_BYTES):
            if link.asked and chunk != NOTHING_READ and self.drops and not self.silent:
                self.drops -= 1
                self.counts.dropped += 1
                return
            torn = link.asked and self.tears > 0 and len(chunk) > len(NOTHING_READ) and not self.silent
            if torn:
                self.tears -= 1
                self.counts.torn += 1
                chunk = chunk[: len(chunk) // 2]
            link.asked = False
            await self._wait()
            if not self.silent:
                link.client.write(chunk)
                await link.client.drain()
            if torn:
                link.client.close()
                return

    async def _wait(self) -> None:
        if self.delay_s > 0:
            self.counts.delayed += 1
            await asyncio.sleep(self.chance.uniform(0, self.delay_s))


class ProxyProcess:
    """A proxy in a process of its own, forked here; a context manager. Fork it before there are threads."""

    def __init__(self, target: int, seed: str) -> None:
        """`target`: the server's port on this machine, which need not answer yet."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = listening.getsockname()[1]
        self._control, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))  # it does not outlive whoever started it
                self._control.close()
                asyncio.run(Proxy(target, random.Random(seed)).serve(listening, theirs))
            finally:
                os._exit(0)
        listening.close()
        theirs.close()
        self._control.settimeout(ANSWER_S)
        self._answers = self._control.makefile("rb")

    def tell(self, word: str, argument: Any = None) -> dict[str, int]:
        """One word; returns the counts, and `open`: how many connections there are, once it is in force."""
        self._control.sendall(json.dumps([word, argument]).encode() + b"\n")
        found: dict[str, int] = json.loads(self._answers.readline())
        return found

    def close(self) -> None:
        """End it, and every connection through it."""
        self._answers.close()
        self._control.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.close()
