# SPDX-License-Identifier: MIT OR Apache-2.0

"""A WebSocket of aiohttp, on both ends.

`serve PORT` answers GET / and echoes on /ws; `talk URL KEY` asks for /, then upgrades, on one connection and on
another, and prints what comes back.
"""

import asyncio
import sys

import aiohttp
from aiohttp import web


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def hello(_):
    return web.Response(text="hello")


async def talk(url, key):
    # The handshake has to use a connection that has already carried a request, so there is only one
    # connection.
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector, headers={"X-Api-Key": key}) as session:
        for _ in range(2):
            async with session.get(url) as response:
                print(response.status, await response.text())
            async with session.ws_connect(url + "ws") as socket:
                for text in ("one", "GET / HTTP/1.1\r\n\r\n"):
                    await socket.send_str(text)
                    print(repr(await socket.receive_str()))


if sys.argv[1] == "serve":
    app = web.Application()
    app.add_routes([web.get("/", hello), web.get("/ws", echo)])
    web.run_app(app, port=int(sys.argv[2]), print=None)
else:
    asyncio.run(talk(sys.argv[2], sys.argv[3]))
