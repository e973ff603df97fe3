"""A patient's anatomy as implicit surfaces.

Patient coordinates are mm: x to the Left, y to the Posterior, z to the Superior, with the origin in front of the second
lumbar vertebra. Everything follows from a seed. HU values are typical textbook values for non-contrast, arterial and
portal venous scans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]


class Organ(IntEnum):
    """Labels of the rendered label volume; later ones lie on top of earlier ones."""

    AIR = 0
    BODY = 1
    FAT = 2
    MUSCLE = 3
    STOMACH = 4
    BOWEL = 5
    SPLEEN = 6
    KIDNEY = 7
    LIVER = 8
    GALLBLADDER = 9
    AORTA = 10
    VENA_CAVA = 11
    VESSEL = 12
    VERTEBRA = 13
    RIB = 14


PHASES = ("native", "arterial", "portal")

# Mean HU by phase (native, arterial, portal).
_HU: dict[str, tuple[float, float, float]] = {
    "muscle": (52, 56, 62),
    "liver": (56, 68, 108),
    "spleen": (48, 115, 120),
    "cortex": (32, 165, 185),
    "medulla": (30, 70, 165),
    "aorta": (42, 320, 165),
    "vena_cava": (40, 70, 150),
    "liver_vessel": (42, 85, 165),
    "wall": (38, 70, 85),
}


@dataclass(frozen=True)
class Ellipsoid:
    """A rotated ellipsoid: ``centre`` and ``radii`` in mm, ``axes`` the rotation matrix whose rows are its axes."""

    centre: Array
    radii: Array
    axes: Array

    def reaches(self, p: Array) -> bool:
        """Whether any of points (3, ...) can lie within 10 mm, judged by z alone."""
        reach = float(self.radii.max()) + 10
        return bool(p[2].min() < self.centre[2] + reach and p[2].max() > self.centre[2] - reach)

    def distance(self, p: Array) -> Array:
        """Approximate signed distance in mm of points (3, ...) to the surface, negative inside."""
        q = np.tensordot(self.axes, p - self.centre.reshape(3, *[1] * (p.ndim - 1)), axes=1)
        scaled = q / self.radii.reshape(3, *[1] * (p.ndim - 1))
        k = np.sqrt(np.einsum("i...,i...->...", scaled, scaled))
        return (k - 1) * np.float32(self.radii.min() + 0.3 * (self.radii.mean() - self.radii.min()))


@dataclass(frozen=True)
class Lesion:
    """A lesion: an elastically deformed ellipsoid, ``contrast`` HU off the tissue around it."""

    shape: Ellipsoid
    contrast: float
    waves: Array
    """(n, 5): direction (3) in rad/mm, phase, and amplitude in mm of the ripples that deform its surface."""

    def distance(self, p: Array) -> Array:
        """Approximate signed distance in mm of points (3, ...), negative inside."""
        return self.shape.distance(p) + ripples(self.waves, p)


@dataclass(frozen=True)
class Anatomy:
    """One patient. Made by :func:`random_anatomy`; lesions are added by :func:`add_lesions`."""

    phase: str
    hu: dict[str, float]
    half_width: float
    half_depth: float
    roundness: float
    fat_mm: float
    wall_mm: float
    organs: dict[str, tuple[Ellipsoid, ...]]
    gas: dict[str, float]
    tubes: tuple[tuple[Array, Array, float], ...]
    """Liver vessels: start (mm), end (mm), radius (mm)."""
    waves: tuple[Array, Array, Array]
    """Deformation: per axis (n, 5), as in :class:`Lesion`."""
    rib_phase: float
    seed: int
    lesions: tuple[Lesion, ...] = ()

    @property
    def cavity_mm(self) -> float:
        """Depth below the skin, in mm, where the abdominal cavity begins."""
        return self.fat_mm + self.wall_mm + 2


def random_rotation(rng: np.random.Generator, degrees: float) -> Array:
    """Rotation matrix from three Euler angles, each within +-``degrees``."""
    a, b, c = np.radians(rng.uniform(-degrees, degrees, 3))
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (rz @ ry @ rx).astype(np.float32)


def random_waves(rng: np.random.Generator, n: int, *, wavelength: tuple[float, float], amplitude: float) -> Array:
    """Draw ``n`` sine waves, rows (kx, ky, kz in rad/mm, phase, amplitude in mm), of ``amplitude`` mm together."""
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = 2 * np.pi / rng.uniform(*wavelength, size=(n, 1))
    phase = rng.uniform(0, 2 * np.pi, size=(n, 1))
    size = amplitude / np.sqrt(n) * rng.uniform(0.5, 1.5, size=(n, 1))
    return np.hstack([direction * k, phase, size]).astype(np.float32)


def ripples(waves: Array, p: Array) -> Array:
    """Sum of sine waves, mm, at points (3, ...) in mm."""
    total = np.zeros(p.shape[1:], np.float32)
    for kx, ky, kz, phase, size in waves:
        total += size * np.sin(kx * p[0] + ky * p[1] + kz * p[2] + phase)
    return total


def random_anatomy(seed: int, *, phase: str | None = None) -> Anatomy:
    """Draw a healthy patient.

    Args:
        seed: everything random follows from it.
        phase: one of :data:`PHASES`; None draws one (portal venous most often).

    Raises:
        ValueError: for an unknown ``phase``.
    """
    if phase is not None and phase not in PHASES:
        raise ValueError(f"phase: got {phase!r}, expected one of {PHASES}")
    rng = np.random.default_rng([seed, 1])
    phase = phase or str(rng.choice(PHASES, p=[0.25, 0.15, 0.6]))
    column = PHASES.index(phase)
    strength = rng.uniform(0.8, 1.15)
    hu = {k: v[0] + (v[column] - v[0]) * strength + rng.normal(0, 5) for k, v in _HU.items()}
    hu["fat"] = rng.normal(-104, 5)
    hu["bone"], hu["marrow"], hu["fluid"] = rng.uniform(380, 600), rng.uniform(120, 220), rng.uniform(0, 18)
    size = float(np.clip(rng.normal(1.0, 0.08), 0.82, 1.18))
    a, b = 152 * size * rng.uniform(0.94, 1.06), 104 * size * rng.uniform(0.9, 1.1)

    def at(centre_mm: ArrayLike, radii: ArrayLike) -> Ellipsoid:
        scale = np.array([a / 152, b / 104, size])
        centre = np.array(centre_mm) * scale + rng.normal(0, 4, 3) * (1, 0.8, 1.6)
        r = np.array(radii) * scale * rng.uniform(0.88, 1.12, 3)
        return Ellipsoid(centre.astype(np.float32), r.astype(np.float32), random_rotation(rng, 12))

    organs: dict[str, tuple[Ellipsoid, ...]] = {
        "liver": (at((-72, -8, 48), (62, 72, 82)), at((-12, -42, 58), (62, 34, 42)), at((-55, 5, 0), (42, 45, 62))),
        "spleen": (at((92, 30, 58), (28, 44, 48)), at((82, 42, 40), (22, 30, 36))),
        "left_kidney": (at((62, 46, -12), (27, 29, 56)),),
        "right_kidney": (at((-60, 48, -26), (27, 29, 55)),),
        "stomach": (at((58, -38, 50), (40, 33, 48)), at((28, -52, 22), (42, 20, 22))),
        "colon": (at((-92, -18, -70), (23, 25, 55)), at((96, 0, -50), (18, 20, 72)), at((0, -66, -32), (78, 16, 20))),
        "bowel": tuple(at(rng.uniform((-62, -52, -130), (66, 8, -2)), rng.uniform(11, 24, 3)) for _ in range(16)),
        "pancreas": (at((20, -8, 12), (48, 11, 14)), at((-18, -10, 2), (18, 14, 22))),
        "gallbladder": (at((-52, -52, 6), (14, 19, 24)),) if rng.random() < 0.75 else (),
    }
    tubes = []
    hub = organs["liver"][0].centre + np.array([28, -6, -8], np.float32)
    for _ in range(12):
        tip = organs["liver"][rng.choice(3, p=[0.6, 0.25, 0.15])].centre + rng.normal(0, 30, 3)
        mid = (hub + tip) / 2 + rng.normal(0, 9, 3)
        radius = rng.uniform(2.4, 5.0)
        tubes += [
            (hub, mid.astype(np.float32), radius),
            (mid.astype(np.float32), tip.astype(np.float32), 0.75 * radius),
        ]
    return Anatomy(
        phase=phase,
        hu={k: float(v) for k, v in hu.items()},
        half_width=a,
        half_depth=b,
        roundness=float(rng.uniform(2.1, 2.7)),
        fat_mm=float(np.clip(rng.normal(16, 6) * size**2, 5, 36)),
        wall_mm=float(rng.uniform(9, 15)),
        organs=organs,
        gas={k: float(rng.uniform(0.1, 0.75)) for k in ("stomach", "colon", "bowel")},
        tubes=tuple(tubes),
        waves=tuple(random_waves(rng, 5, wavelength=(110, 320), amplitude=5.0) for _ in range(3)),  # type: ignore[arg-type]
        rib_phase=float(rng.uniform(0, 30)),
        seed=seed,
    )


def organ_distance(anatomy: Anatomy, name: str, p: Array, *, depth: Array) -> Array | None:
    """Smooth union of an organ's ellipsoids, within the abdominal cavity; None where it does not reach."""
    near = [e for e in anatomy.organs[name] if e.reaches(p)]
    if not near:
        return None
    blend = np.float32(6.0)
    union = near[0].distance(p)
    for ellipsoid in near[1:]:
        part = ellipsoid.distance(p)
        mix = np.clip(0.5 + 0.5 * (part - union) / blend, 0, 1)
        union = part + (union - part) * mix - blend * mix * (1 - mix)
    return np.maximum(union, anatomy.cavity_mm - depth)


def depth_below_skin(anatomy: Anatomy, p: Array) -> Array:
    """Depth in mm below the skin (negative outside) of points (3, ...)."""
    n = anatomy.roundness
    taper = 1 - 0.0006 * np.abs(p[2])
    x, y = np.abs(p[0]) / (anatomy.half_width * taper) + 1e-6, np.abs(p[1] - 4) / (anatomy.half_depth * taper) + 1e-6
    rho = (x**n + y**n) ** np.float32(1 / n)
    return (1 - rho) * np.sqrt(p[0] ** 2 + (p[1] - 4) ** 2 + 1e-6) / rho


def add_lesions(
    anatomy: Anatomy,
    *,
    seed: int,
    count: int = 1,
    radius_mm: tuple[float, float] = (4.0, 20.0),
    contrast_hu: tuple[float, float] = (20.0, 80.0),
    z_mm: tuple[float, float] | None = None,
) -> Anatomy:
    """Put ``count`` lesions into the liver, hypo- (3 in 4) or hyperdense.

    Args:
        anatomy: the patient, unchanged.
        seed: of position, shape and contrast.
        count: number of lesions.
        radius_mm: range of the mean radius.
        contrast_hu: range of the absolute difference to the liver.
        z_mm: range of the lesion's centre along z (patient coordinates before deformation); None is anywhere.

    Returns:
        A copy with the lesions.

    Raises:
        ValueError: if no place inside the liver (at least 0.7 radii below its surface) is found.
    """
    rng = np.random.default_rng([seed, 2])
    lesions = list(anatomy.lesions)
    for _ in range(count):
        for _attempt in range(4000):
            radius = rng.uniform(*radius_mm)
            lobe = anatomy.organs["liver"][rng.integers(3)]
            centre = (lobe.centre + rng.uniform(-1, 1, 3) * lobe.radii).astype(np.float32)
            point = centre.reshape(3, 1)
            liver = organ_distance(anatomy, "liver", point, depth=depth_below_skin(anatomy, point))
            if liver is not None and -liver[0] >= 0.7 * radius and (z_mm is None or z_mm[0] <= centre[2] <= z_mm[1]):
                break
        else:
            raise ValueError(f"z_mm: no place for a lesion of radius {radius_mm} mm in the liver within {z_mm}")
        radii = radius * rng.uniform(0.75, 1.3, 3)
        contrast = rng.uniform(*contrast_hu) * (-1 if rng.random() < 0.75 else 1)
        waves = random_waves(rng, 4, wavelength=(1.2 * radius, 3 * radius), amplitude=0.16 * radius)
        lesions.append(
            Lesion(Ellipsoid(centre, radii.astype(np.float32), random_rotation(rng, 90)), float(contrast), waves)
        )
    return replace(anatomy, lesions=tuple(lesions))
