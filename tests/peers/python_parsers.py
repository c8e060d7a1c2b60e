# SPDX-License-Identifier: MIT OR Apache-2.0

"""Reports which requests Python's parsers see in streams of bytes.

It reads one stream per line, in hexadecimal, and writes a line of JSON for each stream. For each
parser, the line lists the requests in order. Each entry has the fields of the request and the number
of bytes that the parser had received when it reported the request.
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler

import h11

LONGEST = 1 << 20


def fields(pairs):
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in pairs]


def by_h11(stream):
    """Returns the requests that a server based on h11 (uvicorn, hypercorn) sees.

    The server answers each request and continues.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST)
    seen = []
    given = 0
    try:
        # A head ends with a line feed, so a request that the parser reports at that point has just
        # ended.
        for line in io.BytesIO(stream):
            given += len(line)
            connection.receive_data(line)
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    break
                if event is h11.PAUSED:
                    # In any other state, another protocol follows, or the connection ends.
                    if connection.their_state is not h11.DONE:
                        return seen
                    connection.start_next_cycle()
                elif isinstance(event, h11.Request):
                    seen.append({"end": given, "fields": fields(event.headers.raw_items())})
                elif isinstance(event, h11.EndOfMessage):
                    connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        return seen
                    connection.start_next_cycle()
    except Exception:
        # h11 rejects the stream, or Python rejects a number that is too long. A server closes the
        # connection in both cases.
        pass
    return seen


class Open(io.BytesIO):
    """The bytes of a connection that stays open. A read past their end would wait forever."""

    def readline(self, size=-1):
        line = super().readline(size)
        if not line.endswith(b"\n") and (size < 0 or len(line) < size):
            raise TimeoutError
        return line

    def read(self, size):
        content = super().read(size)
        if len(content) < size:
            raise TimeoutError
        return content


class Handler(BaseHTTPRequestHandler):
    """The requests that http.server sees with an application that reads bodies by their length."""

    protocol_version = "HTTP/1.1"

    def __init__(self, stream):
        self.rfile = Open(stream)
        self.wfile = io.BytesIO()
        self.client_address = ("", 0)
        self.seen = []
        self.close_connection = False
        try:
            while not self.close_connection:
                self.handle_one_request()
        except Exception:
            # A server closes the connection after an error.
            pass

    def __getattr__(self, name):
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self.serve

    def serve(self):
        pairs = [[name, value] for name, value in self.headers.items()]
        # The parser decodes bytes as ISO 8859-1. A character outside that encoding did not come
        # from a byte of the stream.
        pairs = [[text.encode("latin-1", "replace").decode("latin-1") for text in pair] for pair in pairs]
        self.seen.append({"end": self.rfile.tell(), "fields": pairs})
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return
        length = self.headers.get("Content-Length")
        if length is not None:
            self.rfile.read(max(int(length), 0))

    def log_message(self, *arguments):
        pass


for line in sys.stdin:
    stream = bytes.fromhex(line)
    print(json.dumps({"h11": by_h11(stream), "http.server": Handler(stream).seen}), flush=True)
