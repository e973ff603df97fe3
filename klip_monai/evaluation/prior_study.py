"""What a prior has learnt, and whether it only remembers: losses, samples, memorisation, reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from monai.metrics import PSNRMetric, SSIMMetric
from PIL import Image
from torch.nn.functional import avg_pool2d

from klip_monai.evaluation.tables import save_report, table
from klip_monai.evaluation.total_variation import total_variation
from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.sampling import prior_sample
from klip_monai.slice_generator import SliceGenerator
from klip_monai.training import EDMLoss, FixedNoisePrepareBatch, SliceSet

_POOL = 4  # nearest neighbours are looked for at a quarter of the resolution, so that noise does not decide
_BATCH = 16
_COLUMNS = 8  # of the picture of samples
_SIGMA_MAX = 10.0  # of samples without data: noise that hides everything


@dataclass(frozen=True)
class Reconstruction:
    """Quality of a reconstruction, mean over slices: PSNR in dB (range 2) and SSIM."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class PriorStudy:
    """Result of :func:`run_prior_study`.

    Attributes:
        train_loss: EDM loss by noise level, of slices that were trained on.
        held_out_loss: the same of slices that were not.
        sample_distance: of samples to the nearest training slice, median; see :func:`nearest`.
        held_out_distance: the same of held-out slices.
        reconstructions: quality by method.
        samples: what the prior made from noise, float32 (N, 1, H, W); not part of the report's figures.
    """

    train_loss: Mapping[float, float]
    held_out_loss: Mapping[float, float]
    sample_distance: float
    held_out_distance: float
    reconstructions: Mapping[str, Reconstruction]
    samples: torch.Tensor


def run_prior_study(
    network: Denoiser,
    inferer: KLIPInferer,
    *,
    train: SliceSet,
    held_out: SliceSet,
    sigmas: Sequence[float],
    sigma_data: float,
    tv_weights: Sequence[float],
    count: int = 16,
    stride: int = 8,
) -> PriorStudy:
    """All checks of a prior.

    Args:
        network: the prior.
        inferer: whose measurement and sampler reconstruct; its seed is also that of the samples.
        train: slices that it was trained on.
        held_out: slices of other patients.
        sigmas: noise levels of the losses.
        sigma_data: see :class:`klip_monai.training.EDMLoss`.
        tv_weights: see :func:`reconstructions`.
        count: number of samples, and of held-out slices to reconstruct.
        stride: every how manieth training slice the loss is taken over.
    """
    seed = inferer.seed
    every, others = (data.stacked(range(len(data)))[0] for data in (train, held_out))
    made = samples(network, train.grid.image_shape, count=count, seed=seed)
    return PriorStudy(
        loss_per_sigma(network, train, sigmas=sigmas, sigma_data=sigma_data, stride=stride),
        loss_per_sigma(network, held_out, sigmas=sigmas, sigma_data=sigma_data),
        float(nearest(made, every)[0].median()),
        float(nearest(others, every)[0].median()),
        reconstructions(network, inferer, pick(held_out, count), tv_weights=tv_weights, seed=seed),
        made,
    )


def prior_to_markdown(study: PriorStudy) -> str:
    """The study as Markdown tables."""
    losses = [
        [f"{sigma:g}", f"{loss:.4f}", f"{study.held_out_loss[sigma]:.4f}"] for sigma, loss in study.train_loss.items()
    ]
    quality = [[name, f"{q.psnr:.2f}", f"{q.ssim:.3f}"] for name, q in study.reconstructions.items()]
    return "\n".join(
        [
            "# The prior",
            "",
            "## EDM loss",
            "",
            *table(["sigma", "trained on", "held out"], losses),
            "",
            "## Memory",
            "",
            "Median distance to the nearest slice trained on (root mean square at a quarter of the resolution, in "
            f"units of the [-1, 1] image): {study.sample_distance:.3f} of samples, {study.held_out_distance:.3f} of "
            "held-out slices. A prior that remembers makes samples much nearer than held-out slices are.",
            "",
            "## Reconstruction of held-out slices",
            "",
            "From simulated measurements; the weight of total variation is the best of several, chosen with the "
            "truth at hand.",
            "",
            *table(["method", "PSNR, dB", "SSIM"], quality),
            "",
        ]
    )


def save_prior_study(study: PriorStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``prior_study.md`` and ``.json``, see :func:`save_report`; and ``samples.png``."""
    content = asdict(study)
    made = content.pop("samples")
    for name in ("train_loss", "held_out_loss"):
        content[name] = {f"{sigma:g}": loss for sigma, loss in content[name].items()}
    save_report(output_dir, "prior_study", prior_to_markdown(study), content, provenance=provenance)
    columns = min(_COLUMNS, len(made))
    rows = made[: len(made) // columns * columns]
    grey = rearrange((rows.clamp(-1, 1) + 1) * 127.5, "(r c) 1 h w -> (r h) (c w)", c=columns)
    Image.fromarray(grey.byte().numpy()).save(Path(output_dir) / "samples.png")


def pick(data: SliceSet, count: int) -> torch.Tensor:
    """``count`` slices spread evenly over a slice set, float32 (count, 1, H, W)."""
    return data.stacked(round(i * (len(data) - 1) / max(1, count - 1)) for i in range(count))[0]


def loss_per_sigma(
    network: Denoiser, data: SliceSet, *, sigmas: Sequence[float], sigma_data: float, stride: int = 1
) -> dict[float, float]:
    """Mean EDM loss at each noise level over a slice set; compare that of slices trained on with that of others.

    Args:
        network: the prior.
        data: the slices; pixels of unknown value do not count.
        sigmas: noise levels.
        sigma_data: see :class:`klip_monai.training.EDMLoss`.
        stride: every how manieth slice to take.
    """
    loss, prepare = EDMLoss(sigma_data), FixedNoisePrepareBatch(sigmas)
    sums = dict.fromkeys(sigmas, 0.0)
    chosen = range(0, len(data), stride)
    for start in range(0, len(chosen), _BATCH):
        items = [data[index] for index in chosen[start : start + _BATCH]]
        batch = {key: torch.stack([item[key] for item in items]) for key in ("image", "weight")}
        noisy, target, _, options = prepare(batch)
        with torch.inference_mode():
            losses = torch.cat(
                [network(x, s) for x, s in zip(noisy.split(_BATCH), options["sigma"].split(_BATCH), strict=True)]
            )
            for sigma, values in zip(sigmas, loss.per_slice(losses, target).chunk(len(sigmas)), strict=True):
                sums[sigma] += float(values.sum())
    return {sigma: total / len(chosen) for sigma, total in sums.items()}


def samples(network: Denoiser, shape: tuple[int, int], *, count: int, levels: int = 60, seed: int = 0) -> torch.Tensor:
    """Slices that the prior makes from noise alone, float32 (count, 1, H, W) in [-1, 1]."""
    generator = SliceGenerator(seed, range(count))
    sigmas = log_sigmas(levels, sigma_max=_SIGMA_MAX, sigma_min=0.02).tolist()
    start = _SIGMA_MAX * generator.normal(torch.empty(count, 1, *shape))
    with torch.inference_mode():
        return prior_sample(network, start, sigmas=sigmas, generator=generator).clamp(-1, 1)


def nearest(images: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Root-mean-square distance of each slice to the nearest of others, at a quarter of the resolution.

    Args:
        images: (B, 1, H, W).
        references: (N, 1, H, W).

    Returns:
        Distances (B,) and indices (B,). A prior that remembers makes samples much nearer to its training slices than
        held-out slices are.
    """
    small, others = (avg_pool2d(x, _POOL).flatten(1) for x in (images, references))
    distance = torch.cdist(small, others) / small.shape[1] ** 0.5
    values, indices = distance.min(dim=1)
    return values, indices


def reconstructions(
    network: Denoiser, inferer: KLIPInferer, images: torch.Tensor, *, tv_weights: Sequence[float], seed: int = 0
) -> Mapping[str, Reconstruction]:
    """Reconstruct slices from the inferer's measurements: by the prior, filtered back-projection and total variation.

    Args:
        network: the prior.
        inferer: whose operator measures; it must be a tomography.
        images: slices (B, 1, H, W) in [-1, 1].
        tv_weights: the best of these, by PSNR, stands for total variation: more than it could be given in practice.
        seed: of the measurement noise.
    """
    generator = SliceGenerator(seed, range(len(images)))
    operator = inferer.measured.operator
    y = inferer.measure(images, generator=generator).y
    with torch.inference_mode():
        _, x0 = inferer.density(images, network, generator=generator)
        fbp = operator.A_dagger(y, method="fbp", window="hann")  # type: ignore[call-arg]
        tv = [_quality(total_variation(operator, y, weight=weight), images) for weight in tv_weights]
    return {
        "posterior sample": _quality(x0[:, :1], images),
        "filtered back-projection": _quality(fbp.clamp(-1, 1), images),
        "total variation": max(tv, key=lambda quality: quality.psnr),
    }


def _quality(made: torch.Tensor, truth: torch.Tensor) -> Reconstruction:
    psnr = PSNRMetric(max_val=2.0)(y_pred=made, y=truth)
    ssim = SSIMMetric(spatial_dims=2, data_range=2.0)(y_pred=made, y=truth)
    return Reconstruction(float(torch.as_tensor(psnr).mean()), float(torch.as_tensor(ssim).mean()))
