"""Training sets (standard slices of healthy scans or pictures), and bundles for priors that are or will be trained."""

from klip_monai.training.import_weights import import_weights
from klip_monai.training.new_bundle import new_bundle
from klip_monai.training.resident_slices import ResidentSlices
from klip_monai.training.slice_set import SliceGroup, SliceSet, read_manifest, write_slice_set
from klip_monai.training.sources import Group, fill_clipped, picture_groups, read_picture, scan_groups

__all__ = [
    "Group",
    "ResidentSlices",
    "SliceGroup",
    "SliceSet",
    "fill_clipped",
    "import_weights",
    "new_bundle",
    "picture_groups",
    "read_manifest",
    "read_picture",
    "scan_groups",
    "write_slice_set",
]
