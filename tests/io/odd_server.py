"""A DICOMweb server that answers what it is told to."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STUDY, SERIES = "1.2.3", "1.2.3.4"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=part'
Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(
    status: int,
    body: bytes = b"",
    content_type: str = "application/dicom+json",
    *,
    length: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """An answer; `length` is the Content-Length it claims."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        described = {"Content-Type": content_type, "Content-Length": str(len(body) if length is None else length)}
        for name, value in (described | dict(headers or {})).items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return send


def found(n_series: int = 1, n_instances: int = 5, first: int = 4) -> Answer:
    """The answer to a search for series."""
    items = [
        {
            "0020000D": {"vr": "UI", "Value": [STUDY]},
            "0020000E": {"vr": "UI", "Value": [f"1.2.3.{first + n}"]},
            "00080060": {"vr": "CS", "Value": ["CT"]},
            "00201209": {"vr": "IS", "Value": [n_instances]},
        }
        for n in range(n_series)
    ]
    return reply(200, json.dumps(items).encode())


def multipart(instances: list[bytes], *, end: bytes = b"\r\n--part--\r\n") -> bytes:
    head = b"\r\n--part\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + instance for instance in instances) + end


class Server:
    """Answers GET and POST with what it was told to, one after the other; the last answer is given for ever."""

    def __init__(self, *answers: Answer, tls: tuple[Path, Path] | None = None) -> None:
        self.asked: list[str] = []
        self.closing = threading.Event()
        outer, left = self, list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                (left.pop(0) if len(left) > 1 else left[0])(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.http.server_address[1]}/dicom-web"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
