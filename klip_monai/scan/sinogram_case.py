"""The result of one raw sinogram: from line integrals to what a prior can take, its score and its files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from klip_monai.errors import InputError
from klip_monai.io.files.sinogram import Sinogram
from klip_monai.io.strict_json import write_json
from klip_monai.io.write.atomic import publish
from klip_monai.io.write.overlay import write_heatmap, write_reconstruction
from klip_monai.phantom import axial_affine
from klip_monai.physics import (
    AttenuationScale,
    FanBeam,
    GaussianNoise,
    Measurement,
    Noise,
    ParallelBeam,
    PoissonNoise,
    Tomography,
    bounded_least_squares,
)
from klip_monai.report.preview import write_sinogram_preview
from klip_monai.report.summary import Provenance, RawData, SinogramSummary, Worst
from klip_monai.scan.scorer import Scorer
from klip_monai.scan.summary import versions
from klip_monai.standard import PriorGrid, body_mask

CG_ITERATIONS = 15
"""Conjugate-gradient steps for raw data: many finely spaced rays need more than the few views that bundles simulate."""

NO_REFERENCE = (
    "No ID reference: no healthy sinograms of this scanner have been scored, so the heat map is a KL density that is "
    "not calibrated, and there are no p-values, thresholds or labels."
)
_UNIT = "nats per pixel of the prior's grid, not calibrated"
_ITERATIONS = 100  # of the least-squares image; more of them fit noise
_SLICE_MM = 1.0  # thickness written to files: a sinogram has none
_MAX_OUTSIDE = 0.05  # of the highest line integral, in rays that miss the slice
_MAX_TRUNCATED = 0.1  # of it, at the ends of the detector
_AIR = -0.9  # of images: clipped air is -1
_MAX_DEVIATIONS = 2.0  # of the noise, between the posterior sample and the data
_MAX_MISFIT = 0.05  # of the data, left unexplained by the least-squares image


@dataclass(frozen=True)
class MeasuredSlice:
    """A sinogram in units that a prior's posterior can take.

    Attributes:
        sinogram: as read, perhaps with its detector elements averaged.
        operator: A of its geometry on the prior's pixels.
        scale: attenuation that image values stand for.
        noise: of the measurement.
        measurement: y (1, 1, views, detectors), of what lies within [-1, 1], and its standard deviation.
        image: least-squares image, float32 (1, 1, H, W), not below vacuum; values may lie outside of [-1, 1].
        misfit: part of the line integrals that `image` leaves unexplained, by root mean square.
        remarks: what a reader of the result has to know, in sentences.
    """

    sinogram: Sinogram
    operator: Tomography
    scale: AttenuationScale
    noise: Noise
    measurement: Measurement
    image: torch.Tensor
    misfit: float
    remarks: tuple[str, ...]


def measured_slice(sinogram: Sinogram, grid: PriorGrid) -> MeasuredSlice:
    """Bring a sinogram to the units of a prior.

    A prior knows values within [-1, 1] only, the rays also crossed air and bone beyond them: -1000 HU is -5.2 in a
    window of -160 to 240 HU. What a bounded least-squares image has outside of the range is projected and taken off
    the data, which are then those of the clipped slice. How well that works depends on how well the views show the
    outline of the object.

    Without a number of photons the noise is taken for white. Its standard deviation is the larger of what fourth
    differences along the detector say (median absolute deviation) and what the least-squares image leaves
    unexplained, which contains the errors of the model. Detector elements much finer than the pixels are averaged.

    Args:
        sinogram: line integrals with their geometry.
        grid: slice format of the prior.

    Raises:
        InputError: an impossible geometry, an object that reaches beyond the slice, or nothing that attenuates.
    """
    geometry = sinogram.geometry(image_shape=grid.image_shape, pixel_mm=grid.pixel_mm)
    factor = _binning(geometry)
    if factor > 1:
        sinogram = sinogram.binned(factor)
        geometry = sinogram.geometry(image_shape=grid.image_shape, pixel_mm=grid.pixel_mm)
    operator, scale = Tomography(geometry), sinogram.scale(grid.hu_window)
    lines = torch.from_numpy(sinogram.line_integrals)[None, None]
    _check_field(lines, operator)
    y = scale.measurement(lines, operator)
    image = bounded_least_squares(operator.A, operator.A_adjoint, y, low=scale.vacuum, iterations=_ITERATIONS)
    misfit = (operator.A(image) - y).square().mean().sqrt()
    y = y - operator.A(image - image.clamp(-1, 1))
    if not bool(_object(image, scale).any()):
        raise InputError(
            f"sinogram: nothing in it attenuates more than {scale.middle / 2:.3g} per mm, expected an object; check "
            "pitch_mm and pixel_mm, or give the mu_window of the material"
        )
    noise: Noise
    if sinogram.photons is not None:
        noise = PoissonNoise(sinogram.photons, scale)
        std: float | torch.Tensor = noise.std(lines, operator)
    else:
        std = max(float(misfit), _white_noise(lines) * scale.unit(operator))
        noise = GaussianNoise(std)
    part = float(misfit / scale.unit(operator) / lines.square().mean().sqrt())
    remarks = tuple(_remarks(sinogram, operator, grid, misfit=part))
    return MeasuredSlice(sinogram, operator, scale, noise, Measurement(y, std), image, part, remarks)


def _binning(geometry: ParallelBeam | FanBeam) -> int:
    """How many detector elements fit into a pixel's shadow, as far as that divides their number."""
    magnification = 1 + geometry.detector_mm / geometry.source_mm if isinstance(geometry, FanBeam) else 1.0
    fit = math.floor(geometry.pixel_mm * magnification / geometry.pitch_mm + 1e-6)
    return max(n for n in range(1, max(fit, 1) + 1) if geometry.sinogram_shape[1] % n == 0)


def _object(images: torch.Tensor, scale: AttenuationScale) -> torch.Tensor:
    """The object in images (1, 1, H, W), bool; half of the attenuation of the window's middle parts it from air."""
    return body_mask(images, body_hu=max(scale.vacuum / 2, _AIR))


def _check_field(lines: torch.Tensor, operator: Tomography) -> None:
    """Refuse objects that the grid does not hold: rays that miss it must have met nothing."""
    missing = operator.A(torch.ones(1, 1, *operator.image_shape)) == 0
    outside = float(lines[missing].mean()) / float(lines.max()) if bool(missing.any()) else 0.0
    if outside > _MAX_OUTSIDE:
        pixel, (height, width) = operator.geometry.pixel_mm, operator.image_shape
        raise InputError(
            f"pixel_mm: got a slice of {height * pixel:g} x {width * pixel:g} mm whose outside attenuates (rays that "
            f"miss it have {outside:.0%} of the highest line integral), expected the whole object within; give a "
            "larger pixel_mm in the geometry, or check source_mm, detector_mm and pitch_mm"
        )


def _white_noise(lines: torch.Tensor) -> float:
    """Standard deviation of white noise along the detector, in line integrals; 0 for fewer than five elements."""
    if lines.shape[-1] < 5:
        return 0.0
    fourth = torch.diff(lines, n=4)  # 1 -4 6 -4 1, whose squares add up to 70
    return float(fourth.abs().median()) / 0.6745 / 70**0.5


def _remarks(sinogram: Sinogram, operator: Tomography, grid: PriorGrid, *, misfit: float) -> list[str]:
    geometry, lines, remarks = operator.geometry, sinogram.line_integrals, [NO_REFERENCE]
    if sinogram.mu_window is not None:
        low, high = sinogram.mu_window
        remarks.append(
            f"Attenuation of {low:g} to {high:g} per mm stands for the prior's window of {grid.hu_window[0]:g} to "
            f"{grid.hu_window[1]:g} HU: the prior takes the material for tissue."
        )
    if abs(geometry.pixel_mm / grid.pixel_mm - 1) > 0.01:
        remarks.append(
            f"Pixels are {geometry.pixel_mm:.3g} mm, those of the prior {grid.pixel_mm:g} mm: it judges shapes of "
            "another size than it was trained on."
        )
    covered = geometry.angle_range * geometry.views / max(geometry.views - 1, 1)
    if covered < 179:
        remarks.append(f"The views cover {covered:.3g} degrees: what they do not show, the prior fills in.")
    if float(np.abs(lines[:, [0, -1]]).mean(axis=0).max()) > _MAX_TRUNCATED * float(lines.max()):
        remarks.append("The object reaches the end of the detector: values of truncated projections are not exact.")
    if misfit > _MAX_MISFIT:
        remarks.append(
            f"No slice explains {misfit:.0%} of the data: check angles (direction, start), offset_mm and distances."
        )
    return remarks


@dataclass(frozen=True)
class SinogramCase:
    """One scored sinogram.

    Attributes:
        measured: what was scored.
        reconstruction: posterior sample, float32 (H, W) in [-1, 1].
        heatmap: smoothed KL density, float32 (H, W), nats per pixel, 0 outside of the object and in the
            rim that the inferer leaves out.
        provenance: how the score was made.
    """

    measured: MeasuredSlice
    reconstruction: NDArray[np.float32]
    heatmap: NDArray[np.float32]
    provenance: Provenance


def score_sinogram(sinogram: Sinogram, scorer: Scorer) -> SinogramCase:
    """Sample the posterior of the slice that a sinogram measured, and map where it leaves the prior.

    Args:
        sinogram: line integrals with their geometry.
        scorer: the prior and how it is asked; the sinogram takes the place of its measurement.

    Raises:
        InputError: see :func:`measured_slice`.
    """
    measured = measured_slice(sinogram, scorer.grid)
    scorer = scorer.measuring(measured.operator, noise=measured.noise, cg_iterations=CG_ITERATIONS)
    y, std = measured.measurement.y.to(scorer.device), measured.measurement.std
    std = std.to(scorer.device) if isinstance(std, torch.Tensor) else std
    heatmap, samples = scorer.inferer.score_measurement(Measurement(y, std), scorer.network)
    sample = samples[0, :1].clamp(-1, 1).cpu()
    heatmap = heatmap.cpu() * scorer.counted(_object(sample[None], measured.scale))
    return SinogramCase(measured, sample[0].numpy(), heatmap[0, 0].numpy(), scorer.provenance)


def sinogram_files(name: str) -> dict[str, str]:
    """Names of the files of a scored sinogram, by kind."""
    endings = {
        "reconstruction": "reconstruction.nii.gz",
        "heatmap": "heatmap.nii.gz",
        "preview": "preview.png",
        "summary": "summary.json",
    }
    return {kind: f"{name}_{ending}" for kind, ending in endings.items()}


@dataclass(frozen=True)
class SavedSinogram:
    """A scored sinogram on disk: what was found, and where it is written, by kind."""

    summary: SinogramSummary
    files: Mapping[str, Path]


def save_sinogram_case(case: SinogramCase, output_dir: str | Path, *, overwrite: bool = False) -> SavedSinogram:
    """Write reconstruction, heat map, preview and summary of a scored sinogram, or none of them.

    The reconstruction is in HU, or in attenuation per mm where the geometry gives a `mu_window`. Both volumes are
    (W, H, 1) on the grid of the prior, centred on the rotation axis.

    Raises:
        OutputError: if the folder cannot be written to, or holds files of these names and `overwrite` is not asked
            for; all is left as it was then.
    """
    summary = _summarize(case)
    name = case.measured.sinogram.name
    names = sinogram_files(name)
    affine = _affine(case)
    values, unit = _physical(case)
    with publish(output_dir, last=names["summary"], overwrite=overwrite) as staging:
        write_reconstruction(staging / names["reconstruction"], values.T[..., None], affine, unit=unit)
        write_heatmap(
            staging / names["heatmap"], case.heatmap.T[..., None], affine, description="KL density, nats/pixel"
        )
        write_sinogram_preview(
            staging / names["preview"],
            case.measured.sinogram.line_integrals,
            least_squares=case.measured.image[0, 0].numpy(),
            reconstruction=case.reconstruction,
            heatmap=case.heatmap,
            pixel_mm=case.measured.operator.geometry.pixel_mm,
            title=name,
            lines=_headlines(summary),
        )
        write_json(staging / names["summary"], summary.to_json())
    return SavedSinogram(summary, {kind: Path(output_dir) / file for kind, file in names.items()})


def _affine(case: SinogramCase) -> NDArray[np.float64]:
    height, width = case.heatmap.shape
    pixel = case.measured.operator.geometry.pixel_mm
    return axial_affine((width, height, 1), spacing=(pixel, pixel, _SLICE_MM))


def _physical(case: SinogramCase) -> tuple[NDArray[np.float32], str]:
    """The reconstruction in a unit, and the unit."""
    sinogram, scale = case.measured.sinogram, case.measured.scale
    attenuation = scale.middle + scale.slope * case.reconstruction
    if sinogram.mu_window is not None:
        return attenuation, "attenuation, 1/mm"
    return (attenuation / sinogram.mu_water - 1) * 1000, "HU"


def _summarize(case: SinogramCase) -> SinogramSummary:
    measured = case.measured
    sinogram, std = measured.sinogram, measured.measurement.std
    sample_misfit, deviations = _misfit(case)
    row, column = (int(i) for i in np.unravel_index(int(case.heatmap.argmax()), case.heatmap.shape))
    affine = _affine(case)
    return SinogramSummary(
        name=sinogram.name,
        source=RawData(
            format="sinogram",
            views=sinogram.line_integrals.shape[0],
            detectors=sinogram.line_integrals.shape[1],
            line_integrals=(float(sinogram.line_integrals.min()), float(sinogram.line_integrals.max())),
            attenuation=measured.scale.describe(),
            noise=measured.noise.describe(),
            noise_std=float(torch.as_tensor(std).mean() / measured.scale.unit(measured.operator)),
            misfit={"least_squares": measured.misfit, "posterior_sample": sample_misfit},
        ),
        affine_ras_mm=tuple(map(tuple, affine.tolist())),
        reconstruction_unit=_physical(case)[1],
        unit=_UNIT,
        slice_score=float(case.heatmap.max()),
        worst=Worst((column, row, 0), tuple((affine @ [column, row, 0, 1])[:3].tolist()), (0,)),
        remarks=(*measured.remarks, *_sample_remarks(deviations)),
        provenance=case.provenance,
        versions=versions(),
    )


def _misfit(case: SinogramCase) -> tuple[float, float]:
    """What the reconstruction leaves unexplained: as a part of the line integrals, and in standard deviations."""
    measured = case.measured
    y, std = measured.measurement.y, torch.as_tensor(measured.measurement.std)
    residual = measured.operator.A(torch.from_numpy(case.reconstruction)[None, None]) - y
    lines = torch.from_numpy(measured.sinogram.line_integrals).square().mean().sqrt()
    part = residual.square().mean().sqrt() / measured.scale.unit(measured.operator) / lines
    return float(part), float((residual / std).square().mean().sqrt())


def _sample_remarks(deviations: float) -> list[str]:
    if deviations <= _MAX_DEVIATIONS:
        return []
    return [
        f"The posterior sample lies {deviations:.1f} standard deviations of the noise off the data (about 1 is right): "
        "the noise is understated, or the prior cannot make this object."
    ]


def _headlines(summary: SinogramSummary) -> Sequence[str]:
    source, provenance = summary.source, summary.provenance
    return [
        f"Highest KL density {summary.slice_score:.3g} {_UNIT}",
        f"Noise {source.noise_std:.2g} in line integrals up to {source.line_integrals[1]:.3g}; unexplained by "
        f"least squares {source.misfit['least_squares']:.1%}, by the posterior sample "
        f"{source.misfit['posterior_sample']:.1%}",
        f"Prior {provenance.bundle} {provenance.bundle_version}",
        *summary.remarks,
    ]
