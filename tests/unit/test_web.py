"""What counts as an answer over HTTP."""

from __future__ import annotations

import socket
import threading

from hubenvs.web import http_status


def test_what_speaks_no_http_is_no_answer() -> None:
    """Another server may have the port: an sshd greets whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert http_status(f"http://127.0.0.1:{server.getsockname()[1]}/") is None
        thread.join()
