# SPDX-License-Identifier: MIT OR Apache-2.0

"""Shared code of the Python clients for arguments and output.

The arguments are URL KEY COUNT get|post3m WORKERS SECONDS. The output is a line with one JSON
object for each request, in the order in which the requests end: {"status", "headers", "body"} or
{"error"}.
"""

import json
import sys

URL, KEY = sys.argv[1:3]
COUNT = int(sys.argv[3])
UPLOAD = sys.argv[4] == "post3m"
WORKERS = int(sys.argv[5])
SECONDS = float(sys.argv[6])

METHOD = "POST" if UPLOAD else "GET"
BODY = b"x" * 3_000_000 if UPLOAD else None
HEADERS = {"X-Api-Key": KEY}


def share(worker):
    """Returns the number of requests that this worker sends."""
    return COUNT // WORKERS + (worker < COUNT % WORKERS)


def answered(status, headers, body):
    _print({"status": status, "headers": list(headers), "body": body.decode()})


def failed(error):
    name = type(error).__module__ + "." + type(error).__qualname__
    _print({"error": f"{name}: {error}"})


def _print(line):
    # A single write keeps the lines of several threads apart.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
