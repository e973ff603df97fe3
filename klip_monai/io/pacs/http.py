"""The connection to a DICOMweb server: who we are, how long we wait, and what its refusals mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from klip_monai.errors import InputError, PacsError

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from pydicom import Dataset
    from requests import PreparedRequest, Response

USER, PASSWORD, TOKEN = "KLIP_PACS_USER", "KLIP_PACS_PASSWORD", "KLIP_PACS_TOKEN"
CA_BUNDLE = "KLIP_PACS_CA_BUNDLE"

_CONNECT_SECONDS = 10.0
_PARTIAL = 206
# Wider than the standard, as archives hold what de-identification made up; still nothing that could leave its place.
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_BUSY = (408, 429, 502, 503, 504)
_ADVICE = {
    400: "check the address",
    401: f"set {USER} and {PASSWORD}, or {TOKEN}",
    403: "ask for the right to read, or to store where objects are pushed",
    404: "check the address, the study and the series",
    409: "ask its operator why it refuses them",
    413: "ask its operator to allow larger objects",
}


def open_client(
    url: str,
    *,
    ca_bundle: str | None = None,
    timeout: float,
    retries: int,
    backoff: float,
    on_answer: Callable[[Response], None] | None = None,
) -> DICOMwebClient:
    """Connect to a server with the credentials of the environment.

    Busy servers (408, 429, 502, 503, 504) and refused connections are tried again, after pauses that
    double; a server that does not answer is tried once more. Certificates are always verified.

    Args:
        url: base of the DICOMweb service.
        ca_bundle: PEM file of the authorities to trust; None takes ``KLIP_PACS_CA_BUNDLE``, else the system's.
        timeout: seconds without a byte after which the server is taken for dead.
        retries: how often to try again.
        backoff: the pause that is doubled, s.
        on_answer: called with each response.

    Raises:
        InputError: dicomweb-client is not installed, half a pair of credentials, or no such CA bundle.
    """
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise InputError(
            f"{url}: a DICOMweb server needs dicomweb-client; install it with: pip install 'klip-monai[pacs]'"
        ) from error
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=retries,
        read=min(retries, 1),
        other=0,  # a bad certificate stays bad
        status_forcelist=_BUSY,
        # Storing the same object twice leaves one, so POST may be repeated as well.
        allowed_methods=("GET", "POST"),
        backoff_factor=backoff,
        raise_on_status=False,
        respect_retry_after_header=False,  # which may ask for hours
    )

    class NoDetours(Session):
        """Sends objects to the server that was named, and to no other: it does not follow where a POST is led."""

        def get_redirect_target(self, resp: Response) -> str | None:
            return None if resp.request.method == "POST" else super().get_redirect_target(resp)

    session = NoDetours()
    session.auth = _credentials()
    verify = _authorities(ca_bundle)
    session.headers["Accept"] = "application/dicom+json"

    class Adapter(HTTPAdapter):
        """Verifies with the authorities that were asked for; to requests, REQUESTS_CA_BUNDLE comes before them."""

        def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
            return super().send(request, *args, **options | ({} if verify is None else {"verify": verify}))

    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=retry))

    def answered(response: Response, *_: Any, **__: Any) -> None:
        if on_answer is not None:
            on_answer(response)

    client = DICOMwebClient(
        url, session, callback=answered, permissive_uid=True, timeout=(min(_CONNECT_SECONDS, timeout), timeout)
    )
    client.set_http_retry_params(retry=False)  # urllib3 does it, and does not repeat what cannot help
    return client


@contextmanager
def named_errors(url: str) -> Iterator[None]:
    """Turn what requests and the decoding of answers raise into one sentence that carries no header and no UID.

    Raises:
        PacsError: instead of the error of the block.
    """
    from pydicom.errors import InvalidDicomError
    from requests import exceptions as http
    from urllib3.exceptions import NewConnectionError
    from urllib3.exceptions import TimeoutError as TimedOut

    host = urlsplit(url).netloc
    try:
        yield
    except http.HTTPError as error:
        status, reason = getattr(error.response, "status_code", 0), getattr(error.response, "reason", "")
        advice = _ADVICE.get(status, "try again later or ask its operator")
        raise PacsError(f"{host}: got {status} {reason}, expected an answer; {advice}") from error
    except http.SSLError as error:
        raise PacsError(
            f"{host}: got a certificate that cannot be verified, expected one of a known authority; set {CA_BUNDLE} to "
            "the PEM file of the site's authority"
        ) from error
    except http.ConnectionError as error:
        cause = getattr(error.args[0], "reason", error.args[0]) if error.args else None
        if isinstance(error, http.Timeout) or (
            isinstance(cause, TimedOut) and not isinstance(cause, NewConnectionError)  # which is one by name only
        ):
            raise _silent(host) from error
        raise PacsError(
            f"{host}: got no connection, expected a DICOMweb server; check the address and that it runs"
        ) from error
    except http.Timeout as error:
        raise _silent(host) from error
    except http.ChunkedEncodingError as error:
        raise PacsError(
            f"{host}: got an answer that broke off, expected all of it; try again, or look for a limit of size or time "
            "on the way"
        ) from error
    except (http.RequestException, InvalidDicomError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PacsError(
            f"{host}: got an answer that is not DICOMweb or is damaged, expected DICOM JSON or DICOM files; check the "
            "path of the address, often /dicom-web"
        ) from error


def _silent(host: str) -> PacsError:
    return PacsError(f"{host}: got no answer in time, expected a DICOMweb server; check the address or try again later")


def checked_uid(name: str, value: str) -> str:
    """A UID, checked, as it becomes part of an address."""
    if not _UID.fullmatch(value):
        raise InputError(f"{name}: got {value!r}, expected a DICOM UID, digits and dots; check the address")
    return value


def is_whole(answer: Response) -> bool:
    """Whether a server does not say that it left something out (PS3.18, 8.5: status 206, or warning 299)."""
    return answer.status_code != _PARTIAL and not answer.headers.get("Warning", "").lstrip().startswith("299")


def check_is_of(dataset: Dataset, study_uid: str, series_uid: str, url: str) -> None:
    """Refuse an image of another series or study than was asked for: it may be another patient's."""
    if (dataset.get("StudyInstanceUID"), dataset.get("SeriesInstanceUID")) != (study_uid, series_uid):
        raise PacsError(
            f"{url}: got an image of another series or study than was asked for, expected that series alone; ask the "
            "server's operator"
        )


class _Bearer:
    """Puts a token on each request; as a header of the session a .netrc file would displace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _credentials() -> _Bearer | tuple[str, str] | None:
    user, password, token = (os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN))
    if token:
        return _Bearer(token)
    if bool(user) != bool(password):
        raise InputError(f"credentials: got one of {USER} and {PASSWORD}, expected both or none; set the other, too")
    return (user, password) if user else None


def _authorities(ca_bundle: str | None) -> str | None:
    """The PEM file to verify with; None for the system's."""
    path = ca_bundle or os.environ.get(CA_BUNDLE, "")
    if path and not Path(path).is_file():
        raise InputError(f"ca_bundle: got {path!r}, expected an existing PEM file; check {CA_BUNDLE}")
    return path or None
