"""Procedural healthy CT abdomens, with and without liver lesions, on any voxel grid; everything follows from seeds.

:func:`random_anatomy` draws a patient, :func:`add_lesions` makes them ill, :func:`render` scans them on a voxel grid
given by an affine (so the slices of a volume belong together and any orientation can be scanned), :func:`random_scan`
does all three, and :class:`PhantomSlices` is a training set.
"""

from klip_monai.phantom.anatomy import PHASES, Anatomy, Lesion, Organ, add_lesions, random_anatomy
from klip_monai.phantom.render import PhantomScan, render
from klip_monai.phantom.scans import PhantomSlices, axial_affine, random_scan

__all__ = [
    "PHASES",
    "Anatomy",
    "Lesion",
    "Organ",
    "PhantomScan",
    "PhantomSlices",
    "add_lesions",
    "axial_affine",
    "random_anatomy",
    "random_scan",
    "render",
]
