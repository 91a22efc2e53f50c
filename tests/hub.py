"""The Hugging Face hub as these tests have it: its cache on the disk, and a server on loopback that answers as it does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"


def cached(cache: Path, repository: str, folder: Path, commit: str = COMMIT, revision: str = "main") -> Path:
    """Lay `folder` out in the `cache` as huggingface_hub does; the snapshot's folder."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for place in (root / "refs", root / "blobs", snapshot):
        place.mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    for file in folder.iterdir():
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


@dataclass
class Served:
    """A hub with repositories: folders by name. ``gated`` ones say what they hold, and give no file."""

    url: str
    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    """What was asked for: methods and paths."""

    def fetched(self) -> list[str]:
        """The names of the files that were sent."""
        return [path.rpartition("/")[2] for path in self.asked if path.startswith("GET") and "/resolve/" in path]


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """A hub on loopback while it lasts; each repository has the commit ``COMMIT``, which is its branch "main"."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            named = api or file
            if named is None or named[1] not in hub.repositories:
                return self.refuse(401 if named else 404, "RepoNotFound" if named else "")
            revision = api[3] if api else file[2]  # type: ignore[index]
            if revision not in (None, "main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            folder = hub.repositories[named[1]]
            names = sorted(each.name for each in folder.iterdir())
            if api and api[2] == "tree":
                table = [
                    {
                        "type": "file",
                        "path": n,
                        "oid": hashlib.sha1(n.encode()).hexdigest(),
                        "size": (folder / n).stat().st_size,
                    }
                    for n in names
                ]
                return self.send(json.dumps(table).encode())
            if api:
                about = {
                    "id": named[1],
                    "sha": COMMIT,
                    "private": False,
                    "tags": [],
                    "siblings": [{"rfilename": n} for n in names],
                }
                return self.send(json.dumps(about).encode())
            if named[1] in hub.gated:
                return self.refuse(401, "GatedRepo")
            if file[3] not in names:  # type: ignore[index]
                return self.refuse(404, "EntryNotFound")
            return self.send((folder / file[3]).read_bytes())  # type: ignore[index]

        def send(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Served(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def cached_data(
    cache: Path, repository: str, config: str, features: str, splits: dict[str, list[dict[str, object]]]
) -> Path:
    """A data set as the hub's cache has it: a snapshot with a card that names types and the files of each split."""
    root = cache / f"datasets--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs/main").write_text(COMMIT)
    (snapshot / config).mkdir(parents=True)
    card = snapshot / "README.md"
    before = yaml.safe_load(card.read_text().split("---")[1]) if card.exists() else {"dataset_info": [], "configs": []}
    before["dataset_info"].append({"config_name": config, "features": yaml.safe_load(features)})
    files = [{"split": split, "path": f"{config}/{split}.jsonl"} for split in splits]
    before["configs"].append({"config_name": config, "data_files": files})
    card.write_text(f"---\n{yaml.safe_dump(before)}---\nA card.")
    for split, rows in splits.items():
        (snapshot / config / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return snapshot
