from __future__ import annotations

import nibabel as nib

from klip_monai.evaluation.scan_benchmark import measure, write_series


def test_benchmark_scores_its_series_and_tells_time_and_memory(tmp_path):
    write_series(tmp_path / "series.nii.gz", side=96, slices=3, slice_mm=5.0)
    assert nib.load(tmp_path / "series.nii.gz").shape == (96, 96, 3)
    found = measure(tmp_path / "series.nii.gz", tmp_path / "out", bundle="klip_ct_phantom")
    assert found["wall_s"] >= found["read"] + found["score"] + found["write"] > 0
    assert 0.2 < found["peak_gb"] < 20
