"""The result of one scan: what was found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from monai.data import MetaTensor

from klip_monai.report.summary import Provenance
from klip_monai.scoring import Candidate, ContextNull, IDReference
from klip_monai.scoring.candidates import ranked
from klip_monai.standard import distance_of_standard_slices, slice_axis

_LISTED = 50  # candidates that are listed; all are counted


@dataclass(frozen=True)
class Case:
    """One scored scan.

    Attributes:
        volume: the scan, float32 HU (1, X, Y, Z), see :meth:`klip_monai.scan.opened.Reading.volume`.
        heatmap: KL density, float32 (1, X, Y, Z), calibrated unless the reference's null is "none", in the unit that
            the summary names.
        labels: uint8 (1, X, Y, Z).
        scan_score: maximum of the heat map on the prior's grid.
        reference: ID reference of the settings that made the heat map.
        provenance: how the score was made.
        keep_names: whether files may say whose scan it is: the summary then has the series UID.
        region: bool (1, X, Y, Z), the part of the scan that was looked at, see
            :func:`klip_monai.scan.region.read_region`; None is all of it.
        seconds: what reading and scoring took, by these names.
    """

    volume: MetaTensor
    heatmap: MetaTensor
    labels: MetaTensor
    scan_score: float
    reference: IDReference
    provenance: Provenance
    keep_names: bool = False
    region: MetaTensor | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def timed(self, **seconds: float) -> Case:
        """The same with what its making took."""
        return replace(self, seconds=seconds)

    @property
    def name(self) -> str:
        """After which files are named."""
        return str(self.volume.meta["name"])

    @property
    def slices(self) -> int:
        """How many slices were scored, whatever the order of the scan's axes."""
        return int(self.volume.shape[1 + slice_axis(np.asarray(self.volume.affine, dtype=np.float64))])

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The suspicious places, connected and ranked; the first that a summary lists."""
        return self._candidates[0]

    @property
    def candidate_count(self) -> int:
        """Number of all suspicious places."""
        return self._candidates[1]

    @cached_property
    def _candidates(self) -> tuple[tuple[Candidate, ...], int]:
        return ranked(
            self.heatmap[0].cpu().numpy(),
            self.labels[0].cpu().numpy(),
            np.asarray(self.volume.affine, dtype=np.float64),
            self.reference,
            scan_score=self.scan_score,
            most=_LISTED,
        )

    @property
    def uses_twins(self) -> bool:
        """Whether the heat map was measured against twins."""
        return bool(self.provenance.settings.get("twins"))

    @property
    def scoring_remarks(self) -> list[str]:
        """How the slices were scored, if it was not as the settings would have it, in a sentence."""
        settings = self.provenance.settings
        in_space = any(settings.get(name) for name in ("lowpass_z_mm", "smoothing_z_mm"))
        affine = np.asarray(self.volume.affine, dtype=np.float64)
        if not in_space or distance_of_standard_slices(affine) is not None:
            return []
        return ["scoring: slices do not lie straight above each other, so each was scored by itself, in its plane."]

    @property
    def unit(self) -> str:
        """Unit of the heat map in a few words."""
        return "times the twins" if self.uses_twins else "nats per pixel"

    @property
    def unit_in_full(self) -> str:
        """Unit of the heat map, and what it is a multiple or a density of."""
        meant = (
            "multiples of what twins made by the prior score" if self.uses_twins else f"{self.unit} of the prior's grid"
        )
        return f"{meant}, {'calibrated to average healthy tissue' if self.is_calibrated else 'not calibrated'}"

    @property
    def is_calibrated(self) -> bool:
        """Whether healthy tissue's density was divided out of the heat map, in whole or in part."""
        expected = self.reference.expected
        return (expected.contrast if isinstance(expected, ContextNull) else expected).strength > 0
