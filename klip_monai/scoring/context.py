"""What healthy tissue scores, by what surrounds it: a null that cannot see the lesion.

A small network predicts mean and spread of the log density of a place from its :mod:`surroundings
<klip_monai.scoring.surroundings>`, which leave the place itself out. It is fitted to healthy people; no
out-of-distribution data takes part. That a null must not see what it is a null for, and gains by position and context,
is also what Screener finds (ICLR 2026, arXiv 2502.08321). Local contrast, which sees the place, still says something
that surroundings do not: faint lesions in smooth tissue. Either takes off a part of what it expects.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from klip_monai.errors import BundleError, InputError
from klip_monai.one_thread_each import one_thread_each
from klip_monai.prior.weights import load_weights, save_weights
from klip_monai.scoring.expected import RARE, ContrastSums, ExpectedDensity, Values, contrast_px, local_contrast
from klip_monai.scoring.surroundings import FEATURES, coarser, surroundings

_HIDDEN = 64
_EPOCHS, _BATCH, _RATE = 6, 4096, 3e-3
_PLACES = 250  # of each slice that the network is fitted to
_FLAT = 1e-6
_TOGETHER = 2  # slices that are described at a time: what is made of them stays in the cache of a core
_LEAST_PLACES = 20_000


class ContextNetwork(nn.Module):
    """Surroundings to mean and log standard deviation of the log density: a perceptron of two hidden layers."""

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(FEATURES))
        self.register_buffer("spread", torch.ones(FEATURES))
        layers = [nn.Linear(FEATURES, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(_HIDDEN, 2))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (..., :data:`~klip_monai.scoring.surroundings.FEATURES`) to mean and log deviation, each (...)."""
        mean, log_deviation = self.layers((features - self.centre) / self.spread).unbind(-1)
        return mean, log_deviation.clamp(-3, 3)


@dataclass(frozen=True)
class HealthyScan:
    """What a healthy scan scored.

    Attributes:
        images: standard slices, float32 (Z, 1, H, W) in [-1, 1].
        body: bool (Z, 1, H, W); pixels whose HU are not known are not body.
        counted: bool (Z, 1, H, W), the pixels of the body that heat maps cover.
        density: smoothed KL density, float32 (Z, 1, H, W), nats per pixel.
        noise_left: see :func:`klip_monai.scoring.surroundings.surroundings`, float32 (Z,).
    """

    images: torch.Tensor
    body: torch.Tensor
    counted: torch.Tensor
    density: torch.Tensor
    noise_left: torch.Tensor


@dataclass(frozen=True, eq=False)
class ContextNull:
    """Density that is expected of healthy tissue, by its surroundings.

    Attributes:
        network: what predicts it.
        pixel_mm: pixel spacing of the slices it was fitted to.
        contrast: what is expected by local contrast; also has the average density of all healthy pixels, and how much
            of what is expected a calibrated map is relieved of, as an exponent for either.
        sharp: see :class:`klip_monai.scoring.ExpectedDensity`.
        network_sha256: hash of the network where that was left out, as where scores only are read.
    """

    network: ContextNetwork
    pixel_mm: float
    contrast: ExpectedDensity
    sharp: float | None = None
    network_sha256: str = ""

    @classmethod
    def fit(cls, scans: Iterable[HealthyScan], *, pixel_mm: float, strength: float, seed: int = 0) -> ContextNull:
        """Fit it to healthy scans, none of which an ID reference is made of.

        Args:
            scans: of people that may have trained the prior.
            pixel_mm: pixel spacing of their slices.
            strength: how much of what is expected calibrated maps are to be relieved of, 0 to 1.
            seed: of the places that are drawn and of the fit.

        Raises:
            InputError: if the scans have too few places.
        """
        chosen, generator = [], torch.Generator().manual_seed(seed)
        around_px, sums = contrast_px(pixel_mm), []
        for scan in scans:
            for features, scored, counted in _described(scan, pixel_mm=pixel_mm):
                places = counted.flatten(1)
                for row in range(len(places)):
                    at = places[row].nonzero()[:, 0]
                    at = at[torch.randperm(len(at), generator=generator)[:_PLACES]]
                    chosen.append((features[row].flatten(1)[:, at].T, scored[row].flatten()[at]))
            at = local_contrast(scan.images, sigma_px=around_px)[scan.counted]
            sums.append(ContrastSums.of(scan.density[scan.counted].numpy(), at.numpy()))
        count = sum(len(scored) for _, scored in chosen)
        if count < _LEAST_PLACES:
            raise InputError(
                f"healthy scans: got {count} places in them, expected {_LEAST_PLACES} or more to fit a null to; add "
                "scans, or use --null contrast"
            )
        features, scored = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        network = _fitted(features, scored, generator=generator)
        contrast = ExpectedDensity.fit(reduce(add, sums), contrast_px=around_px, strength=strength)
        return cls(network, pixel_mm, contrast)

    def describe(self) -> dict[str, Any]:
        """All of it but the network, JSON-able, and a hash of that."""
        values = {"pixel_mm": self.pixel_mm, "contrast": self.contrast.describe(), "sharp": self.sharp}
        return {"null": "context", **values, "network_sha256": self.network_sha256 or _hash(self.network)}

    def save(self, path: Path) -> None:
        """Write the network as safetensors."""
        save_weights(path, self.network, half=False)

    @classmethod
    def load(cls, path: Path | None, described: Mapping[str, Any]) -> ContextNull:
        """Read what `save` wrote and `describe` said; without a path the network is left out.

        Raises:
            BundleError: if the network is missing, damaged or another one.
        """
        network = ContextNetwork().requires_grad_(False)
        if path is not None:
            load_weights(path, network)
        if path is not None and _hash(network) != described["network_sha256"]:
            raise BundleError(f"{path}: not the network that the reference beside it was made with; restore both")
        contrast = ExpectedDensity.of(described["contrast"])
        left_out = described["network_sha256"] if path is None else ""
        return cls(network.eval(), described["pixel_mm"], contrast, described["sharp"], left_out)

    def heatmap(
        self, density: torch.Tensor, images: torch.Tensor, *, body: torch.Tensor, noise_left: torch.Tensor
    ) -> torch.Tensor:
        """Multiply a smoothed density with average over expected density, by surroundings and by contrast.

        Where there is a second density, of all spatial frequencies, the larger of both counts.

        Args:
            density: float32 (B, 1, H, W), or (B, 2, H, W) with the one of all frequencies second, nats per pixel.
            images: the standard slices, float32 (B, 1, H, W) in [-1, 1].
            body: bool (B, 1, H, W).
            noise_left: float32 (B,), see :func:`klip_monai.scoring.surroundings.surroundings`.

        Returns:
            Float32 (B, 1, H, W), nats per pixel of average healthy tissue; beside the body by contrast alone.
        """

        def work(some: slice) -> torch.Tensor:
            with torch.inference_mode():
                return self._calibrated(density[some], images[some], body[some], noise_left[some])

        # One thread a part, as a CPU may sum in another order for another number of threads.
        out, parts = torch.empty_like(density[:, :1]), list(_parts(len(density)))
        with one_thread_each(work, parts) as each:
            for number, calibrated in each:
                out[parts[number]] = calibrated
        return out

    def _calibrated(
        self, density: torch.Tensor, images: torch.Tensor, body: torch.Tensor, noise_left: torch.Tensor
    ) -> torch.Tensor:
        """The heat map of a part, (B, 1, H, W)."""
        coarse = density[:, :1]
        features = surroundings(images, body, coarse, pixel_mm=self.pixel_mm, noise_left=noise_left)
        # Only the body counts, and its pixels are interpolated from the places of its own and those next to them. The
        # first row goes along in any case, as for a handful of places a CPU adds in another order.
        near = max_pool2d(avg_pool2d(body.float(), density.shape[-1] // features.shape[-1]), 3, stride=1, padding=1) > 0
        near[..., 0, :] = True
        mean = torch.full_like(near, math.log(self.contrast.average), dtype=density.dtype)
        mean[near], _ = self.network(features.movedim(1, -1)[near[:, 0]])
        expected = interpolate(mean, density.shape[-2:], mode="bilinear").exp()
        gain = (self.contrast.average / expected) ** self.contrast.strength
        calibrated = self.contrast.heatmap(coarse, images) * gain
        return calibrated if self.sharp is None else torch.maximum(calibrated, density[:, 1:] * self.sharp)


def with_sharp(
    null: ContextNull, calibrated: Sequence[Values], sharp: Sequence[Values], people: Sequence[int]
) -> tuple[ContextNull, list[Values]]:
    """A null that lets the density of all spatial frequencies compete, and heat maps of the scans under it.

    Args:
        null: what calibrated the maps.
        calibrated: for each healthy scan its calibrated density in the body, (N,), nats per pixel.
        sharp: the density of all frequencies of the same pixels, (N,).
        people: number of the person that each scan is of; the factor that a scan's map gets is that of the others.
    """

    def factor(left_out: int | None) -> float:
        rest = [n for n, person in enumerate(people) if person != left_out]
        return float(
            np.quantile(np.concatenate([calibrated[n] for n in rest]), RARE)
            / np.quantile(np.concatenate([sharp[n] for n in rest]), RARE)
        )

    factors = {person: factor(person) for person in people}
    maps = [np.maximum(c, s * factors[p]) for c, s, p in zip(calibrated, sharp, people, strict=True)]
    return replace(null, sharp=factor(None)), maps


def _hash(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(network.state_dict().items()):
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + _TOGETHER) for first in range(0, count, _TOGETHER))


def _described(scan: HealthyScan, *, pixel_mm: float) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of some slices at a time: surroundings (B, F, h, w), log density and counted pixels, (B, h, w) each."""
    for some in _parts(len(scan.images)):
        images, body, density = scan.images[some], scan.body[some], scan.density[some]
        features = surroundings(images, body, density, pixel_mm=pixel_mm, noise_left=scan.noise_left[some])
        factor = coarser(images.shape, pixel_mm)
        scored = avg_pool2d(density, factor)[:, 0].clamp_min(_FLAT).log()
        counted = avg_pool2d(scan.counted[some].float(), factor)[:, 0] >= 0.5
        yield features, scored, counted


def _fitted(features: torch.Tensor, scored: torch.Tensor, *, generator: torch.Generator) -> ContextNetwork:
    """A network of the largest likelihood: features (N, F), log density (N,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        network = ContextNetwork()
    network.centre.copy_(features.mean(dim=0))
    network.spread.copy_(features.std(dim=0).clamp_min(1e-3))
    steps = _EPOCHS * (len(features) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, max(steps, 1))
    for _ in range(_EPOCHS):
        order = torch.randperm(len(features), generator=generator)
        for batch in order.split(_BATCH)[: len(features) // _BATCH]:
            mean, log_deviation = network(features[batch])
            loss = (log_deviation + 0.5 * ((scored[batch] - mean) / log_deviation.exp()).square()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)
