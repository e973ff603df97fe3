"""A real PACS for the tests: Orthanc with its DICOMweb plugin, on a free port, with a user and a storage of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "tester", "correct-horse"
_START_SECONDS = 20.0


@dataclass(frozen=True)
class Orthanc:
    """A running server."""

    root: str

    @property
    def dicomweb(self) -> str:
        return f"{self.root}/dicom-web"

    def add(self, folder: Path) -> None:
        """File all files of a folder through the server's own interface, as a scanner would."""
        import requests

        for path in sorted(folder.iterdir()):
            answer = requests.post(f"{self.root}/instances", data=path.read_bytes(), auth=(USER, PASSWORD), timeout=30)
            answer.raise_for_status()

    def counts(self) -> dict[str, int]:
        """How many patients, studies, series and instances there are."""
        import requests

        answer = requests.get(f"{self.root}/statistics", auth=(USER, PASSWORD), timeout=30).json()
        return {what: answer[f"Count{what}"] for what in ("Patients", "Studies", "Series", "Instances")}


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    program = next(filter(None, map(shutil.which, ("Orthanc", "/usr/sbin/Orthanc"))), None)
    if program is None or not PLUGIN.is_file():
        pytest.skip("Orthanc with its DICOMweb plugin (Debian packages orthanc, orthanc-dicomweb) is not installed")
    pytest.importorskip("dicomweb_client")
    import requests

    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "storage").mkdir()
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = folder / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=stream, stderr=subprocess.STDOUT)
    try:
        server, deadline = Orthanc(f"http://127.0.0.1:{port}"), time.monotonic() + _START_SECONDS
        while True:
            try:
                requests.get(f"{server.dicomweb}/studies?limit=1", auth=(USER, PASSWORD), timeout=5).raise_for_status()
                break
            except requests.RequestException:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield server
    finally:
        process.kill()  # its storage is thrown away
        process.wait()


@pytest.fixture
def orthanc(orthanc_server: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Orthanc:
    """The server, with credentials for it in the environment."""
    monkeypatch.setenv("KLIP_PACS_USER", USER)
    monkeypatch.setenv("KLIP_PACS_PASSWORD", PASSWORD)
    return orthanc_server
