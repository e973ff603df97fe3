"""A region to look at, as the command line names it: a file of masks, or a folder of them, and labels in it.

Imports no library, so that a misspelt name costs no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.io.formats import FILE_FORMATS, suffix_of

_EXPECTED = "a mask as .nii, .nii.gz, .nrrd, .seg.nrrd, .nhdr, .mha, .mhd, or as a DICOM Segmentation"
_SUFFIXES = (*FILE_FORMATS, ".seg.nrrd", ".dcm")


@dataclass(frozen=True)
class Roi:
    """Where a region is drawn.

    Attributes:
        path: the file of a mask; for :meth:`in_folder` the folder of many.
        labels: which of its labels count, as typed: numbers or names of segments with commas; empty for all of them.

    Raises:
        InputError: nothing but commas for labels.
    """

    path: Path
    labels: str = ""

    def __post_init__(self) -> None:
        if self.labels and not self.labels.strip(" \t,"):
            raise InputError(
                f"--roi: got the labels {self.labels!r} for {self.path.name!r}, expected labels such as 5 or 1,2 or "
                "Liver; leave the colon out for all of them"
            )

    def __str__(self) -> str:
        return f"{self.path}:{self.labels}" if self.labels else str(self.path)

    @classmethod
    def parse(cls, text: str) -> Roi:
        """Take `FILE` or `FILE:LABELS` apart.

        A file of the whole name wins, and else the longest part before a colon that is one: drive letters and names
        that hold colons need no care.

        Raises:
            InputError: there is no such file, it is of no known format, or no label follows the colon.
        """
        roi = cls._split(text, folder=False)
        mask_format(roi.path)
        return roi

    @classmethod
    def parse_folder(cls, text: str) -> Roi:
        """Take `FOLDER` or `FOLDER:LABELS` apart, as :meth:`parse` does.

        Raises:
            InputError: there is no such folder, or no label follows the colon.
        """
        return cls._split(text, folder=True)

    @classmethod
    def _split(cls, text: str, *, folder: bool) -> Roi:
        if not text.strip():
            raise InputError(
                f"--roi: got {text!r}, expected {'FOLDER or FOLDER:LABELS' if folder else _EXPECTED}; leave --roi out "
                "to look at all of the scan"
            )
        colons = [place for place, letter in enumerate(text) if letter == ":"]
        for end in [len(text), *reversed(colons)]:
            path, labels = Path(text[:end]), text[end + 1 :].strip()
            if text[:end] and (path.is_dir() if folder else path.is_file()):
                if end < len(text) and not labels:
                    raise InputError(
                        f"--roi: got {text!r} with nothing behind the colon, expected labels such as 5 or 1,2 or "
                        "Liver; leave the colon out for all of them"
                    )
                return cls(path.resolve() if folder else path, labels)  # workers may have another working folder
        if folder:
            raise InputError(
                f"--roi: got {text!r}, which is no folder, expected one of masks, each named by its series UID or case "
                "name, or FOLDER:LABELS; check the spelling"
            )
        starts = [text[:end] for end in (len(text), *colons)]
        found = "a folder" if any(start and Path(start).is_dir() for start in starts) else "no file"
        raise InputError(
            f"--roi: got {text!r}, which is {found}, expected {_EXPECTED}, or FILE:LABELS; check the spelling"
        )

    def in_folder(self, key: str, name: str) -> Roi:
        """The mask of one series in the folder.

        Args:
            key: SeriesInstanceUID, with `#1`, `#2`, ... behind it for one volume of a series that holds several; the
                mask of the whole series serves each of them.
            name: pseudonym of the case.

        Raises:
            InputError: there is none, or more than one.
        """
        stems = dict.fromkeys((name, key, key.partition("#")[0]))
        found = [path for stem in stems for suffix in _SUFFIXES if (path := self.path / f"{stem}{suffix}").is_file()]
        if len(found) != 1:
            names = ", ".join(repr(path.name) for path in found)
            raise InputError(
                f"--roi: got {f'several masks ({names})' if found else 'no mask'} for {name} in {str(self.path)!r}, "
                f"expected one file named by its series UID or case name, as in '{name}.nii.gz'; "
                f"{'remove the others' if found else 'add it'}, and give the command again with --retry"
            )
        return Roi(found[0], self.labels)


def mask_format(path: Path) -> str:
    """The format of a mask: "nifti", "nrrd" (MetaImage, too) or "dicom".

    Raises:
        InputError: it is of another.
    """
    if file_format := FILE_FORMATS.get(suffix_of(path)):
        return file_format
    from pydicom.misc import is_dicom

    if not is_dicom(path):
        raise InputError(f"--roi: got {str(path)!r} of no known format, expected {_EXPECTED}; convert it first")
    return "dicom"
