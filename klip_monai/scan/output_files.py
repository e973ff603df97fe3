"""What can be written of a case, by name, and the names of its files. Imports no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from klip_monai.errors import InputError

DEFAULT_OUTPUTS = ("nifti", "seg-nrrd")
_ALWAYS = {"preview": "preview.png", "summary": "summary.json"}


@dataclass(frozen=True)
class Output:
    """One output.

    Attributes:
        files: endings of its files, by kind; `NAME_` comes before each, `NAME` alone before a mere suffix.
        of_dicom: whether it needs a scan read from DICOM files, whose patient and study it carries.
    """

    files: Mapping[str, str]
    of_dicom: bool = False


OUTPUTS: dict[str, Output] = {
    "nifti": Output({"heatmap": "heatmap.nii.gz", "labels": "labels.nii.gz"}),
    "seg-nrrd": Output({"segmentation": "overlay.seg.nrrd"}),
    "scene": Output({"scene": ".mrb"}),
    "report": Output({"report": "report.html"}),
    "dicom-seg": Output({"dicom_seg": "seg.dcm"}, of_dicom=True),
    "dicom-pm": Output({"dicom_pm": "pm.dcm"}, of_dicom=True),
    "dicom-pdf": Output({"dicom_pdf": "report.dcm"}, of_dicom=True),
}
"""Outputs that can be chosen, by name. Preview and summary are always written."""

DICOM_OUTPUTS = tuple(name for name, output in OUTPUTS.items() if output.of_dicom)
"""Those that are filed with the study of a scan that was read from DICOM files."""


def file_names(name: str, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> dict[str, str]:
    """Names of the files of a case, by kind.

    Args:
        name: of the case.
        outputs: some of :data:`OUTPUTS`.

    Raises:
        InputError: for an output that is not among them.
    """
    unknown = [output for output in outputs if output not in OUTPUTS]
    if unknown:
        raise InputError(
            f"outputs: got {', '.join(unknown)}, expected some of {', '.join(OUTPUTS)}; check the spelling"
        )
    endings = {kind: ending for output in outputs for kind, ending in OUTPUTS[output].files.items()} | _ALWAYS
    return {kind: name + ending if ending.startswith(".") else f"{name}_{ending}" for kind, ending in endings.items()}


def case_files(name: str) -> list[str]:
    """Names of all files that a case may have, whatever its outputs."""
    return list(file_names(name, tuple(OUTPUTS)).values())
