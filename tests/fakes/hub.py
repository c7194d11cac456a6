"""A Hugging Face hub on loopback: one repository, and faults on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "9f30c71f441d010e5429c532364a86705536c53a"  # the catalogue's


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class FakeHub:
    """Serves `files` as the repository `repo` at one commit and as the branch "main".

    Files that end in .safetensors are stored by LFS: a resolve answers with a redirect to /lfs.

    Attributes:
        requests: (method, path, headers) of all requests so far.
        corrupt: names of LFS files of which wrong bytes are sent.
        stall_after: an LFS download sends so many bytes, then nothing more; None: all.
        drop_after: the next LFS download breaks off after so many bytes; None: none does.
        stalled: set when a download stalls.
    """

    def __init__(self, repo: str, files: Mapping[str, bytes]) -> None:
        self.repo = repo
        self.files = dict(files)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.corrupt: set[str] = set()
        self.stall_after: int | None = None
        self.drop_after: int | None = None
        self.stalled = threading.Event()
        self._released = threading.Event()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def release(self) -> None:
        """Let stalled downloads end."""
        self.stall_after = None
        self._released.set()

    def wait_for_release(self) -> None:
        self.stalled.set()
        self._released.wait(30)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, dict(self.headers.items())))
        path = unquote(urlsplit(self.path).path)
        query = parse_qs(urlsplit(self.path).query)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._info(*found.groups())
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(/.*)?", path):
            self._tree(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        elif found := re.fullmatch(r"/lfs/(.+)", path):
            self._lfs(found[1], signed="signature" in query)
        else:
            self._error(404, "EntryNotFound")

    def _known(self, repo: str, revision: str) -> bool:
        if repo != self.hub.repo:
            self._error(404, "RepoNotFound")
        elif revision not in (COMMIT, "main"):
            self._error(404, "RevisionNotFound")
        else:
            return True
        return False

    def _info(self, repo: str, revision: str) -> None:
        if self._known(repo, revision):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._json({"_id": "1", "id": repo, "sha": COMMIT, "siblings": siblings})

    def _tree(self, repo: str, revision: str) -> None:
        if not self._known(repo, revision):
            return
        entries: list[dict[str, object]] = []
        for name, content in self.hub.files.items():
            entry: dict[str, object] = {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": _git_blob(content),
            }
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        if not self._known(repo, revision):
            return
        content = self.hub.files.get(name)
        if content is None:
            self._error(404, "EntryNotFound")
        elif name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            # Another host name, as the real hub's storage has.
            port = self.hub.endpoint.rpartition(":")[2]
            self.send_header("Location", f"http://localhost:{port}/lfs/{name}?signature=1")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._content(content, etag=_git_blob(content))

    def _lfs(self, name: str, *, signed: bool) -> None:
        hub = self.hub
        content = hub.files[name]
        if not signed:
            self._error(403, "AccessDenied")
            return
        if name in hub.corrupt:
            content = content[:-4] + bytes(byte ^ 1 for byte in content[-4:])
        stop = hub.drop_after if hub.stall_after is None else hub.stall_after
        drops, hub.drop_after = hub.drop_after is not None, None
        self._content(content, etag=hashlib.sha256(content).hexdigest(), stop=stop, drops=drops)

    def _content(
        self, content: bytes, *, etag: str, stop: int | None = None, drops: bool = False
    ) -> None:
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[start:stop])
        if stop is not None and drops:
            self.close_connection = True
        elif stop is not None:
            self.wfile.flush()
            self.hub.wait_for_release()
            self.close_connection = True

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
