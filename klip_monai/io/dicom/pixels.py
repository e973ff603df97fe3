"""Decode DICOM pixels of single-frame and multi-frame CT into Hounsfield units."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from klip_monai.errors import InputError, no_access
from klip_monai.io.dicom.files import HEADER_BYTES, DicomFile, DicomFiles

PADDING_HU = -1024.0
"""Value of pixels outside the field of view: air at the lower end of the usual CT range."""

PIXEL_TAGS = ("PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation", "BitsAllocated", "SamplesPerPixel")
"""Tags that `to_hu` reads besides the rescale."""

_FUNCTIONAL_GROUPS = (
    *("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence"),
    *("FrameContentSequence", "TemporalPositionSequence", "CardiacSynchronizationSequence"),
    *("CTImageFrameTypeSequence", "CTXRayDetailsSequence", "CTReconstructionSequence"),
)
# GDCM, pydicom's first choice, ends the process on some damaged streams.
_JPEG_FAMILY = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)
_SHOWN = 16  # letters of a LO that is a unit
_JPEG_END = b"\xff\xd9"
_TISSUE_HU = (-200.0, 3071.0)
_EXPORT_AGAIN = "export the series again from the scanner or archive"


_quiet_lock, _quiet, _quiet_users = threading.Lock(), ExitStack(), 0


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's remarks off the screen: they quote tag values, which may identify the patient.

    Threads share the silence, which lasts until the last of them is done: logger and warnings are the process's.
    """
    global _quiet_users
    with _quiet_lock:
        if not _quiet_users:
            _quiet.enter_context(_silence())
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if not _quiet_users:
                _quiet.close()


@contextmanager
def _silence() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def numbers(header: Dataset, keyword: str, *, count: int, label: str) -> npt.NDArray[np.float64]:
    """Give the numbers of a DICOM tag.

    Args:
        header: dataset to look in.
        keyword: DICOM keyword of the tag.
        count: how many numbers the tag must have.
        label: what the error message calls the series.

    Returns:
        The numbers, shape (count,).

    Raises:
        InputError: the tag is missing, has another number of values, or values that are not finite numbers.
    """
    try:
        values = np.atleast_1d(np.asarray(header[keyword].value, dtype=np.float64))
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        file = Path(str(getattr(header, "filename", ""))).name
        raise InputError(f"{label}: got no usable {keyword} in {file!r}, expected {count} number(s); {_EXPORT_AGAIN}")
    return values


def check_rescale(header: Dataset, label: str) -> tuple[float, float]:
    """Give RescaleSlope and RescaleIntercept, if they lead to Hounsfield units.

    Args:
        header: dataset, or item of a Pixel Value Transformation Sequence.
        label: what the error message calls it.

    Returns:
        Slope and intercept: HU = slope x stored value + intercept.

    Raises:
        InputError: slope or intercept is missing or zero, or RescaleType names another unit.
    """
    if "ModalityLUTSequence" in header:
        raise InputError(f"{label}: got a modality look-up table, expected RescaleSlope to HU; {_EXPORT_AGAIN}")
    unit = str(header.get("RescaleType") or "HU").strip()
    # Some converters spell the unit out, now and then misspelt as "Houndsfield".
    if unit.upper() != "HU" and not unit.upper().startswith("HOUN"):
        raise InputError(
            f"{label}: got RescaleType {unit[:_SHOWN]!r}, expected HU; use the reconstruction in Hounsfield units"
        )
    slope = float(numbers(header, "RescaleSlope", count=1, label=label)[0])
    intercept = float(numbers(header, "RescaleIntercept", count=1, label=label)[0])
    if slope == 0.0:
        raise InputError(f"{label}: got RescaleSlope 0, expected a slope to HU; {_EXPORT_AGAIN}")
    return slope, intercept


def frame_headers(header: Dataset, files: DicomFiles) -> list[Dataset]:
    """Give each frame of a multi-frame (enhanced) CT file the header that a single-frame file would have.

    Args:
        header: of a file of Enhanced CT or Legacy Converted Enhanced CT Image Storage, with its `source`.
        files: where it lies, open.

    Returns:
        One dataset a frame with the tags of the file, and its own geometry, phase and rescale, in file order; `frame`
        is its number in the file, from 0.

    Raises:
        ValueError: the file has another number of frames than it says.
    """
    with files.open(header.source, limit=HEADER_BYTES) as stream:
        image = dcmread(stream, force=True, stop_before_pixels=True)
    frames = []
    if len(image.PerFrameFunctionalGroupsSequence) != int(header.get("NumberOfFrames") or 1):
        raise ValueError("frames without a place")
    for number, per_frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        frame = Dataset()
        frame.update(header)
        for groups in [*(image.get("SharedFunctionalGroupsSequence") or []), per_frame]:
            for keyword in _FUNCTIONAL_GROUPS:
                for item in groups.get(keyword) or []:
                    frame.update(item)
        frame.pop("NumberOfFrames", None)
        frame.filename, frame.source, frame.frame = header.filename, header.source, number
        frame.file_meta = image.file_meta
        frames.append(frame)
    return frames


def iter_stored(headers: Sequence[Dataset], files: DicomFiles, label: str) -> Iterator[npt.NDArray[Any]]:
    """Decode the slices of a series one after the other.

    Args:
        headers: one dataset a slice, of a single-frame file or of a frame of a multi-frame one.
        files: where they lie, open.
        label: what the error messages call the series.

    Yields:
        Stored pixel values of one slice, (rows, columns), in the order of the headers.

    Raises:
        InputError: truncated or undecodable pixels.
    """
    for file, group in groupby(headers, key=lambda header: header.source):
        slices = list(group)
        decoded = _decode(files, file, [header.frame for header in slices])
        for header in slices:
            try:
                stored = next(decoded)
                if stored.shape != (header.Rows, header.Columns):
                    raise ValueError(f"decoded to {stored.shape}")
            except Exception as error:  # decoders raise many types; the reason is kept as the cause
                if isinstance(error, OSError) and error.errno:  # of the disk or the network, not of the file
                    raise no_access(f"{label}, {Path(header.filename).name!r}", error) from error
                raise InputError(
                    f"{label}, {Path(header.filename).name!r}: got pixels that are cut off or cannot be decoded "
                    f"({_syntax(header)}), expected a complete image; copy the file again or convert it to "
                    "uncompressed DICOM (gdcmconv --raw)"
                ) from error
            yield stored


def to_hu(stored: npt.NDArray[Any], header: Dataset, label: str) -> npt.NDArray[np.float32]:
    """Convert stored pixel values to Hounsfield units.

    Args:
        stored: pixel values as decoded, (rows, columns).
        header: dataset of this slice with its rescale and padding tags.
        label: what the error messages call the series.

    Returns:
        HU, same shape; padding set to -1024 HU.

    Raises:
        InputError: values that are not HU, or a padding value that cannot be told from tissue.
    """
    slope, intercept = check_rescale(header, label)
    values = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    padding = _padding(header, stored)
    if padding is not None and padding.any():
        pad = float(np.median(values[padding]))
        if _TISSUE_HU[0] < pad < _TISSUE_HU[1]:
            raise InputError(
                f"{label}: got PixelPaddingValue that stands for {pad:.0f} HU, expected one outside of the tissue "
                f"range {_TISSUE_HU[0]:.0f} to {_TISSUE_HU[1]:.0f} HU; correct or remove the tag"
            )
        values[padding] = PADDING_HU
    return values


def _decode(files: DicomFiles, file: DicomFile, frames: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
    """Stored pixel values of frames of a file, one at a time."""
    with files.open(file) as stream:
        dataset = dcmread(stream, force=True)
    _complete_syntax(dataset)
    _require_jpeg_end(dataset)
    compressed = UID(str(dataset.file_meta.TransferSyntaxUID)) in _JPEG_FAMILY
    yield from iter_pixels(dataset, indices=frames, decoding_plugin="pylibjpeg" if compressed else "")


def _complete_syntax(dataset: Dataset) -> None:
    """Put in the transfer syntax that a file without one was parsed by; packed pixels stay unknown."""
    if dataset.file_meta.get("TransferSyntaxUID") or dataset["PixelData"].is_undefined_length:
        return
    implicit, little = dataset.original_encoding
    plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain


def _require_jpeg_end(dataset: Dataset) -> None:
    """Refuse cut-off JPEG and JPEG-LS streams: their decoders fill the missing part with made-up pixels."""
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    if dataset.file_meta.TransferSyntaxUID in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        for frame in generate_frames(dataset.PixelData, number_of_frames=n_frames):
            # A byte or more of padding may follow; scan data never holds the marker.
            if _JPEG_END not in frame[-16:]:
                raise ValueError("JPEG stream without its end marker")


def _syntax(header: Dataset) -> str:
    """Name of the transfer syntax, for the message about a file that cannot be decoded."""
    meta = getattr(header, "file_meta", None) or {}
    return UID(str(meta.get("TransferSyntaxUID") or "unknown encoding")).name


def _padding(dataset: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Mask of the pixels that PixelPaddingValue (and its range limit) marks, or None without the tag."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    # Written with the wrong sign at times: 63536 for -2000 in signed 16-bit data.
    bits = int(dataset.get("BitsAllocated") or 16)
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    ends = [_as_stored(int(end), bits, signed) for end in (value, value if limit is None else limit)]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _as_stored(value: int, bits: int, signed: bool) -> int:
    """Wrap a number the way the stored pixels do."""
    value %= 2**bits
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value
