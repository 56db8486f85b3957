"""As little of a single-user server as the hub looks for: it tells its port to the hub and answers requests."""

import json
import os
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self) -> None:
        """Answer 200."""
        self.send_response(200)
        self.end_headers()


server = HTTPServer(("127.0.0.1", 0), Handler)
request = urllib.request.Request(
    f"{os.environ['JUPYTERHUB_API_URL']}/batchspawner",
    json.dumps({"port": server.server_port}).encode(),
    {"Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}"},
)
urllib.request.urlopen(request).close()
server.serve_forever()
