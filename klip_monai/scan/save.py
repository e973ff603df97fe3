"""Writing a case: all of its files, or none; what one output cannot be made of costs that output."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.io.dicom.source import SourceHeaders, source_headers
from klip_monai.io.strict_json import write_json
from klip_monai.io.write.atomic import check_free, publish
from klip_monai.report.summary import Summary
from klip_monai.scan.case import Case
from klip_monai.scan.output_files import DEFAULT_OUTPUTS, OUTPUTS, case_files, file_names
from klip_monai.scan.outputs import WRITERS, Writing, write_picture
from klip_monai.scan.summary import summarize


@dataclass(frozen=True)
class SavedCase:
    """A case on disk.

    Attributes:
        summary: what was found.
        files: where it is written, by kind, see :func:`klip_monai.scan.output_files.file_names`.
    """

    summary: Summary
    files: Mapping[str, Path]


class PartialCaseError(InputError):
    """Some outputs of a case could not be written; all else of it was.

    Attributes:
        saved: what was.
    """

    def __init__(self, message: str, saved: SavedCase) -> None:
        super().__init__(message)
        self.saved = saved


def save_case(
    case: Case, output_dir: str | Path, *, outputs: Sequence[str] = DEFAULT_OUTPUTS, overwrite: bool = False
) -> SavedCase:
    """Write all files of a case, or none; an output that cannot be made costs no other.

    Args:
        case: the scored scan.
        output_dir: folder; made if missing.
        outputs: which of :data:`klip_monai.scan.output_files.OUTPUTS` to write. The DICOM ones carry the patient module
            of the source, so that an archive files them with its study; no other output carries anything of it.
            :func:`klip_monai.scan.outputs.check_outputs` tells before a scan is scored whether they can be made.
        overwrite: replace the files of this case that are there, also those of other outputs, instead of refusing.

    Raises:
        InputError: an unknown output, or a DICOM output of a scan that was not read from DICOM files.
        PartialCaseError: an output cannot be made; the others are written, and the summary says which one lacks.
        OutputError: if the folder cannot be written to, or holds files of this case; all is left as it was then.
    """
    start = time.perf_counter()
    names, all_names = file_names(case.name, outputs), case_files(case.name)
    if not overwrite:
        check_free(output_dir, all_names)
    summary = summarize(case)
    source, lost = _source(case, outputs)
    summary = replace(summary, remarks=(*summary.remarks, *source.remarks))
    with publish(output_dir, last=names["summary"], rivals=all_names, overwrite=overwrite) as staging:
        writing = Writing(case, summary, staging, names, source.images)
        for output in outputs:
            if output not in lost and (reason := _write(output, writing)):
                lost[output] = reason
        write_picture(writing)
        timings = {**summary.timings_s, "write": time.perf_counter() - start}
        lacking = (not_written(output) for output in lost)
        summary = replace(summary, remarks=(*summary.remarks, *lacking), timings_s=timings)
        write_json(staging / names["summary"], summary.to_json())
    missing = {kind for output in lost for kind in OUTPUTS[output].files}
    files = {kind: Path(output_dir) / name for kind, name in names.items() if kind not in missing}
    saved = SavedCase(summary, files)
    if lost:
        raise PartialCaseError(f"{' '.join(dict.fromkeys(lost.values()))}. All else is written", saved)
    return saved


def not_written(output: str) -> str:
    """What a summary's remarks say of an output that could not be made."""
    return f"{output}: could not be written."


def _source(case: Case, outputs: Sequence[str]) -> tuple[SourceHeaders, dict[str, str]]:
    """What DICOM outputs need of the scan's headers, and why each of them cannot be made if they lack it."""
    asked = [output for output in outputs if OUTPUTS[output].of_dicom]
    if not asked:
        return SourceHeaders([], []), {}
    try:
        return source_headers(case.volume, asked), {}
    except InputError as error:
        if case.volume.meta["format"] != "dicom":
            raise
        return SourceHeaders([], []), dict.fromkeys(asked, str(error))


def _write(output: str, writing: Writing) -> str:
    """Write an output; why that is not possible, or nothing."""
    try:
        WRITERS[output](writing)
    except (OSError, MemoryError):  # of the folder or the machine, not of the output
        raise
    except Exception as error:  # hours of scoring are not lost to one writer
        for kind in OUTPUTS[output].files:
            writing.path(kind).unlink(missing_ok=True)
        if isinstance(error, InputError):
            return str(error)
        return f"{output}: stopped by an unexpected {type(error).__name__}, expected a file; leave out {output}"
    return ""
