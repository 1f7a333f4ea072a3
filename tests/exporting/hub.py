"""A stand-in of a hub's HTTP interface on this machine: what creating a repository and uploading a folder call.

Small files come inside a commit; large ones (``lfs``) are asked for in a batch and put one by one first, as Git LFS has it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_tests"


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: files of each by name. created: what was asked for when they were made. requests: (method, path) of all.
        fail: part of a path -> the status that such requests get.
        lfs: how files named ``*.safetensors`` are sent.
    """

    def __init__(self, *, lfs: bool, fail: dict[str, int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lfs, self.fail = lfs, fail
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: dict[str, dict] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refused(self) -> bool:
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, path))
        status = next((status for part, status in self.server.fail.items() if part in path), None)
        if status is None and not path.startswith("/put/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        if status is not None:
            self._answer(status, {"error": f"refused with {status}"})
        return status is not None

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        oid = self.path.removeprefix("/put/")
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.stored[oid] = body
        self._answer(200, {})

    def do_GET(self) -> None:
        if not self._refused():
            self._answer(404, {"error": "no such page"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        path, hub = self.path.split("?")[0], self.server
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                self._answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
                return
            hub.repositories[name], hub.created[name] = {}, asked
            self._answer(200, {"url": f"{hub.url}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if hub.lfs and f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            self._answer(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            objects = [{**o, "actions": {"upload": {"href": f"{hub.url}/put/{o['oid']}", "header": {}}}} for o in wanted]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            self._commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
        else:
            self._answer(404, {"error": f"no such page: {path}"})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.server.repositories[name]
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
            else:
                assert item["key"] == "header", item
        self._answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/1", "commitOid": "1" * 40})


@contextmanager
def serving(*, lfs: bool = False, fail: dict[str, int] | None = None) -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub(lfs=lfs, fail=fail or {})
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
