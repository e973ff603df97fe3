"""How well anomalies are found: metrics, studies and their tables. Needs the extra ``eval`` (scikit-learn)."""

from klip_monai.evaluation.anomalies import Stars, Tumours
from klip_monai.evaluation.anomaly_study import AnomalyStudy, healthy_slices, run_anomaly_study, with_anomalies
from klip_monai.evaluation.density_study import DensityStudy, run_density_study, save_density_study
from klip_monai.evaluation.healthy_study import HealthyStudy, run_healthy_study, save_healthy_study
from klip_monai.evaluation.metrics import (
    Estimate,
    auroc,
    block_level_auroc,
    bootstrap,
    dice,
    image_level_auroc,
    sensitivity,
    slice_level_auroc,
    slice_scores,
)
from klip_monai.evaluation.phantom_study import PhantomStudy, run_phantom_study, study_slices
from klip_monai.evaluation.picture_study import PictureStudy, run_picture_study, save_picture_study
from klip_monai.evaluation.prior_study import PriorStudy, run_prior_study, save_prior_study
from klip_monai.evaluation.report import anomalies_to_markdown, save_anomaly_study, save_study, to_markdown
from klip_monai.evaluation.scan_study import ScanStudy, ScoredScan, run_scan_study
from klip_monai.evaluation.slice_study import Row, SliceStudy, Stratum, StudySlices, run_slice_study
from klip_monai.evaluation.total_variation import total_variation
from klip_monai.evaluation.tumour_study import (
    LabelledScan,
    TumourScan,
    TumourStudy,
    labelled_scans,
    run_tumour_study,
    save_tumour_study,
)

__all__ = [
    "AnomalyStudy",
    "DensityStudy",
    "Estimate",
    "HealthyStudy",
    "LabelledScan",
    "PhantomStudy",
    "PictureStudy",
    "PriorStudy",
    "Row",
    "ScanStudy",
    "ScoredScan",
    "SliceStudy",
    "Stars",
    "Stratum",
    "StudySlices",
    "TumourScan",
    "TumourStudy",
    "Tumours",
    "anomalies_to_markdown",
    "auroc",
    "block_level_auroc",
    "bootstrap",
    "dice",
    "healthy_slices",
    "image_level_auroc",
    "labelled_scans",
    "run_anomaly_study",
    "run_density_study",
    "run_healthy_study",
    "run_phantom_study",
    "run_picture_study",
    "run_prior_study",
    "run_scan_study",
    "run_slice_study",
    "run_tumour_study",
    "save_anomaly_study",
    "save_density_study",
    "save_healthy_study",
    "save_picture_study",
    "save_prior_study",
    "save_study",
    "save_tumour_study",
    "sensitivity",
    "slice_level_auroc",
    "slice_scores",
    "study_slices",
    "to_markdown",
    "total_variation",
    "with_anomalies",
]
