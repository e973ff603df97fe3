"""What a screening leaves behind besides its cases: tables, report and the reference of its p-values."""

from __future__ import annotations

from pathlib import Path

from klip_monai.scoring import IDReference
from klip_monai.screening.exports import write_tables
from klip_monai.screening.ledger import Ledger

REFERENCE = "id_reference.json"


def write_results(ledger: Ledger, output: Path) -> list[Path]:
    """Write tables and report of what the ledger holds now.

    Args:
        ledger: of the output folder.
        output: where to, replacing earlier ones.

    Returns:
        The files written.
    """
    files = write_tables(ledger, output)
    provenance = ledger.provenance()
    if provenance is not None and (output / REFERENCE).is_file():
        from klip_monai.screening.report import write_report

        counts = ledger.precisions()
        if len(counts) > 1:
            provenance["precision"] = ", ".join(f"{name} ({count} series)" for name, count in counts.items())
        reference = IDReference.load(output / REFERENCE, scores_only=True)
        report = output / "report.html"
        files.append(
            write_report(ledger.entries(), report, reference=reference, cases_dir=output, provenance=provenance)
        )
    return files
