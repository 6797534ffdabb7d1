"""Hugging Face's hub and Kaggle, imitated on 127.0.0.1, and child processes that use them."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """A hub: repositories as folders, and what was asked of it."""

    def __init__(self):
        # Hugging Face: (repository, branch) -> folder. Kaggle: (handle, version) -> folder.
        self.repositories: dict[tuple[str, str], Path] = {}
        self.asked: list[str] = []
        self.broken: set[str] = set()  # Files that cannot be had.
        self.url = ""

    def files(self) -> list[str]:
        """The names of the files that were fetched since the last call, sorted."""
        found = sorted({name for method, _, name in map(_split, self.asked) if method == "FILE"})
        self.asked.clear()
        return found


def _split(line):
    return line.split(" ", 2)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def _send(self, status, body=b"", kind="application/json", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value, status=200, **headers):
        self._send(status, json.dumps(value).encode(), **headers)


class _HuggingFace(_Handler):
    """The few addresses that `huggingface_hub` asks for public models."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(found[1], found[2] or "main")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            folder = self._folder(found[1], found[2])
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in _files(folder).items()
            ]
            return self._json(entries)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[2], found[3])
        return self._json({"error": "no such address"}, 404)

    def _folder(self, repository, revision):
        for (name, branch), folder in self.hub.repositories.items():
            if name == repository and revision in (branch, _commit(name, branch)):
                return folder
        return None

    def _info(self, repository, revision):
        self.hub.asked.append(f"INFO {repository} {revision}")
        folder = self._folder(repository, revision)
        if folder is None:
            known = any(name == repository for name, _ in self.hub.repositories)
            code = "RevisionNotFound" if known else "RepoNotFound"
            return self._json({"error": code}, 404, X_Error_Code=code)
        siblings = [{"rfilename": name} for name in _files(folder)]
        sha = _commit(repository, revision)
        return self._json({"id": repository, "sha": sha, "siblings": siblings, "tags": []})

    def _file(self, repository, revision, name):
        file = _files(self._folder(repository, revision)).get(name)
        if file is None or name in self.hub.broken:
            return self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        if self.command == "GET":
            self.hub.asked.append(f"FILE {repository} {name}")
        body = file.read_bytes()
        tag = hashlib.sha256(body).hexdigest()
        commit = revision if len(revision) == 40 else _commit(repository, revision)
        return self._send(
            200, body, "application/octet-stream", ETag=f'"{tag}"', X_Repo_Commit=commit
        )


class _Kaggle(_Handler):
    """The two calls that `kagglehub` makes for public models."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        framework = asked["framework"].lower().removeprefix("model_framework_")
        handle = f"{asked['ownerSlug']}/{asked['modelSlug']}/{framework}/{asked['instanceSlug']}"
        versions = [version for name, version in self.hub.repositories if name == handle]
        call = self.path.rpartition("/")[2]
        if call == "GetModelInstance":
            self.hub.asked.append(f"INFO {handle} newest")
            if not versions:
                return self._json({"code": 404, "message": "not found"}, 404)
            return self._json({"slug": asked["instanceSlug"], "versionNumber": int(max(versions))})
        version, name = str(asked["versionNumber"]), asked["path"]
        folder = self.hub.repositories.get((handle, version))
        file = None if folder is None else _files(folder).get(name)
        if name in self.hub.broken:
            return self._json({"code": 500, "message": "out of order"}, 500)
        if file is None:
            return self._json({"code": 404, "message": "not found"}, 404)
        self.hub.asked.append(f"FILE {handle}/{version} {name}")
        return self._send(200, file.read_bytes(), "application/octet-stream")


def _files(folder):
    if folder is None:
        return {}
    return {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }


def _commit(repository, branch):
    return hashlib.sha1(f"{repository} {branch}".encode()).hexdigest()


@contextlib.contextmanager
def serving(handler):
    """A running hub; `handler` is `_HuggingFace` or `_Kaggle`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hugging_face():
    """An imitated Hugging Face hub."""
    return serving(_HuggingFace)


def kaggle():
    """An imitated Kaggle."""
    return serving(_Kaggle)


# Kaggle's package has no setting for another address.
_KAGGLE_AT = """
import importlib.util, os
if importlib.util.find_spec("kagglesdk"):
    from kagglesdk import kaggle_env
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = os.environ["KAGGLE_AT"]
if os.environ.get("WITHOUT"):
    import sys
    sys.modules.update(dict.fromkeys(os.environ["WITHOUT"].split(",")))
"""
NOWHERE = "http://127.0.0.1:9"  # The port that throws everything away; nothing listens.


def child(program, home, hugging_face=NOWHERE, kaggle=NOWHERE, without=(), **environment):
    """Runs `program` in a fresh interpreter that knows the imitated hubs only.

    Args:
        program: str. Python; `print(json.dumps(...))` at its end is what comes back.
        home: path. Holds the caches of both hubs.
        without: names of packages that are as if not installed.

    Returns:
        (what was printed as JSON, or None after a failure; standard error).
    """
    plain = {key: value for key, value in os.environ.items() if not re.match("HF_|KAGGLE", key)}
    result = subprocess.run(
        [sys.executable, "-c", _KAGGLE_AT + program],
        capture_output=True,
        text=True,
        timeout=100,
        env={
            **plain,
            "HF_ENDPOINT": hugging_face,
            "HF_HOME": str(home / "hugging_face"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "KAGGLE_AT": kaggle,
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLEHUB_CACHE": str(home / "kaggle"),
            "HOME": str(home),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "WITHOUT": ",".join(without),
            **environment,
        },
    )
    lines = result.stdout.strip().splitlines()
    return (json.loads(lines[-1]) if result.returncode == 0 else None), result.stderr
