from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ct_files import sample_hu, write_series
from odd_server import SERIES, STUDY, Answer, Server


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("series") / "files"
    write_series(folder, sample_hu(), series_uid=SERIES, edit=lambda _, ds: setattr(ds, "StudyInstanceUID", STUDY))
    return [path.read_bytes() for path in folder.iterdir()]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer, tls: tuple[Path, Path] | None = None) -> Server:
        servers.append(Server(*answers, tls=tls))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
