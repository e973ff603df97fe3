"""Training sets: healthy scans or pictures, as the standard slices that a prior learns from."""

from klip_monai.training.new_bundle import new_bundle
from klip_monai.training.slice_set import SliceGroup, SliceSet, read_manifest, write_slice_set
from klip_monai.training.sources import Group, fill_clipped, picture_groups, read_picture, scan_groups

__all__ = [
    "Group",
    "SliceGroup",
    "SliceSet",
    "fill_clipped",
    "new_bundle",
    "picture_groups",
    "read_manifest",
    "read_picture",
    "scan_groups",
    "write_slice_set",
]
