"""A small S3 server on loopback: objects, ranges, listings in pages, multipart uploads, bulk deletion."""

from __future__ import annotations

import hashlib
import itertools
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 5
"""Keys in a page of a listing: few, so that there is more than one."""


class Bucket(ThreadingHTTPServer):
    """Path-style bucket; ``asked`` are the requests, ``refuse`` answers every further one with that status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.asked: list[str] = []
        self.refuse: tuple[int, str] | None = None
        self.number = itertools.count(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing on standard error."""

    def do_GET(self) -> None:
        key, query = self._begin()
        if key is None:
            return
        if "list-type" in query:
            self._list(query)
            return
        data = self.server.objects.get(key)
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if self.headers.get("If-Match", _tag(data)) != _tag(data):
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        headers = {"ETag": _tag(data), "Last-Modified": formatdate(0, usegmt=True)}
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, data, **headers)
            return
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        last = min(last, len(data) - 1)
        self._answer(206, data[first : last + 1], **headers, **{"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key, query = self._begin()
        if key is None:
            return
        if "uploadId" in query:
            self.server.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            self.server.objects[key] = body
        self._answer(200, b"", ETag=_tag(body))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key, query = self._begin()
        if key is None:
            return
        if "uploads" in query:
            upload = str(next(self.server.number))
            self.server.uploads[upload] = {}
            xml = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{}</UploadId>{}"
            self._answer(200, xml.format(upload, "</InitiateMultipartUploadResult>").encode())
        elif "uploadId" in query:
            parts = self.server.uploads.pop(query["uploadId"][0])
            data = b"".join(parts[number] for number in sorted(parts))
            self.server.objects[key] = data
            xml = "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>"
            self._answer(200, xml.format(_tag(data)).encode())
        else:
            keys = [element.text or "" for element in ET.fromstring(body).iter() if element.tag.endswith("Key")]
            for name in keys:
                self.server.objects.pop(name, None)
            deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in keys)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted(name for name in self.server.objects if name.startswith(prefix) and name > after)
        rows = "".join(
            f"<Contents><Key>{name}</Key><Size>{len(self.server.objects[name])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
            for name in keys[:PAGE]
        )
        more = f"<NextContinuationToken>{keys[PAGE - 1]}</NextContinuationToken>" if len(keys) > PAGE else ""
        self._answer(200, f"<ListBucketResult>{rows}{more}</ListBucketResult>".encode())

    def _begin(self) -> tuple[str | None, dict[str, list[str]]]:
        """Key and query; no key where the request was refused."""
        self.server.asked.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        if self.server.refuse is not None:
            status, code = self.server.refuse
            self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())
            return None, {}
        return unquote(url.path).removeprefix("/profiles").removeprefix("/"), parse_qs(
            url.query, keep_blank_values=True
        )

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'


@contextmanager
def bucket() -> Iterator[Bucket]:
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
