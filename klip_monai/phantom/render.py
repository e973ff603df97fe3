"""Scanning an anatomy on any voxel grid: HU with partial volume and noise, organ labels, exact lesion masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from klip_monai.phantom.anatomy import Anatomy, Array, Organ, depth_below_skin, organ_distance, ripples
from klip_monai.standard import AIR_HU


@dataclass(frozen=True)
class PhantomScan:
    """A rendered phantom: ``image`` float32 HU (1, X, Y, Z); ``organs`` uint8 and ``lesions`` bool (X, Y, Z)."""

    image: MetaTensor
    organs: NDArray[np.uint8]
    lesions: NDArray[np.bool_]


class _Slab:
    """A few slices being painted: points ``p`` (3, X, Y, n) in patient mm, ``depth`` below the skin, HU and labels."""

    def __init__(self, anatomy: Anatomy, p: Array, *, edge: float) -> None:
        self.anatomy, self.p, self.depth = anatomy, p, depth_below_skin(anatomy, p)
        self.hu = np.full(p.shape[1:], AIR_HU, np.float32)
        self.labels = np.zeros(p.shape[1:], np.uint8)
        self.edge = np.float32(max(edge, 0.5))  # width of partial-volume edges, mm

    def coverage(self, distance: Array) -> Array:
        return np.clip(0.5 - distance / self.edge, 0, 1)

    def paint(self, distance: Array | None, value: float | Array, label: Organ) -> None:
        if distance is None:
            return
        cover = self.coverage(distance)
        self.hu += cover * (value - self.hu)
        self.labels[cover > 0.5] = label

    def organ(self, name: str) -> Array | None:
        return organ_distance(self.anatomy, name, self.p, depth=self.depth)


def _paint_trunk(slab: _Slab) -> None:
    anatomy, p, depth = slab.anatomy, slab.p, slab.depth
    hu = anatomy.hu
    side = np.arctan2(np.abs(p[0]), p[1])  # 0 at the back, pi at the front
    fat = anatomy.fat_mm * (1 + 0.25 * np.sin(2 * side))
    slab.paint(-depth, 20.0, Organ.BODY)
    slab.paint(2 - depth, hu["fat"], Organ.FAT)
    slab.paint(fat - depth, hu["muscle"], Organ.MUSCLE)
    slab.paint(fat + anatomy.wall_mm - depth, hu["fat"] + 4, Organ.FAT)
    k = anatomy.half_depth / 104
    for s in (-1, 1):
        back = np.hypot((p[0] - s * 33) / 1.5, p[1] - 78 * k) - 17 * k
        psoas_x = s * (36 + 0.06 * np.minimum(-p[2], 80))
        psoas = np.hypot(p[0] - psoas_x, p[1] - 52 * k) - np.clip(9 - 0.10 * p[2], 3, 19)
        slab.paint(np.maximum(back, 3 + 0.5 * fat - depth), hu["muscle"] + 2, Organ.MUSCLE)
        slab.paint(psoas, hu["muscle"] + 3, Organ.MUSCLE)


def _paint_hollow(slab: _Slab, name: str, label: Organ) -> None:
    """Wall, content and a gas cap that lies anteriorly (the patient is supine)."""
    anatomy = slab.anatomy
    for part in anatomy.organs[name]:
        if not part.reaches(slab.p):
            continue
        distance = np.maximum(part.distance(slab.p), anatomy.cavity_mm - slab.depth)
        kind = abs(int(part.centre[0] * 64)) % 5
        slab.paint(distance, anatomy.hu["wall"], label)
        slab.paint(distance + 3, anatomy.hu["fluid"] + (12, 18, 25, 40, 60)[kind], label)
        if kind != 1:
            level = part.centre[1] + part.radii[1] * (2 * anatomy.gas[name] - 1)
            slab.paint(np.maximum(distance + 3, slab.p[1] - level), -850, label)


def _paint_spine_and_ribs(slab: _Slab) -> None:
    anatomy, p = slab.anatomy, slab.p
    hu, k = anatomy.hu, anatomy.half_depth / 104
    y = p[1] - 50 * k
    phase = np.mod(p[2] + anatomy.rib_phase, 36)
    bony = np.minimum(phase, 36 - phase) > 4  # else a disc
    body = np.hypot(p[0] / 1.28, y) - 17.5
    canal = np.hypot(p[0], y - 26)
    arch = np.maximum(np.abs(canal - 12.5) - 3.2, 17 - y)
    spinous = np.maximum(np.abs(p[0]) - 3.2, np.abs(y - 46) - 13)
    transverse = np.maximum(np.abs(y - 24) - 3.6, np.abs(np.abs(p[0]) - 25) - 11)
    slab.paint(canal - 10, 28.0, Organ.BODY)
    slab.paint(body, np.where(bony, hu["bone"], 85).astype(np.float32), Organ.VERTEBRA)
    slab.paint(body + 2.2, np.where(bony, hu["marrow"], 80).astype(np.float32), Organ.VERTEBRA)
    for part in (arch, spinous, np.maximum(transverse, np.abs(phase - 22) - 9)):
        slab.paint(part, 0.8 * hu["bone"], Organ.VERTEBRA)
    wall = slab.depth - anatomy.fat_mm - 0.55 * anatomy.wall_mm
    angle = np.arctan2(np.abs(p[0]), p[1])
    along = np.mod(p[2] + 38 * angle + anatomy.rib_phase, 27) - 13.5
    margin = 12 + 22 * np.maximum(angle - 0.9, 0) ** 1.3 - p[2]  # no ribs below the costal margin
    rib = np.maximum(np.maximum(np.hypot(wall / 0.55, along) - 6.5, margin), 0.35 - angle)
    slab.paint(rib, 0.75 * hu["bone"], Organ.RIB)
    slab.paint(rib + 2.2, hu["marrow"], Organ.RIB)


def _paint_organs(slab: _Slab) -> None:
    anatomy, p = slab.anatomy, slab.p
    hu, k = anatomy.hu, anatomy.half_depth / 104
    _paint_hollow(slab, "bowel", Organ.BOWEL)
    _paint_hollow(slab, "colon", Organ.BOWEL)
    slab.paint(slab.organ("pancreas"), hu["muscle"] + 18, Organ.BODY)
    _paint_hollow(slab, "stomach", Organ.STOMACH)
    slab.paint(slab.organ("spleen"), hu["spleen"], Organ.SPLEEN)
    for name in ("left_kidney", "right_kidney"):
        kidney = slab.organ(name)
        if kidney is not None:
            slab.paint(kidney, hu["cortex"], Organ.KIDNEY)
            slab.paint(kidney + 6, hu["medulla"], Organ.KIDNEY)
            slab.paint(kidney + 15, hu["fat"] + 30, Organ.FAT)
    _paint_liver(slab)
    slab.paint(slab.organ("gallbladder"), hu["fluid"] + 4, Organ.GALLBLADDER)
    slab.paint(np.hypot(p[0] - 9, p[1] - 21 * k) - 9.5, hu["aorta"], Organ.AORTA)
    slab.paint(np.hypot((p[0] + 20) / 1.2, p[1] - 20 * k) - 9.5, hu["vena_cava"], Organ.VENA_CAVA)


def _paint_liver(slab: _Slab) -> None:
    liver = slab.organ("liver")
    if liver is None:
        return
    slab.paint(liver, slab.anatomy.hu["liver"], Organ.LIVER)
    inside = liver < -2
    q, nearest = slab.p[:, inside], np.full(int(inside.sum()), 1e3, np.float32)
    for start, end, radius in slab.anatomy.tubes:
        along = end - start
        t = np.clip(along @ (q - start[:, None]) / (along @ along), 0, 1)
        offset = q - start[:, None] - along[:, None] * t
        nearest = np.minimum(nearest, np.sqrt(np.einsum("ij,ij->j", offset, offset)) - np.float32(radius))
    tubes = np.full(liver.shape, 1e3, np.float32)
    tubes[inside] = nearest
    slab.paint(np.maximum(tubes, liver + 3), slab.anatomy.hu["liver_vessel"], Organ.VESSEL)


def _paint_lesions(slab: _Slab) -> NDArray[np.bool_]:
    """Paint the lesions over liver and vessels; returns their mask."""
    tissue, mask = np.isin(slab.labels, (Organ.LIVER, Organ.VESSEL)), np.zeros(slab.hu.shape, bool)
    for lesion in slab.anatomy.lesions:
        if lesion.shape.reaches(slab.p):
            distance = lesion.distance(slab.p)
            value = slab.anatomy.hu["liver"] + lesion.contrast
            slab.hu += np.where(tissue, slab.coverage(distance) * (value - slab.hu), 0)
            mask |= tissue & (distance < 0)
    return mask


def render(
    anatomy: Anatomy,
    affine: NDArray[np.float64],
    *,
    shape: tuple[int, int, int],
    noise_hu: float | None = None,
) -> PhantomScan:
    """Scan a patient on a voxel grid.

    Args:
        anatomy: the patient.
        affine: (4, 4) voxel index to RAS mm.
        shape: (X, Y, Z) voxels.
        noise_hu: standard deviation of the correlated noise in HU; None draws 4 to 14 from the patient's seed.

    Returns:
        Image in HU, organ labels and exact lesion mask, all on the given grid.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    index = np.indices(shape[:2], np.float32).reshape(2, *shape[:2], 1)
    hu, labels = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    lesions = np.zeros(shape, bool)
    chunk = max(1, 2**16 // (shape[0] * shape[1]))
    for lo in range(0, shape[2], chunk):
        z = np.arange(lo, min(lo + chunk, shape[2]), dtype=np.float32)
        points = [(r[0] * index[0] + r[1] * index[1] + r[2] * z + r[3]).astype(np.float32) for r in lps]
        p = np.stack(points)
        p = p + np.stack([ripples(w, p) for w in anatomy.waves])
        slab = _Slab(anatomy, p, edge=float(spacing[:2].mean()))
        _paint_trunk(slab)
        _paint_organs(slab)
        _paint_spine_and_ribs(slab)
        part = np.s_[:, :, lo : lo + z.size]
        lesions[part] = _paint_lesions(slab)
        hu[part], labels[part] = slab.hu, slab.labels
    rng = np.random.default_rng([anatomy.seed, 3])
    drawn = rng.uniform(4, 14)
    _add_noise(hu, rng, sd=drawn if noise_hu is None else noise_hu, spacing=spacing)
    meta = MetaTensor(torch.from_numpy(hu)[None], affine=torch.from_numpy(np.asarray(affine, np.float64)))
    return PhantomScan(meta, labels, lesions)


def _add_noise(hu: Array, rng: np.random.Generator, *, sd: float, spacing: NDArray[np.float64]) -> None:
    """Add CT-like noise in place: correlated over about a mm in the plane, independent between slices."""
    if sd == 0:
        return
    blur = rng.uniform(0.5, 1.0) / spacing[:2]
    for z in range(hu.shape[2]):
        noise = gaussian_filter(rng.standard_normal(hu.shape[:2], np.float32), blur)
        hu[:, :, z] += np.float32(sd / noise.std()) * noise
