"""Relays that delay what passes: a network between this machine and its servers.

    relay.py LISTEN=UPSTREAM ...        ports on this machine; reads on its standard input how long each direction takes from then
                                        on, in seconds, a number a line, and says `ok` to each

A connection is there after a round trip more, as TCP's handshake takes it, and only then carries its first bytes.
"""

import asyncio
import selectors
import sys

CHUNK = 1 << 18
# What a connection may have in flight. A network of 10 Gbit/s and 40 ms holds as much.
UNDER_WAY = 64 << 20


class Relay:
    def __init__(self):
        self.delay = 0.0

    async def serve(self, listen, upstream):
        async def accepted(reader, writer):
            try:
                await self.connected(reader, writer, upstream)
            except asyncio.CancelledError:
                writer.close()

        return await asyncio.start_server(accepted, "localhost", listen, limit=CHUNK)

    async def connected(self, reader, writer, upstream):
        established = asyncio.get_running_loop().time() + 2 * self.delay
        try:
            server_reader, server_writer = await asyncio.open_connection("localhost", upstream, limit=CHUNK)
        except OSError:
            writer.close()
            return
        ways = [self.way(reader, server_writer, established), self.way(server_reader, writer, established)]
        await asyncio.gather(*ways, return_exceptions=True)

    async def way(self, reader, writer, established):
        """One direction: a piece is written when its time has come, in order, while others are read."""
        loop = asyncio.get_running_loop()
        pieces, room = asyncio.Queue(), asyncio.Semaphore(UNDER_WAY // CHUNK)

        async def read():
            try:
                while piece := await reader.read(CHUNK):
                    await room.acquire()
                    pieces.put_nowait((max(loop.time(), established) + self.delay, piece))
            except OSError:
                pass
            pieces.put_nowait((loop.time() + self.delay, b""))

        reading = loop.create_task(read())
        try:
            while True:
                due, piece = await pieces.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                if not piece:
                    break
                room.release()
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            reading.cancel()
            writer.close()


async def main():
    relay = Relay()
    servers = [await relay.serve(*map(int, pair.split("="))) for pair in sys.argv[1:]]
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        relay.delay = float(line)
        print("ok", flush=True)
    for server in servers:
        server.close()


if __name__ == "__main__":
    # epoll waits for whole milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main())
