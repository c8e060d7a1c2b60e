# SPDX-License-Identifier: MIT OR Apache-2.0

"""Python's requests with one session, and therefore one pool, for all workers.

The environment variable RETRIES sets `max_retries` of the session's adapter.
"""

import os
import threading

import requests
from requests.adapters import HTTPAdapter

import common

session = requests.Session()
session.trust_env = False
if "RETRIES" in os.environ:
    session.mount("http://", HTTPAdapter(max_retries=int(os.environ["RETRIES"])))


def work(worker):
    for _ in range(common.share(worker)):
        try:
            response = session.request(
                common.METHOD,
                common.URL,
                data=common.BODY,
                headers=common.HEADERS,
                timeout=common.SECONDS,
            )
            common.answered(response.status_code, response.headers.items(), response.content)
        except requests.RequestException as error:
            common.failed(error)


threads = [threading.Thread(target=work, args=(worker,)) for worker in range(common.WORKERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
