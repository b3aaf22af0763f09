"""MLflow's own server on 127.0.0.1, which can be killed and started anew, and a gate in front of it."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from tests.waiting import until

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class MlflowServer:
    """The server of one database and folder of artifacts; the same address each time it is started.

    `more` are options of its command.
    """

    def __init__(self, database: str, folder: Path, *more: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.database, self.folder, self.more = database, folder, more
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--backend-store-uri", self.database, "--host", "127.0.0.1", "--port", str(self.port)]
        options += ["--workers", "1", "--default-artifact-root", (self.folder / "artifacts").as_uri()]
        options += self.more
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = self.folder / "server.log"
        with log.open("a") as to:
            command = [sys.executable, "-m", "mlflow", "server", *options]
            self.process = subprocess.Popen(command, stdout=to, stderr=to, env=environment, start_new_session=True)

        def is_well() -> bool:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                return True

        until(is_well, 90, lambda: f"the MLflow server did not start: {log.read_text()[-2000:]}", (OSError,))

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            self.process.wait(timeout=30)
            self.process = None


class Gate:
    """Passes connections on to a port; while `shut`, it answers as a server that is not well: `reset` or `busy`."""

    def __init__(self, port: int) -> None:
        self.port, self.shut, self.turned_away = port, "", 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                coming, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(coming,), daemon=True).start()

    def _serve(self, coming: socket.socket) -> None:
        with coming, contextlib.suppress(OSError):
            data = coming.recv(65536)
            if self.shut:
                self.turned_away += 1
                if self.shut == "busy":
                    coming.sendall(BUSY)
                else:
                    coming.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                server.sendall(data)
                threading.Thread(target=_pass_on, args=(server, coming), daemon=True).start()
                while (data := coming.recv(65536)) and not self.shut:
                    server.sendall(data)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
