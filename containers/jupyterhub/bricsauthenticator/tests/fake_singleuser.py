"""As little of a single-user server as the hub looks for: it answers requests, and tells its port if it chose that."""

import json
import os
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit


class Handler(BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self) -> None:
        """Answer 200, with the kernel that it has."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps([{"execution_state": os.environ["JUPYTERHUB_SERVER_NAME"]}]).encode())


port = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port
server = HTTPServer(("0.0.0.0" if port else "127.0.0.1", port or 0), Handler)
request = urllib.request.Request(
    f"{os.environ['JUPYTERHUB_API_URL']}/batchspawner",
    json.dumps({"port": server.server_port}).encode(),
    {"Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}"},
)
if not port:
    urllib.request.urlopen(request).close()
server.serve_forever()
