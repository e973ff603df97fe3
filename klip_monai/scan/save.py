"""Writing a case: all of its files, or none."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from klip_monai.io.strict_json import write_json
from klip_monai.io.write.atomic import check_free, publish
from klip_monai.report.summary import Summary
from klip_monai.scan.case import Case
from klip_monai.scan.output_files import DEFAULT_OUTPUTS, case_files, file_names
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


def save_case(
    case: Case, output_dir: str | Path, *, outputs: Sequence[str] = DEFAULT_OUTPUTS, overwrite: bool = False
) -> SavedCase:
    """Write all files of a case, or none.

    Args:
        case: the scored scan.
        output_dir: folder; made if missing.
        outputs: which of :data:`klip_monai.scan.output_files.OUTPUTS` to write. The DICOM ones carry the patient module
            of the source, so that an archive files them with its study; no other output carries anything of it.
        overwrite: replace the files of this case that are there, also those of other outputs, instead of refusing.

    Raises:
        InputError: an unknown output, or a DICOM output of a scan that was not read from DICOM files.
        OutputError: if the folder cannot be written to, or holds files of this case; all is left as it was then.
    """
    start = time.perf_counter()
    names, all_names = file_names(case.name, outputs), case_files(case.name)
    if not overwrite:
        check_free(output_dir, all_names)
    summary = summarize(case)
    with publish(output_dir, last=names["summary"], rivals=all_names, overwrite=overwrite) as staging:
        writing = Writing(case, summary, staging, names)
        for output in outputs:
            WRITERS[output](writing)
        write_picture(writing)
        timings = {**summary.timings_s, "write": time.perf_counter() - start}
        summary = replace(summary, timings_s=timings)
        write_json(staging / names["summary"], summary.to_json())
    return SavedCase(summary, {kind: Path(output_dir) / name for kind, name in names.items()})
