"""Builds behind a package index of the site's own."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .helpers import ROOT, Engine, image_of, index_files, invoke, once

pytestmark = once
WHEEL = "only_here-1-py3-none-any.whl"
PASSWORD = "s3cr3t@index"
CONTAINERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY --from=tools . /opt/tools
RUN /opt/tools/bin/uv venv --quiet --python /usr/bin/python3 /venv && /opt/tools/bin/python-packages /venv only-here
RUN PIP_CONFIG_FILE=/mnt/pip.conf /opt/jupyter/envs/jupyter-user-env/bin/pip download --quiet --dest /pip only-here
"""


@pytest.fixture(scope="module")
def base() -> str:
    """An image with Python and pip, built with the host's own index."""
    return image_of("slurm")


@pytest.fixture
def index(here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an index that asks for a password and has a single package; the host is configured with it."""
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as wheel:
        wheel.writestr("only_here.py", "")
        wheel.writestr(
            "only_here-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: only-here\nVersion: 1\n"
        )
        wheel.writestr(
            "only_here-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("only_here-1.dist-info/RECORD", "")
    answers = {
        "/simple/only-here/": f'<a href="/{WHEEL}">{WHEEL}</a>'.encode(),
        "/simple/uv/": b"which doctor asks for",
        f"/{WHEEL}": (tmp_path / WHEEL).read_bytes(),
    }
    expected = f"Basic {base64.b64encode(f'site:{PASSWORD}'.encode()).decode()}"

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == expected
            content = answers.get(self.path)
            self.send_response(401 if not known else 200 if content else 404)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            if known and content:
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((here, 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"{here}:{server.server_port}/simple"
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, here)
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://site:s3cr3t%40index@{address}")
        yield address
        server.shutdown()


def test_doctor_asks_the_index_and_hides_its_password(index: str) -> None:
    """Its answer is that of whoever has the password."""
    said = invoke("doctor", "--json", check=False).stdout
    (row,) = (row for row in json.loads(said) if row["check"] == "Python packages")
    assert (row["ok"], row["found"]) == (True, f"http://{index}/uv/ answers")
    assert "s3cr3t" not in said


@pytest.mark.usefixtures("index")
def test_a_build_has_the_hosts_package_index(
    base: str, engine: Engine, instance: str, tmp_path: Path
) -> None:
    """A package that is only there is found by uv and pip; its password is in no command, log or image."""
    tools, context, files = (tmp_path / name for name in ("tools", "context", "index"))
    for folder in (tools / "bin", context, files):
        folder.mkdir(parents=True)
    for program in (ROOT / "containers/tools/bin/python-packages", Path(sys.executable).with_name("uv")):
        shutil.copy(program, tools / "bin")
    (tools / "build.txt").touch()
    (context / "Containerfile").write_text(CONTAINERFILE)
    for name, content in index_files().items():
        (files / name).write_text(content)
    engine.images.prepare_builds()
    tag = f"localhost/jupyterhub-slurm-tests/{instance}-index:1"
    command = engine.images.build_command(
        tag=tag, context=context, base=base, contexts={"tools": str(tools)}, index=str(files)
    )
    try:
        with (tmp_path / "log").open("wb") as log:
            built = engine.images.run(command, check=False, log=log, timeout=None)
        said = (tmp_path / "log").read_text()
        assert built.returncode == 0, said
        look = "find /venv /pip -name 'only_here*'; ls -A /mnt; ! grep -rl s3cr3t /venv /pip /mnt /etc /root"
        found = engine.run(("podman", "run", "--rm", "--entrypoint=", tag, "sh", "-c", look)).text
        assert f"/pip/{WHEEL}" in found
        assert "site-packages/only_here.py" in found
        history = engine.run(("podman", "history", "--no-trunc", tag)).text
        described = engine.run(("podman", "inspect", tag)).text
        assert not [text for text in (said, str(command), found, history, described) if "s3cr3t" in text]
    finally:
        engine.run(("podman", "rmi", "--force", tag), check=False)
