"""How well anomalies are found: metrics, studies and their tables."""

from klip_monai.evaluation.anomalies import Stars, Tumours
from klip_monai.evaluation.anomaly_study import AnomalyStudy, healthy_slices, run_anomaly_study, with_anomalies
from klip_monai.evaluation.baselines import BASELINES
from klip_monai.evaluation.comparison import Comparison, run_comparison
from klip_monai.evaluation.comparison_report import comparison_to_markdown, save_comparison
from klip_monai.evaluation.density_study import DensityStudy, run_density_study, save_density_study
from klip_monai.evaluation.healthy_study import HealthyStudy, run_healthy_study, save_healthy_study
from klip_monai.evaluation.labelled_slices import LabelledSlices, SliceLabels, read_labelled_slices
from klip_monai.evaluation.labelled_slices_study import (
    LabelledSlicesStudy,
    run_labelled_slices_study,
    save_labelled_slices_study,
)
from klip_monai.evaluation.method import Fitted, Method
from klip_monai.evaluation.metrics import (
    Estimate,
    auroc,
    block_level_auroc,
    bootstrap,
    dice,
    false_positive_rate,
    image_level_auroc,
    sensitivity,
    slice_level_auroc,
    slice_scores,
)
from klip_monai.evaluation.peaks import find_peaks, level_at, sensitivity_at
from klip_monai.evaluation.phantom_study import PhantomStudy, run_phantom_study, study_slices
from klip_monai.evaluation.picture_study import PictureStudy, run_picture_study, save_picture_study
from klip_monai.evaluation.precision_recall import (
    average_precision,
    best_dice,
    pixel_average_precision,
    pixel_best_dice,
    slice_average_precision,
)
from klip_monai.evaluation.prior_study import PriorStudy, run_prior_study, save_prior_study
from klip_monai.evaluation.reading import Reading, Readings, ablation
from klip_monai.evaluation.report import anomalies_to_markdown, row_title, save_anomaly_study, save_study, to_markdown
from klip_monai.evaluation.scan_study import ScanStudy, ScoredScan, run_scan_study
from klip_monai.evaluation.side_by_side import context_nulls, remembering, scores_by_settings
from klip_monai.evaluation.slice_study import Row, SliceStudy, Stratum, StudySlices, run_slice_study
from klip_monai.evaluation.study_file import Study, read_study
from klip_monai.evaluation.total_variation import total_variation
from klip_monai.evaluation.tumour_figures import Sensitivity, TumourRow, TumourScan
from klip_monai.evaluation.tumour_report import save_tumour_study
from klip_monai.evaluation.tumour_study import LabelledScan, TumourStudy, labelled_scans, run_tumour_study
from klip_monai.evaluation.tuning import save_tuning, tune
from klip_monai.evaluation.volume_anomalies import SliceStack, VolumeStars, VolumeTumours
from klip_monai.evaluation.volume_report import save_volume_study, volumes_to_markdown
from klip_monai.evaluation.volume_scans import HealthyVolume, HealthyVolumes, healthy_volumes
from klip_monai.evaluation.volume_study import VolumeStudy, run_volume_study

__all__ = [
    "BASELINES",
    "AnomalyStudy",
    "Comparison",
    "DensityStudy",
    "Estimate",
    "Fitted",
    "HealthyStudy",
    "HealthyVolume",
    "HealthyVolumes",
    "LabelledScan",
    "LabelledSlices",
    "LabelledSlicesStudy",
    "Method",
    "PhantomStudy",
    "PictureStudy",
    "PriorStudy",
    "Reading",
    "Readings",
    "Row",
    "ScanStudy",
    "ScoredScan",
    "Sensitivity",
    "SliceLabels",
    "SliceStack",
    "SliceStudy",
    "Stars",
    "Stratum",
    "Study",
    "StudySlices",
    "TumourRow",
    "TumourScan",
    "TumourStudy",
    "Tumours",
    "VolumeStars",
    "VolumeStudy",
    "VolumeTumours",
    "ablation",
    "anomalies_to_markdown",
    "auroc",
    "average_precision",
    "best_dice",
    "block_level_auroc",
    "bootstrap",
    "comparison_to_markdown",
    "context_nulls",
    "dice",
    "false_positive_rate",
    "find_peaks",
    "healthy_slices",
    "healthy_volumes",
    "image_level_auroc",
    "labelled_scans",
    "level_at",
    "pixel_average_precision",
    "pixel_best_dice",
    "read_labelled_slices",
    "read_study",
    "remembering",
    "row_title",
    "run_anomaly_study",
    "run_comparison",
    "run_density_study",
    "run_healthy_study",
    "run_labelled_slices_study",
    "run_phantom_study",
    "run_picture_study",
    "run_prior_study",
    "run_scan_study",
    "run_slice_study",
    "run_tumour_study",
    "run_volume_study",
    "save_anomaly_study",
    "save_comparison",
    "save_density_study",
    "save_healthy_study",
    "save_labelled_slices_study",
    "save_picture_study",
    "save_prior_study",
    "save_study",
    "save_tumour_study",
    "save_tuning",
    "save_volume_study",
    "scores_by_settings",
    "sensitivity",
    "sensitivity_at",
    "slice_average_precision",
    "slice_level_auroc",
    "slice_scores",
    "study_slices",
    "to_markdown",
    "total_variation",
    "tune",
    "volumes_to_markdown",
    "with_anomalies",
]
