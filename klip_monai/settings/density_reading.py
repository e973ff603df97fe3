"""How a density becomes a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from klip_monai.settings.checks import at_least, check_kinds

NULLS = ("contrast", "context", "none")


@dataclass(frozen=True)
class DensityReading:
    """How a density becomes a map.

    Attributes:
        lowpass_px: restricts the density to structures wider than this Gaussian, in pixels of the prior's grid (see
            :class:`klip_monai.scoring.KLAccumulator`); 0 counts all.
        noise_px: neighbourhood over which what the drawn noise explains of a move is spread, in pixels of the prior's
            grid, so that few levels tell as much as many (``renoised`` only, see
            :class:`klip_monai.scoring.KLAccumulator`); 0 leaves it where it fell.
        smoothing_px: Gaussian smoothing of the density, in pixels of the prior's grid.
        lowpass_z_mm: restricts the density to structures wider than this Gaussian along the scan too, mm, where the
            distance of its slices is known (see :mod:`klip_monai.scoring.moves`); 0 reads each slice by itself.
        smoothing_z_mm: Gaussian smoothing of the density along the scan, mm, likewise.
        calibration: how strongly an ID reference is to calibrate the map, 0 (not) to 1 (fully), by what healthy tissue
            scores there; or strengths by the name of the null. The inferer's own map is not calibrated.
        null: what says that: "contrast", healthy tissue of the same local contrast (see
            :class:`klip_monai.scoring.ExpectedDensity`); "context", of the same surroundings without the place itself
            too (see :class:`klip_monai.scoring.ContextNull`); "none" leaves maps as they are, like a calibration of 0.
        skin_px: rim of the body that heat maps and scores leave out, in pixels of the prior's grid: skin folds, the
            navel and what lies on the skin differ from person to person, and no organ lies there. The inferer's own map
            has it.
        sharp: gives the density of all spatial frequencies too, as a second channel. Calibrated heat maps are the
            larger of both, so that bright things with sharp edges, which low-pass and calibration play down, stand out
            as well. It costs no pass.

    Raises:
        ValueError: for an unknown null, a strength that is none, or a width below 0.
    """

    lowpass_px: float = 1.0
    noise_px: float = 0.0
    smoothing_px: float = 1.5
    lowpass_z_mm: float = 0.0
    smoothing_z_mm: float = 0.0
    calibration: float | Mapping[str, float] = 1.0
    null: Literal["contrast", "context", "none"] = "contrast"
    skin_px: float = 0.0
    sharp: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.null not in NULLS:
            raise ValueError(f"null: got {self.null!r}, expected one of {', '.join(NULLS)}")
        if isinstance(self.calibration, Mapping) and self.null not in {*self.calibration, "none"}:
            raise ValueError(
                f"calibration: got strengths of {', '.join(self.calibration)}, expected one of {self.null}"
            )
        if not isinstance(self.calibration, Real | Mapping) or not 0 <= self.strength <= 1:
            raise ValueError(f"calibration: got {self.calibration!r}, expected 0 (none) to 1 (full)")
        for name in ("lowpass_px", "smoothing_px"):
            at_least(0, **{name: getattr(self, name)})
        for name in ("skin_px", "noise_px", "lowpass_z_mm", "smoothing_z_mm"):
            at_least(0, **{name: getattr(self, name)})
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def strength(self) -> float:
        """Of the calibration by this null."""
        given = self.calibration
        return 0.0 if self.null == "none" else float(given[self.null] if isinstance(given, Mapping) else given)

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        own: dict[str, Any] = {"lowpass_px": self.lowpass_px, "smoothing_px": self.smoothing_px}
        own["calibration"] = self.strength
        own |= {name: getattr(self, name) for name in ("lowpass_z_mm", "smoothing_z_mm", "skin_px", "noise_px")}
        own |= {"sharp": self.sharp, "null": self.null if self.null == "context" else ""}
        always = ("lowpass_px", "smoothing_px", "calibration")
        return {name: value for name, value in own.items() if value or name in always}
