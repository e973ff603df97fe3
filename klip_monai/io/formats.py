"""Which format of scan a path is, told before anything heavy is imported to read it."""

from __future__ import annotations

from pathlib import Path, PurePath

from klip_monai.errors import InputError

FILE_FORMATS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "nrrd",
    ".mhd": "nrrd",
}
"""Formats of single files by their suffix; MetaImage goes by "nrrd", as it is read alike."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_EXPECTED = "a folder with one CT series (DICOM), or a .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd file"


def suffix_of(path: PurePath) -> str:
    """Lower-case format suffix: two parts for .nii.gz, none for dots that belong to the name (1.2.840...)."""
    name = path.name.lower()
    known = (*FILE_FORMATS, ".dcm", ".ima", *_ARCHIVES)
    return max((suffix for suffix in known if name.endswith(suffix)), key=len, default="")


def format_of(path: Path, *, series_uid: str | None = None) -> str:
    """The format of a scan.

    Args:
        path: see :func:`klip_monai.io.read.read_volume`.
        series_uid: which DICOM series to read there.

    Returns:
        "dicom", "nifti" or "nrrd".

    Raises:
        InputError: there is nothing, a file of another format, or one that has no series to choose from.
    """
    if not path.exists():
        raise InputError(f"path: got {str(path)!r}, which does not exist, expected {_EXPECTED}; check the spelling")
    if not path.is_file():
        return "dicom"
    if file_format := FILE_FORMATS.get(suffix_of(path)):
        if series_uid is not None:
            raise InputError(
                f"series_uid: got {series_uid!r} with {path.name!r}, expected it with DICOM only; leave it out"
            )
        return file_format
    from klip_monai.io.dicom.files import is_archive
    from klip_monai.io.kinds import DICOM, NOT_DICOM, START_BYTES, kind_of

    with path.open("rb") as file:
        what = kind_of(file.read(START_BYTES), path.name)
    if what != DICOM and not is_archive(path):
        raise InputError(
            f"path: got file {str(path)!r} of no known format{'' if what == NOT_DICOM else f' ({what})'}, expected "
            f"{_EXPECTED}; convert it first"
        )
    return "dicom"
