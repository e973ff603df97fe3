"""Time the index of a made-up archive: `python -m klip_monai.screening.index_benchmark --series 10000`."""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from pathlib import Path

from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from klip_monai.screening.discovery import ArchiveIndex

_SERIES_UID, _INSTANCE_UID, _POSITION = UID("1.2.3.777777777777777"), UID("1.2.3.888888888888888"), "99999999.5"
_PER_FOLDER = 100


def template() -> bytes:
    """A CT file of 2 x 2 pixels with as many tags as scanners write, and UIDs that are patched in place."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, _INSTANCE_UID
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = CTImageStorage, _INSTANCE_UID, _SERIES_UID
    ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.ImageType = (
        UID("1.2.3.4"),
        UID("1.2.3.5"),
        ["ORIGINAL", "PRIMARY", "AXIAL"],
    )
    ds.Modality, ds.SeriesDescription, ds.BodyPartExamined, ds.SeriesDate = "CT", "thin axial", "ABDOMEN", "20200102"
    ds.PixelSpacing, ds.ImageOrientationPatient = [0.7, 0.7], [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [0, 0, _POSITION]
    for number in range(30):
        ds.add_new(0x00189000 + 2 * number, "LO", "a value of usual length")
        ds.add_new(0x00191000 + number, "UN", bytes(24))
    ds.add_new(0x00190010, "LO", "MAKER")
    ds.Rows = ds.Columns = 2
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelData = 1, "MONOCHROME2", bytes(8)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_archive(root: Path, *, series: int, files: int) -> None:
    """Write that many series of that many files each, a folder a series."""
    data = template()
    for number in range(series):
        folder = root / f"{number // _PER_FOLDER:06d}" / f"{number:08d}"
        folder.mkdir(parents=True)
        mine = data.replace(_SERIES_UID.encode(), f"1.2.3.7{number:014d}".encode())
        for k in range(files):
            uid = f"1.2.3.8{number:08d}{k:06d}".encode()
            (folder / f"{k:06d}").write_bytes(
                mine.replace(_INSTANCE_UID.encode(), uid).replace(_POSITION.encode(), f"{k:08d}.5".encode())
            )


def measure(root: Path, index_file: Path, *, expected: int, workers: int) -> dict[str, float]:
    """Index an archive, index it once more, and list its series.

    Args:
        root: the archive.
        index_file: where the index is made.
        expected: number of files.
        workers: processes.

    Returns:
        Seconds until a quarter, half and all of the files were read (`quarter_s`, `half_s`, `read_s`), the index was
        complete (`index_s`), a second update had found nothing new (`again_s`), and all series with their files had
        been listed (`list_s`), with those of this process's CPU beside them (`..._cpu`); number of listed series
        (`series`); MB of the index (`index_mb`) and of memory at most (`peak_mb`).
    """
    marks: dict[str, float] = {}
    shares = {"quarter_s": 0.25, "half_s": 0.5, "read_s": 1.0}
    start = time.perf_counter()

    def note(n_files: int, _: int) -> None:
        for name, share in shares.items():
            # Reports come every few thousand files.
            if n_files >= share * expected * 0.98 and name not in marks:
                marks[name] = time.perf_counter() - start

    with ArchiveIndex(index_file) as index:
        for name in ("index_s", "again_s"):
            start, cpu = time.perf_counter(), time.process_time()
            index.update([root], progress=note, workers=workers)
            marks[name], marks[f"{name}_cpu"] = time.perf_counter() - start, time.process_time() - cpu
        start = time.perf_counter()
        n_series = sum(found.files is not None for found in index.series())
        marks["list_s"] = time.perf_counter() - start
        marks["series"] = n_series
    marks["index_mb"] = index_file.stat().st_size / 1e6
    marks["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return marks


def main() -> None:
    """Print what :func:`measure` gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=2, help="files a series; three or more are listed as wanted")
    parser.add_argument("--workers", type=int, default=1, help="processes that read headers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, expected = Path(folder) / "archive", args.series * args.files
        write_archive(root, series=args.series, files=args.files)
        found = measure(root, Path(folder) / "index.sqlite", expected=expected, workers=args.workers)
    print(
        f"{args.series} series of {args.files} files, {args.workers} process(es): "
        f"{expected / found['index_s']:.0f} files/s, {expected / found['index_s_cpu']:.0f} a CPU second"
    )
    for name, value in found.items():
        print(f"{name:12s}{value:10.1f}")


if __name__ == "__main__":
    main()
