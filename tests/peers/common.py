"""What the Python clients have in common: arguments and output.

Arguments: URL KEY COUNT get|post3m WORKERS SECONDS. Prints one JSON object a line for each request, in the order of
their ends: {"status", "headers", "body"} or {"error"}.
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
    """How many of the requests are this worker's."""
    return COUNT // WORKERS + (worker < COUNT % WORKERS)


def answered(status, headers, body):
    _print({"status": status, "headers": list(headers), "body": body.decode()})


def failed(error):
    name = type(error).__module__ + "." + type(error).__qualname__
    _print({"error": f"{name}: {error}"})


def _print(line):
    # One write, so that threads do not mix their lines.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
