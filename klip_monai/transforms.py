"""MONAI transforms: series in, KL heat map and labels out, on the series' own voxel grid."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import convert_to_dst_type

from klip_monai.case import Case, save_case
from klip_monai.inferer import KLIPInferer
from klip_monai.io.atomic import check_free, check_writable
from klip_monai.io.names import case_name
from klip_monai.io.read import read_volume, volume_in_memory
from klip_monai.output_files import DEFAULT_OUTPUTS, case_files, file_names
from klip_monai.score_transform import KLIPScore, KLIPScored
from klip_monai.scoring import MIN_ML, ContextNull, ExpectedDensity, IDReference, threshold_heatmap
from klip_monai.standard import PriorGrid, beneath_skin, slice_distance, standard_slices, to_source_grid

__all__ = [
    "BodyOnlyd",
    "CalibrateHeatmapd",
    "CheckOutputd",
    "KLIPScore",
    "KLIPScored",
    "LoadSeriesd",
    "SaveOverlayd",
    "ThresholdHeatmapd",
    "ToPriorGridd",
    "one_scan",
]

Data = dict[Hashable, Any]


class LoadSeriesd(MapTransform):
    """Read each key's path (a DICOM folder or archive, NIfTI, NRRD or MetaImage file) as a volume.

    Hosts that read scans themselves may hand over a volume in memory instead, which is checked as a file is, see
    :func:`klip_monai.io.read.volume_in_memory`.

    Unlike ``LoadImaged`` it never mixes series and refuses what it cannot place exactly, see
    :func:`klip_monai.io.read.read_volume`. Output: MetaTensor float32 HU (1, X, Y, Z); its meta gains ``read_seconds``
    and ``read_at`` (performance counter, s), and what is unknown becomes "" in it, as MONAI cannot batch None. Its
    ``name``, after which files are named, is a pseudonym, see :func:`klip_monai.io.names.case_name`.

    Args:
        keys: keys of paths, or of volumes in memory.
        series_uid: which series to read where a folder holds several.
        repair: what to repair, see :func:`klip_monai.io.read.read_volume`.
        hu_window: (low, high) HU that an 8-bit picture shows, see there.
        keep_names: name the case after its folder or file instead, which may name the patient.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        series_uid: str | None = None,
        repair: Collection[str] | None = None,
        hu_window: Sequence[float] | None = None,
        keep_names: bool = False,
    ) -> None:
        super().__init__(keys)
        self.keep_names = keep_names
        self.options: dict[str, Any] = {
            "series_uid": series_uid,
            "repair": tuple(repair or ()),
            "hu_window": hu_window,
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Read the series."""
        d = dict(data)
        for key in self.key_iterator(d):
            start = time.perf_counter()
            in_memory = isinstance(d[key], (torch.Tensor, np.ndarray))
            d[key] = self._take(d[key]) if in_memory else read_volume(d[key], **self.options)
            d[key].meta.update({name: "" for name, value in d[key].meta.items() if value is None})
            if not (self.keep_names or in_memory):
                d[key].meta["name"] = case_name(d[key])
            d[key].meta["read_seconds"] = time.perf_counter() - start
            d[key].meta["read_at"] = time.perf_counter()
        return d

    def _take(self, volume: torch.Tensor | np.ndarray) -> MetaTensor:
        """A volume of a host program; there are no slices left to repair."""
        return volume_in_memory(volume, series_uid=self.options["series_uid"], hu_window=self.options["hu_window"])


class CheckOutputd(MapTransform):
    """Refuse scans whose case is in the output folder already, before they are scored.

    Args:
        keys: keys of volumes, from :class:`LoadSeriesd`.
        output_dir: folder that :class:`SaveOverlayd` will write to.
        overwrite: let them pass, to be replaced.

    Raises:
        OutputError: when built, if ``output_dir`` cannot be written to; when called, if a file of the case is there.
    """

    def __init__(self, keys: KeysCollection, *, output_dir: str | Path, overwrite: bool = False) -> None:
        super().__init__(keys)
        check_writable(output_dir)
        self.output_dir, self.overwrite = Path(output_dir), overwrite

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Look for files of the case."""
        d = dict(data)
        for key in self.key_iterator(d):
            if not self.overwrite:
                check_free(self.output_dir, case_files(d[key].meta["name"]))
        return d


class ToPriorGridd(MapTransform, InvertibleTransform):
    """Volume in HU to standard slices stacked as (1, H, W, Z), invertible: maps come back on the volume's own grid.

    Args:
        keys: keys of volumes, MetaTensor float32 HU (1, X, Y, Z).
        grid: the prior's slice format.
        source_key: where to keep the untouched volume; None does not keep it.
        body_key: where to put the body mask, bool (1, H, W, Z); None leaves it out.
    """

    def __init__(
        self, keys: KeysCollection, *, grid: PriorGrid, source_key: str | None = None, body_key: str | None = None
    ) -> None:
        super().__init__(keys)
        self.grid, self.source_key, self.body_key = grid, source_key, body_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Bring the volumes to the prior's grid."""
        d = dict(data)
        for key in self.key_iterator(d):
            volume = d[key]
            if self.source_key is not None:
                d[self.source_key] = volume
            slices = standard_slices(volume, self.grid)
            d[key] = _placed(_stack(slices.images), torch.from_numpy(slices.placement.affine), meta=volume.meta)
            self.push_transform(d, key, extra_info={"placement": slices.placement})
            if self.body_key is not None:
                d[self.body_key] = _stack(slices.body)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> Data:
        """Bring maps (1, H, W, Z) back to the grid of the volume they were made from."""
        d = dict(data)
        for key in self.key_iterator(d):
            placement = self.pop_transform(d, key)["extra_info"]["placement"]
            on_source = to_source_grid(_unstack(d[key]), placement)
            d[key] = _placed(on_source.as_tensor(), on_source.affine, meta=d[key].meta)
        return d


class CalibrateHeatmapd(MapTransform):
    """Divide densities by what healthy tissue scores there (see `ExpectedDensity` and `ContextNull`).

    Args:
        keys: keys of densities, MetaTensor (1, H, W, Z) or (2, H, W, Z), nats per pixel; become heat maps (1, H, W, Z),
            nats per pixel of average healthy tissue.
        image_key: key of the standard slices they belong to, MetaTensor (1, H, W, Z) in [-1, 1].
        reference: from healthy scans under the same settings.
        inferer: what made the densities; a null by local contrast can do without.
        body_key: key of the body mask, which such a null can do without, too.

    Raises:
        ValueError: for a null by context without the inferer.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        image_key: str,
        reference: IDReference,
        inferer: KLIPInferer | None = None,
        body_key: str = "body",
    ) -> None:
        super().__init__(keys)
        if inferer is None and isinstance(reference.expected, ContextNull):
            raise ValueError("inferer: got none, expected what made the densities, for a null by context")
        self.image_key, self.reference, self.inferer, self.body_key = image_key, reference, inferer, body_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Calibrate the maps."""
        d = dict(data)
        images, expected = d[self.image_key], self.reference.expected
        for key in self.key_iterator(d):
            density, seen = _unstack(d[key]).cpu(), _unstack(images).cpu()
            if isinstance(expected, ExpectedDensity):
                heatmap = expected.heatmap(density, seen)
            else:
                assert self.inferer is not None
                left = self.inferer.noise_left(len(seen), slice_mm=slice_distance(images.affine.cpu().numpy()))
                body = _unstack(d[self.body_key]).bool().cpu()
                heatmap = expected.heatmap(density, seen, body=body, noise_left=left)
            d[key] = convert_to_dst_type(_stack(heatmap), d[key])[0]
        return d


class BodyOnlyd(MapTransform):
    """Set maps to zero outside of the body and in its rim, and note the maximum that is left: the scan score.

    Of a scan that came with a region the score is the maximum in the region; the maps stay whole until they lie on the
    scan's grid, see :class:`klip_monai.region.WithinRegiond`.

    Args:
        keys: keys of maps, MetaTensor (1, H, W, Z), nats per pixel.
        body_key: key of the body mask.
        skin_px: thickness of the rim, see :class:`klip_monai.inferer.KLIPInferer`.
        score_key: where the scan score goes, a float.
        region_key: key of the region on the standard slices, bool (1, H, W, Z); need not be there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        body_key: str,
        skin_px: float = 0.0,
        score_key: str = "scan_score",
        region_key: str = "region_slices",
    ) -> None:
        super().__init__(keys)
        self.body_key, self.skin_px, self.score_key, self.region_key = body_key, skin_px, score_key, region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Mask the maps."""
        d = dict(data)
        body = _stack(beneath_skin(_unstack(d[self.body_key]).bool(), skin_px=self.skin_px))
        for key in self.key_iterator(d):
            d[key] = d[key] * body.to(d[key].device)
            counted = d[key] * d[self.region_key].to(d[key].device) if self.region_key in d else d[key]
            d[self.score_key] = float(counted.max())
        return d


class ThresholdHeatmapd(MapTransform):
    """Heat map to labels (0 background, 1 suspicious, 2 strongly suspicious); the heat map moves to ``heatmap_key``.

    Args:
        keys: keys of heat maps, MetaTensor (1, X, Y, Z); replaced by labels, MetaTensor uint8 of the same shape.
        reference: the thresholds, from healthy scans under the same settings.
        heatmap_key: where the heat map goes.
        min_ml: islands smaller than this many ml become background.
    """

    def __init__(
        self, keys: KeysCollection, *, reference: IDReference, heatmap_key: str = "heatmap", min_ml: float = MIN_ML
    ) -> None:
        super().__init__(keys)
        self.reference, self.heatmap_key, self.min_ml = reference, heatmap_key, min_ml

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Label the heat maps."""
        d = dict(data)
        for key in self.key_iterator(d):
            heatmap = d[key]
            voxel_ml = float(np.abs(np.linalg.det(np.asarray(heatmap.affine)[:3, :3])) / 1000)
            labels = threshold_heatmap(
                heatmap[0].cpu().numpy(),
                suspicious=self.reference.suspicious,
                strong=self.reference.strong,
                voxel_ml=voxel_ml,
                min_ml=self.min_ml,
            )
            d[self.heatmap_key] = heatmap
            d[key] = _placed(torch.from_numpy(labels)[None], heatmap.affine, meta=heatmap.meta)
        return d


class SaveOverlayd(MapTransform):
    """Write a case: the chosen outputs, summary and preview, all or nothing.

    Files are ``NAME_heatmap.nii.gz`` and ``NAME_labels.nii.gz`` (output "nifti"), ``NAME_overlay.seg.nrrd``
    ("seg-nrrd"), ``NAME.mrb`` ("scene"), ``NAME_report.html`` ("report"), ``NAME_seg.dcm`` ("dicom-seg"),
    ``NAME_pm.dcm`` ("dicom-pm"), ``NAME_report.dcm`` ("dicom-pdf"), and always ``NAME_preview.png`` and
    ``NAME_summary.json``, where NAME is the ``name`` in the volume's meta. The summary is also put under ``summary``.

    Args:
        keys: key of the labels, MetaTensor uint8 (1, X, Y, Z).
        output_dir: folder to write into.
        reference: where p-value and thresholds come from.
        provenance: what the score was made with, JSON-able; goes into the summary.
        heatmap_key: key of the heat map, MetaTensor float32 (1, X, Y, Z).
        source_key: key of the volume, MetaTensor float32 HU (1, X, Y, Z).
        score_key: key of the scan score.
        region_key: key of the region that was looked at, from :class:`klip_monai.region.LoadRegiond`; need not be
            there.
        outputs: what to write, see :data:`klip_monai.output_files.OUTPUTS`. The DICOM outputs need a scan read from
            DICOM files, and carry the patient module of the source.
        overwrite: replace files of the same case instead of refusing.
        keep_names: put the series UID into the summary.

    Raises:
        InputError: when built, for an unknown output; when called, for a DICOM output of another format.
        OutputError: when built, if ``output_dir`` cannot be written to; when called, if writing fails or files of the
            case are there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        output_dir: str | Path,
        reference: IDReference,
        provenance: Mapping[str, Any],
        heatmap_key: str = "heatmap",
        source_key: str = "source",
        score_key: str = "scan_score",
        region_key: str = "region",
        outputs: Sequence[str] = DEFAULT_OUTPUTS,
        overwrite: bool = False,
        keep_names: bool = False,
    ) -> None:
        super().__init__(keys)
        check_writable(output_dir)
        file_names("", outputs)
        self.outputs, self.overwrite, self.keep_names = tuple(outputs), overwrite, keep_names
        self.score_key, self.region_key = score_key, region_key
        self.output_dir, self.reference, self.provenance = Path(output_dir), reference, provenance
        self.heatmap_key, self.source_key = heatmap_key, source_key

    def into(self, output_dir: str | Path) -> SaveOverlayd:
        """The same, writing into another folder."""
        other = copy(self)
        other.output_dir = Path(output_dir)
        return other

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Write the case."""
        d = dict(data)
        for key in self.key_iterator(d):
            case = Case(
                volume=d[self.source_key],
                heatmap=d[self.heatmap_key],
                labels=d[key],
                scan_score=d[self.score_key],
                reference=self.reference,
                provenance=self.provenance,
                keep_names=self.keep_names,
                region=d.get(self.region_key),
            )
            d["summary"] = save_case(case, self.output_dir, outputs=self.outputs, overwrite=self.overwrite)
        return d


def one_scan(scans: Sequence[Data]) -> Data:
    """Collate a batch of one scan as MONAI does, but without copying its volumes, of which the source is large.

    Args:
        scans: one dictionary; tensors in it have a channel first.

    Returns:
        The dictionary with a batch axis before each tensor, which shares its memory.

    Raises:
        ValueError: for several scans, whose volumes differ in size.
    """
    if len(scans) != 1:
        raise ValueError(f"scans: got {len(scans)} in a batch, expected one; their volumes differ in size")
    volumes = {key: value for key, value in scans[0].items() if isinstance(value, torch.Tensor)}
    empty = {key: volume[:, :0] for key, volume in volumes.items()}
    batch: Data = list_data_collate([{**scans[0], **empty}])
    for key, volume in volumes.items():
        whole = torch.as_tensor(volume).as_subclass(torch.Tensor)[None]
        if isinstance(volume, MetaTensor):
            whole = MetaTensor(whole)
            whole.copy_meta_from(batch[key])
            whole.is_batch = True
        batch[key] = whole
    return batch


def _stack(slices: torch.Tensor) -> torch.Tensor:
    """(Z, 1, H, W) to (1, H, W, Z)."""
    return slices.permute(1, 2, 3, 0).contiguous()


def _unstack(stacked: torch.Tensor) -> torch.Tensor:
    """(1, H, W, Z) to (Z, 1, H, W)."""
    return torch.as_tensor(stacked).as_subclass(torch.Tensor).permute(3, 0, 1, 2)


def _placed(values: torch.Tensor, affine: torch.Tensor, *, meta: Mapping[str, Any]) -> MetaTensor:
    """``values`` at ``affine``, with everything else in ``meta``."""
    return MetaTensor(values, affine=affine, meta={key: value for key, value in meta.items() if key != "affine"})
