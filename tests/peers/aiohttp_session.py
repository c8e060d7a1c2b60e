# SPDX-License-Identifier: MIT OR Apache-2.0

"""Python's aiohttp with one session, and therefore one pool, for all workers."""

import asyncio

import aiohttp

import common


async def work(session, worker):
    for _ in range(common.share(worker)):
        try:
            async with session.request(
                common.METHOD, common.URL, data=common.BODY, headers=common.HEADERS
            ) as response:
                common.answered(response.status, response.headers.items(), await response.read())
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            common.failed(error)


async def main():
    timeout = aiohttp.ClientTimeout(total=common.SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await asyncio.gather(*(work(session, worker) for worker in range(common.WORKERS)))


asyncio.run(main())
