# SPDX-License-Identifier: MIT OR Apache-2.0

"""Python's http.client. Each worker keeps one connection until the server closes it."""

import http.client
import threading
import urllib.parse

import common


def work(worker):
    url = urllib.parse.urlsplit(common.URL)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=common.SECONDS)
    for _ in range(common.share(worker)):
        try:
            connection.request(common.METHOD, url.path, common.BODY, common.HEADERS)
            response = connection.getresponse()
            common.answered(response.status, response.getheaders(), response.read())
        except (OSError, http.client.HTTPException) as error:
            common.failed(error)
            connection.close()


threads = [threading.Thread(target=work, args=(worker,)) for worker in range(common.WORKERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
