"""Read raw sinograms: NumPy, MATLAB and HDF5 files with a geometry.json, or files that carry their own geometry."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np
import numpy.typing as npt

from klip_monai.errors import InputError
from klip_monai.io.files.arrays import read_arrays
from klip_monai.io.read import safe_name
from klip_monai.physics import MU_WATER, AttenuationScale, FanBeam, ParallelBeam

_NEEDED = {"parallel": ("angles", "pitch_mm"), "fan": ("angles", "pitch_mm", "source_mm", "detector_mm")}
_OPTIONAL = (
    "kind", "dataset", "views", "detectors", "offset_mm", "image_shape", "pixel_mm", "hu_window", "mu_water",
    "mu_window", "photons",
)  # fmt: skip
_LARGEST = sys.float_info.max
_HIGHEST = 30.0  # exp(-30) of the photons is nothing: values above it are no line integrals
_LOWEST = -1.0  # more than twice as much light as without an object

# Helsinki Tomography Challenge 2022: our field, theirs.
_HELSINKI = {
    "source_mm": "distanceSourceOrigin",
    "pitch_mm": "pixelSizePost",
    "detectors": "numDetectorsPost",
    "angles": "angles",
}
_ACRYLIC_WINDOW = (0.0, 0.08)  # per mm: acrylic, about 0.04 at 45 kV, lies in the middle, as soft tissue does in CT


@dataclass(frozen=True, kw_only=True)
class Sinogram:
    """Line integrals of attenuation of one slice, and how they were measured.

    Attributes:
        name: of the file, of A-Z a-z 0-9 . _ - only.
        line_integrals: -ln(N / N0), no unit, float32 (views, detectors), finite.
        acquisition: what `ParallelBeam` or `FanBeam` take, but for the grid of the slice.
        image_shape: (H, W) that the geometry asks for; None leaves it to the prior.
        pixel_mm: side of a pixel that the geometry asks for, mm; None leaves it to the prior.
        field_mm: width of the slice that the file says to be of interest, mm, where no pixel was asked for.
        hu_window: HU that -1 and 1 of the image stand for; None leaves it to the prior.
        mu_water: attenuation of water, per mm.
        mu_window: attenuation, per mm, that -1 and 1 stand for; comes before `hu_window`.
        photons: of a ray that meets nothing; None where it is unknown.
    """

    name: str
    line_integrals: npt.NDArray[np.float32]
    acquisition: Mapping[str, Any]
    image_shape: tuple[int, int] | None = None
    pixel_mm: float | None = None
    field_mm: float | None = None
    hu_window: tuple[float, float] | None = None
    mu_water: float = MU_WATER
    mu_window: tuple[float, float] | None = None
    photons: float | None = None

    def geometry(self, *, image_shape: tuple[int, int], pixel_mm: float) -> ParallelBeam | FanBeam:
        """The acquisition on a prior's grid.

        Args:
            image_shape: (H, W) of the prior.
            pixel_mm: pixels of the prior, mm; those that the sinogram asks for come first.

        Raises:
            InputError: the sinogram asks for another `image_shape`, or its geometry is impossible.
        """
        if self.image_shape not in (None, tuple(image_shape)):
            raise InputError(
                f"image_shape: got {list(self.image_shape or ())} in the geometry, expected {list(image_shape)}, that "
                "of the prior; leave it out, or use another bundle"
            )
        if self.field_mm is not None:
            pixel_mm = self.field_mm / min(image_shape)
        kind = FanBeam if "source_mm" in self.acquisition else ParallelBeam
        return kind(image_shape=image_shape, pixel_mm=self.pixel_mm or pixel_mm, **self.acquisition)

    def binned(self, factor: int) -> Sinogram:
        """Neighbouring detector elements averaged, `factor` at a time; it must divide their number."""
        views, detectors = self.line_integrals.shape
        if factor < 1 or detectors % factor:
            raise InputError(f"factor: got {factor}, expected a divisor of {detectors} detector elements")
        acquisition = {
            **self.acquisition,
            "detectors": detectors // factor,
            "detector_pitch_mm": self.acquisition["detector_pitch_mm"] * factor,
        }
        return replace(
            self,
            line_integrals=self.line_integrals.reshape(views, -1, factor).mean(axis=2),
            acquisition=acquisition,
            photons=None if self.photons is None else self.photons * factor,
        )

    def scale(self, hu_window: tuple[float, float]) -> AttenuationScale:
        """What image values attenuate: as the sinogram asks, else by the HU window of the prior."""
        if self.mu_window is not None:
            return AttenuationScale(*self.mu_window)
        return AttenuationScale.from_hu(self.hu_window or hu_window, mu_water=self.mu_water)


def read_sinogram(path: str | Path, geometry: str | Path | Mapping[str, Any] | None = None) -> Sinogram:
    """Read a sinogram with its geometry.

    `geometry` is an object, or a JSON file that holds one, with the fields

        kind                "parallel" (also without it) or "fan" with a flat detector
        angles              of the views in degrees: a list, or {"start": degrees, "step": degrees}
        pitch_mm            distance of neighbouring detector elements
        source_mm           fan only: source to rotation axis
        detector_mm         fan only: rotation axis to detector
        offset_mm           optional: shift of the detector's centre along +u
        views, detectors    optional: the shape that the data must have
        image_shape         optional: [H, W] of the slice, must be the prior's
        pixel_mm            optional: its pixels; the prior's without it
        hu_window           optional: [low, high] HU that -1 and 1 stand for; the prior's without it
        mu_water            optional: attenuation of water per mm, for `hu_window`
        mu_window           optional: [low, high] attenuation per mm instead of HU, for what is no tissue
        photons             optional: photons of an unattenuated ray, which say how noisy each ray is
        dataset             optional: name of the array, where the file holds several

    Axes and signs are those of :class:`klip_monai.physics.ParallelBeam`, which are ASTRA's: views first, detector 0 at
    the most negative u; a gantry that turns the other way has a negative step.

    Files of the Helsinki Tomography Challenge 2022 (`CtDataFull` and `CtDataLimited`; Meaney et al., Zenodo 6984868)
    bring a geometry of their own, in which fields of `geometry` replace single ones.

    Args:
        path: .npy, .npz, .mat (any version), .h5 or .hdf5 file. Nothing pickled is loaded.
        geometry: see above.

    Raises:
        InputError: no such file, no or several candidates for the sinogram, a geometry that is missing, incomplete or
            unknown in part, another shape than the geometry says, or values that are no line integrals.
    """
    path = Path(path)
    arrays = read_arrays(path)
    asked = {} if geometry is None else _read_geometry(geometry)
    own = _helsinki(arrays)
    if own is None and geometry is None:
        raise InputError(
            f"geometry: {path.name} does not say how it was measured, expected a geometry.json; see "
            "klip_monai.io.files.sinogram.read_sinogram for its fields"
        )
    replaced = {"pixel_mm": "field_mm", "hu_window": "mu_window"}
    fields = {k: v for k, v in (own or {}).items() if k not in {replaced.get(name) for name in asked}} | asked
    values = _pick(arrays, fields.pop("dataset", None), path)
    acquisition = _acquisition(fields, values.shape)
    rest = {name: _numbers(name, value) for name, value in fields.items()}
    shape = rest.pop("image_shape", None)
    return Sinogram(
        name=safe_name(path.with_suffix("")),
        line_integrals=_line_integrals(values, path),
        acquisition=acquisition,
        image_shape=None if shape is None else (int(shape[0]), int(shape[1])),
        **rest,
    )


def _read_geometry(geometry: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a geometry, every one of them known."""
    if not isinstance(geometry, Mapping):
        try:
            geometry = json.loads(Path(geometry).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"geometry: got {geometry}, which cannot be read as JSON ({error}), expected an object of "
                "fields; fix it"
            ) from error
        if not isinstance(geometry, Mapping):
            raise InputError(f"geometry: got a {type(geometry).__name__}, expected an object of fields such as angles")
    known = {*_OPTIONAL, *_NEEDED["fan"]}
    unknown = sorted(set(geometry) - known)
    if unknown:
        raise InputError(
            f"geometry: got unknown fields {', '.join(unknown)}, expected some of {', '.join(sorted(known))}"
        )
    return dict(geometry)


def _helsinki(arrays: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fields of a file of the Helsinki Tomography Challenge 2022; None for other files."""
    for struct in ("CtDataLimited", "CtDataFull"):
        if not any(name.startswith(f"{struct}/") for name in arrays):
            continue
        parameters = f"{struct}/parameters"
        wanted = [*_HELSINKI.values(), "distanceSourceDetector", "effectivePixelSizePost"]
        missing = [name for name in wanted if f"{parameters}/{name}" not in arrays]
        if missing:
            raise InputError(
                f"{struct}: got no parameters {', '.join(missing)}, expected them in the file; download it again"
            )
        values = {name: np.asarray(arrays[f"{parameters}/{name}"], np.float64).ravel() for name in wanted}
        single = {name: float(value[0]) for name, value in values.items() if value.size}
        fields: dict[str, Any] = {ours: single[theirs] for ours, theirs in _HELSINKI.items()}
        return fields | {
            "kind": "fan",
            "dataset": f"{struct}/sinogram",
            "angles": values["angles"].tolist(),
            "detector_mm": single["distanceSourceDetector"] - single["distanceSourceOrigin"],
            "field_mm": single["effectivePixelSizePost"] * single["numDetectorsPost"],
            "mu_window": _ACRYLIC_WINDOW,
        }
    return None


def _pick(arrays: Mapping[str, npt.NDArray[Any]], name: str | None, path: Path) -> npt.NDArray[Any]:
    """The sinogram among the arrays of a file: the named one, the one called so, or the only picture."""
    if name is not None and not (isinstance(name, str) and name in arrays):
        raise InputError(f"dataset: got {shown(name)}, expected one of {', '.join(sorted(arrays))} in {path.name}")
    pictures = [key for key, value in arrays.items() if value.ndim == 2 and min(value.shape) > 1]
    called = [key for key in pictures if key.rsplit("/", 1)[-1].lower() == "sinogram"]
    chosen = [name] if name is not None else called or pictures
    if len(chosen) != 1:
        found = ", ".join(f"{key} {value.shape}" for key, value in sorted(arrays.items())) or "nothing"
        raise InputError(
            f'{path.name}: got {found}, expected one array (views, detectors); name it by "dataset" in the geometry'
        )
    values = arrays[chosen[0]]
    if values.ndim != 2:
        raise InputError(
            f"{path.name}: got shape {values.shape} of {chosen[0]}, expected (views, detectors) of one slice"
        )
    return values


def _acquisition(fields: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Arguments of a geometry, taken out of the fields, for data of this shape."""
    kind = fields.pop("kind", "parallel")
    if not isinstance(kind, str) or kind not in _NEEDED:
        raise InputError(f"kind: got {shown(kind)}, expected one of {', '.join(_NEEDED)}")
    missing = [name for name in _NEEDED[kind] if name not in fields]
    if missing:
        raise InputError(
            f"geometry: got no {', '.join(missing)}, expected {', '.join(_NEEDED[kind])} for kind {kind!r}"
        )
    foreign = [name for name in ("source_mm", "detector_mm") if kind == "parallel" and name in fields]
    if foreign:
        raise InputError(f"geometry: got {', '.join(foreign)} for kind 'parallel', expected them for 'fan' only")
    angles = fields.pop("angles")
    if isinstance(angles, Mapping):
        if set(angles) != {"start", "step"}:
            raise InputError(f"angles: got fields {sorted(angles)}, expected start and step, or a list")
        start, step = (_numbers(f"angles.{name}", angles[name]) for name in ("start", "step"))
    elif not isinstance(angles, list | tuple):
        raise InputError(f"angles: got {shown(angles)}, expected a list of degrees, or start and step")
    given = shape[0] if isinstance(angles, Mapping) else len(angles)
    expected = (_numbers("views", fields.pop("views", given)), _numbers("detectors", fields.pop("detectors", shape[1])))
    if not isinstance(angles, Mapping) and len(angles) != expected[0]:
        raise InputError(f"angles: got {len(angles)}, expected one for each of {expected[0]} views")
    if shape != expected:
        advice = "transpose it" if shape == expected[::-1] else "the geometry must be that of the data"
        raise InputError(f"sinogram: got shape {shape}, expected (views, detectors) = {expected}; {advice}")
    if isinstance(angles, Mapping):
        angles = [start + i * step for i in range(shape[0])]
    own = {name: _numbers(name, fields.pop(name)) for name in ("source_mm", "detector_mm") if name in fields}
    return own | {
        "view_angles": tuple(float(_numbers(f"angles[{i}]", angle)) for i, angle in enumerate(angles)),
        "detectors": shape[1],
        "detector_pitch_mm": _numbers("pitch_mm", fields.pop("pitch_mm")),
        "detector_offset_mm": _numbers("offset_mm", fields.pop("offset_mm", 0.0)),
    }


def _numbers(name: str, value: Any) -> Any:
    """A finite number above 0 where it can only be that, or a pair of them for windows and shapes."""
    if name.endswith(("_window", "_shape")):
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise InputError(f"{name}: got {shown(value)}, expected a list of two numbers")
        return tuple(_numbers(f"{name}[{i}]", part) for i, part in enumerate(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise InputError(f"{name}: got {shown(value)}, expected a finite number")
    if name in ("pixel_mm", "photons", "mu_water", "field_mm") and value <= 0:
        raise InputError(f"{name}: got {shown(value)}, expected a number above 0")
    return value


def _line_integrals(values: npt.NDArray[Any], path: Path) -> npt.NDArray[np.float32]:
    """Values as float32, none of which a scanner could not have measured."""
    if values.dtype.kind not in "fiu":
        raise InputError(f"{path.name}: got dtype {values.dtype}, expected real numbers")
    result = values.astype(np.float32)
    bad = int(np.count_nonzero(~np.isfinite(result)))
    if bad:
        raise InputError(f"{path.name}: got {bad} NaN or infinite values, expected none; repair dead detector elements")
    low, high = float(result.min()), float(result.max())
    if low < _LOWEST or high > _HIGHEST or high <= 0:
        raise InputError(
            f"{path.name}: got values from {low:g} to {high:g}, expected line integrals -ln(N / N0) between 0 and "
            f"{_HIGHEST:g}; take the logarithm of counts first"
        )
    return np.ascontiguousarray(result)
