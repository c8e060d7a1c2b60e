# SPDX-License-Identifier: MIT OR Apache-2.0

"""Python's http.server, with an application that reads bodies by their length.

The argument is the port. Before each response, the server writes a line of JSON with the fields of
the request.
"""

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The number of seconds after which the server closes a connection on which a head or a body has
    # not ended.
    timeout = 3

    def __getattr__(self, name):
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self.serve

    def serve(self):
        fields = [[name, str(value)] for name, value in self.headers.items()]
        sys.stdout.write(json.dumps({"url": self.path, "fields": fields}) + "\n")
        sys.stdout.flush()
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
        else:
            self.rfile.read(max(int(self.headers.get("Content-Length", 0)), 0))
        body = b"served\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


Server(("::", int(sys.argv[1])), Handler).serve_forever()
