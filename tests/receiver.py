"""Somebody on this machine who hears notices, as Apprise's `json://` addresses send them."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@contextmanager
def receiver(hear: Callable[[dict[str, Any]], object]) -> Iterator[str]:
    """Inside, what is sent to the address that is given is passed to `hear`."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hear(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}"
        server.shutdown()
