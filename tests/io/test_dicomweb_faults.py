"""A DICOMweb server that fails in every way that networks and servers do: each is named, none hangs."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from odd_server import MULTIPART, SERIES, STUDY, Answer, Server, found, multipart, reply

from klip_monai.errors import InputError, KlipError, PacsError
from klip_monai.io import read_volume
from klip_monai.io.pacs.dicomweb import Pacs, is_url, series_at

pytest.importorskip("dicomweb_client")
requests = pytest.importorskip("requests")


def pacs(url: str, **options: float) -> Pacs:
    return Pacs(url, **{"timeout": 5.0, "retries": 0, "backoff": 0.01} | options)


def refusal(call: Callable[[], object], kind: type[KlipError] = PacsError) -> str:
    """The one-line message with which a call is refused; it tells no UID."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    for word in ("expected", ";"):
        assert word in message
    for secret in ("\n", STUDY, "Secret"):
        assert secret not in message
    return message


def test_nobody_at_the_address() -> None:
    assert "no connection" in refusal(lambda: pacs("http://127.0.0.1:9/dicom-web").check())


@pytest.mark.parametrize(("status", "word"), [(401, "KLIP_PACS_USER"), (403, "right"), (404, "address"), (500, "500")])
def test_refused_by_the_server(serve: Callable[..., Server], status: int, word: str) -> None:
    server = serve(reply(status))
    assert word in refusal(lambda: list(pacs(server.url, retries=3).find_series()))
    assert len(server.asked) == 1


def test_login_page_instead_of_dicomweb(serve: Callable[..., Server]) -> None:
    server = serve(reply(200, b"<html>please log in</html>", "text/html"))
    assert "not DICOMweb" in refusal(lambda: list(pacs(server.url).find_series()))


def test_busy_server_is_asked_again(serve: Callable[..., Server]) -> None:
    server = serve(reply(503), reply(429), found(), found(0))
    assert [series.series_uid for series in pacs(server.url, retries=2).find_series()] == [SERIES]


def test_server_that_stays_busy_is_given_up(serve: Callable[..., Server]) -> None:
    server = serve(reply(503))
    assert "503" in refusal(lambda: list(pacs(server.url, retries=2).find_series()))
    assert len(server.asked) == 3


@pytest.mark.parametrize("stage", ["before", "within"])
def test_silent_server_does_not_hang_us(serve: Callable[..., Server], instances: list[bytes], stage: str) -> None:
    def silent(handler: BaseHTTPRequestHandler) -> None:
        if stage == "within":
            reply(200, multipart(instances)[:3000], MULTIPART, length=10**6)(handler)
        server.closing.wait(10)

    server = serve(found(), silent) if stage == "within" else serve(silent)
    start = time.monotonic()
    message = refusal(lambda: pacs(server.url, timeout=0.3, retries=3).fetch_series(STUDY, SERIES, "never"))
    assert "in time" in message
    assert time.monotonic() - start < 3


def test_answer_that_broke_off_is_fetched_again(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path
) -> None:
    whole = multipart(instances)
    broken = reply(200, whole[: len(whole) // 2], MULTIPART, length=len(whole))
    server = serve(found(), broken, reply(200, multipart(instances[:3]), MULTIPART), reply(200, whole, MULTIPART))
    assert pacs(server.url, retries=2).fetch_series(STUDY, SERIES, tmp_path / "a") == 5
    assert read_volume(tmp_path / "a").shape == (1, 12, 16, 5)


def test_answer_that_always_breaks_off_is_refused(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path
) -> None:
    whole = multipart(instances)
    server = serve(found(), reply(200, whole[: len(whole) // 2], MULTIPART, length=len(whole)))
    assert "broke off" in refusal(lambda: pacs(server.url, retries=1).fetch_series(STUDY, SERIES, tmp_path))
    assert len(server.asked) == 3


def test_series_with_instances_missing_is_refused(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path
) -> None:
    server = serve(found(n_instances=6), reply(200, multipart(instances), MULTIPART))
    message = refusal(lambda: pacs(server.url).fetch_series(STUDY, SERIES, tmp_path))
    assert "5 instances" in message
    assert "6" in message


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_truncated_multipart_is_refused(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path, kept: float
) -> None:
    """Complete as HTTP, cut within the last instance: what a proxy with a limit makes of it."""
    body = multipart(instances[:-1], end=b"") + multipart([instances[-1][: int(kept * len(instances[-1]))]], end=b"")
    server = serve(found(), reply(200, body, MULTIPART))

    def fetch_and_read() -> None:
        pacs(server.url).fetch_series(STUDY, SERIES, tmp_path / "a")
        read_volume(tmp_path / "a")

    with pytest.raises(KlipError):
        fetch_and_read()


def test_nothing_is_left_of_a_fetch_that_failed(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = serve(found(n_instances=6), found(n_instances=6), reply(200, multipart(instances), MULTIPART))
    remote = next(pacs(server.url).find_series())
    with pytest.raises(PacsError), remote.open():
        pass
    assert len(server.asked) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("warning", ["", '299 server: "some left out"'])
def test_a_part_of_a_series_is_not_taken_for_the_whole(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path, warning: str
) -> None:
    """The server does not say how many there are, and need not."""
    part = reply(200 if warning else 206, multipart(instances[:4]), MULTIPART, headers={"Warning": warning})
    server = serve(found(n_instances=0), part)
    assert "calls a part" in refusal(lambda: pacs(server.url, retries=1).fetch_series(STUDY, SERIES, tmp_path))
    assert len(server.asked) == 3
    server = serve(found(n_instances=0), part, reply(200, multipart(instances), MULTIPART))
    assert pacs(server.url, retries=1).fetch_series(STUDY, SERIES, tmp_path) == 5


def test_a_try_that_failed_leaves_no_file_beside_those_of_the_next(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    longer = reply(206, multipart([*instances, *instances]), MULTIPART)
    server = serve(found(), longer, reply(200, multipart(instances), MULTIPART))
    assert pacs(server.url, retries=1).fetch_series(STUDY, SERIES, tmp_path) == 5
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("tag", ["SeriesInstanceUID", "StudyInstanceUID"])
def test_an_image_of_another_series_is_refused(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path, tag: str
) -> None:
    dataset = pydicom.dcmread(BytesIO(instances[-1]))
    setattr(dataset, tag, "9.8.7")
    dataset.save_as(buffer := BytesIO())
    server = serve(found(), reply(200, multipart([*instances[:-1], buffer.getvalue()]), MULTIPART))
    message = refusal(lambda: pacs(server.url).fetch_series(STUDY, SERIES, tmp_path))
    assert "another series or study" in message
    assert "9.8.7" not in message


def test_slices_under_one_instance_uid_are_all_fetched(
    serve: Callable[..., Server], instances: list[bytes], tmp_path: Path
) -> None:
    shared = []
    for instance in instances:
        dataset = pydicom.dcmread(BytesIO(instance))
        dataset.SOPInstanceUID = "1.2.3.4.5"
        dataset.save_as(buffer := BytesIO())
        shared.append(buffer.getvalue())
    server = serve(found(), reply(200, multipart(shared), MULTIPART))
    assert pacs(server.url).fetch_series(STUDY, SERIES, tmp_path / "a") == 5
    assert read_volume(tmp_path / "a").shape == (1, 12, 16, 5)


def test_a_server_that_sends_its_first_page_again_is_no_whole_archive(serve: Callable[..., Server]) -> None:
    server = serve(found(3))
    for page in (3, 200):
        message = refusal(lambda page=page: list(pacs(server.url).find_series(page=page)))
        assert "same 3 series" in message
    assert [one.series_uid for one in pacs(serve(found(1)).url).find_series(series_uid=SERIES)] == [SERIES]


def test_server_without_pages_is_read_once(serve: Callable[..., Server]) -> None:
    server = serve(found(3))
    assert len(list(pacs(server.url).find_series(page=2))) == 3
    assert len(server.asked) == 2


def test_search_is_no_further_than_it_is_read(serve: Callable[..., Server]) -> None:
    server = serve(found(2), found(2, first=6), found(0))
    series = pacs(server.url).find_series(page=2)
    next(series)
    assert len(server.asked) == 1
    assert len(list(series)) == 3


def test_filters_that_a_server_ignores_are_applied_all_the_same(serve: Callable[..., Server]) -> None:
    assert list(pacs(serve(found(3), found(0)).url).find_series(modality="MR")) == []


def derived(instance: bytes) -> pydicom.Dataset:
    dataset = pydicom.dcmread(BytesIO(instance))
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    return dataset


@pytest.mark.parametrize("status", [200, 202, 409])
def test_store_says_what_was_stored_and_what_was_not(
    serve: Callable[..., Server], instances: list[bytes], status: int
) -> None:
    failure = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0122]}}]}}
    server = serve(reply(200), reply(status, json.dumps(failure).encode(), "application/dicom+json; charset=utf-8"))
    message = refusal(lambda: pacs(server.url).store(map(derived, instances[:2])))
    for word in ("1 of 2", "SOP class", "0122", "CT Image"):
        assert word in message


@pytest.mark.parametrize("status", [202, 409, 413, 500])
def test_store_without_a_reason_is_refused_by_its_status(
    serve: Callable[..., Server], instances: list[bytes], status: int
) -> None:
    assert str(status) in refusal(lambda: pacs(serve(reply(status)).url).store([derived(instances[0])]))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_is_sent_to_where_a_server_leads(
    serve: Callable[..., Server], instances: list[bytes], status: int
) -> None:
    other = serve(reply(200))
    server = serve(reply(status, headers={"Location": f"{other.url}/studies"}))
    assert str(status) in refusal(lambda: pacs(server.url).store([derived(instances[0])]))
    assert other.asked == []


def test_a_web_page_does_not_say_that_an_object_was_stored(
    serve: Callable[..., Server], instances: list[bytes]
) -> None:
    server = serve(reply(200, b"<html>please log in</html>", "text/html; charset=utf-8"))
    assert "text/html" in refusal(lambda: pacs(server.url).store([derived(instances[0])]))
    other = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["9.9"]}}]}}
    server = serve(reply(200, json.dumps(other).encode()))
    assert "another object" in refusal(lambda: pacs(server.url).store([derived(instances[0])]))


def test_large_object_is_sent_again_whole_to_a_busy_server(
    serve: Callable[..., Server], instances: list[bytes]
) -> None:
    dataset = derived(instances[0])
    dataset.Rows, dataset.Columns = 1024, 1024
    dataset.PixelData = bytes(2 * 1024 * 1024)
    sizes: list[int] = []

    def count(status: int) -> Answer:
        def send(handler: BaseHTTPRequestHandler) -> None:
            sizes.append(int(handler.headers["Content-Length"]))
            reply(status)(handler)

        return send

    assert pacs(serve(count(503), count(200)).url, retries=1).store([dataset]) == 1
    assert sizes[0] == sizes[1] > 2 * 1024 * 1024


def test_token_is_sent_and_displaces_the_password(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers: list[str] = []

    def listen(handler: BaseHTTPRequestHandler) -> None:
        headers.append(handler.headers["Authorization"])
        found(0)(handler)

    for name, value in (("USER", "someone"), ("PASSWORD", "else"), ("TOKEN", "abc")):
        monkeypatch.setenv(f"KLIP_PACS_{name}", value)
    pacs(serve(listen).url).check()
    assert headers == ["Bearer abc"]


def test_half_a_pair_of_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLIP_PACS_USER", "someone")
    assert "KLIP_PACS_PASSWORD" in refusal(lambda: pacs("http://127.0.0.1:9").check(), InputError)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed")
def test_unknown_certificate_is_refused_and_that_of_the_site_is_taken(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    server = serve(found(0), tls=(certificate, key))
    assert "KLIP_PACS_CA_BUNDLE" in refusal(lambda: pacs(server.url).check())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())
    Pacs(server.url, ca_bundle=str(certificate)).check()
    monkeypatch.setenv("KLIP_PACS_CA_BUNDLE", str(certificate))
    pacs(server.url).check()
    monkeypatch.setenv("KLIP_PACS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    assert "missing.pem" in refusal(lambda: pacs(server.url).check(), InputError)


@pytest.mark.parametrize("url", ["https://user:pass@host/dicom-web", "https://user@host", "ftp://host", "http://", "x"])
def test_address_that_is_none_or_tells_a_password_is_refused(url: str) -> None:
    assert "pass@" not in refusal(lambda: Pacs(url), InputError)


@pytest.mark.parametrize("uid", ["../../instances", "1.2/3", "", "1" * 65, "1?limit=9"])
def test_uid_that_could_leave_its_place_is_refused(uid: str) -> None:
    with pytest.raises(InputError):
        series_at(f"http://127.0.0.1:9/dicom-web/studies/{uid}/series/{SERIES}")


def test_whole_server_and_contradicting_series_are_refused() -> None:
    assert "--series-uid" in refusal(lambda: series_at("https://host/dicom-web"), InputError)
    with pytest.raises(InputError, match="another series"):
        series_at(f"https://host/dicom-web/studies/{STUDY}/series/{SERIES}", "9.9")


def test_paths_are_no_addresses() -> None:
    assert is_url("HTTPS://host/dicom-web")
    assert not any(map(is_url, (".", "/data/ct", "http/ct", "C:\\ct")))
