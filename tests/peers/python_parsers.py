"""Answers which requests Python's parsers see in streams of bytes.

Reads a stream a line, in hexadecimal, and writes a line of JSON for each: by parser, the requests
in their order, each with the number of bytes that the parser had when it told of it, and its
fields.
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
    """What a server on h11 (uvicorn, hypercorn) sees: it answers each request and goes on."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST)
    seen = []
    given = 0
    try:
        # A head ends with a line feed: what is told then has just come to its end.
        for line in io.BytesIO(stream):
            given += len(line)
            connection.receive_data(line)
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    break
                if event is h11.PAUSED:
                    # Another protocol from here on, or the end.
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
        # h11's own, or Python's on a number that is too long: so ends a server's connection.
        pass
    return seen


class Open(io.BytesIO):
    """The bytes of a connection that stays open: who reads beyond them waits for ever."""

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
    """What http.server sees whose application reads bodies by their length."""

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
            # So ends a server's connection.
            pass

    def __getattr__(self, name):
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self.serve

    def serve(self):
        pairs = [[name, value] for name, value in self.headers.items()]
        # Its decoder takes bytes for ISO 8859-1; what it cannot keep so is no byte.
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
