"""MONAI transforms: faces of the road that :class:`klip_monai.scan.Scorer` is, for bundles and their hosts."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import InvertibleTransform, MapTransform, Transform

from klip_monai.io.write.atomic import check_free, check_writable
from klip_monai.scan.opened import OpenedScan, Reading
from klip_monai.scan.output_files import DEFAULT_OUTPUTS, case_files, file_names
from klip_monai.scan.outputs import check_outputs
from klip_monai.scan.region import read_region, region_on_slices
from klip_monai.scan.save import save_case
from klip_monai.scan.scorer import Scorer
from klip_monai.standard import Placement, PriorGrid, StandardSlices, standard_slices, to_source_grid

Data = dict[Hashable, Any]


class KLIPScore(Transform):
    """Score a CT volume: HU in, heat map (nats per pixel of the prior's grid) on the same voxel grid out.

    Args:
        scorer: prior, settings and, if heat maps are to be calibrated, the ID reference.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, volume: MetaTensor, region: torch.Tensor | None = None) -> MetaTensor:
        """Score ``volume``, float32 HU (1, X, Y, Z), or only the part of it in ``region``, bool (1, X, Y, Z).

        Returns:
            MetaTensor float32 (1, X, Y, Z), zero outside of the region; meta has ``scan_score``, the maximum before it
            was brought back.
        """
        slices, on_slices = standard_slices(volume, self.scorer.grid), None
        if region is not None:
            region = MetaTensor(region.as_subclass(torch.Tensor), affine=volume.affine)
            on_slices, _ = region_on_slices(region[0], volume.affine, slices.placement)
        heatmap, score = self.scorer.heatmap_of(OpenedScan(volume, slices, region, on_slices))
        heatmap.meta["scan_score"] = score
        return heatmap


class KLIPScored(MapTransform):
    """Dictionary face of :class:`KLIPScore`.

    Args:
        keys: keys of volumes, MetaTensor float32 HU (1, X, Y, Z).
        scorer: see there.
        heatmap_key: where the heat map goes; None replaces the volume.
        region_key: key of the region to score, bool (1, X, Y, Z); need not be there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        scorer: Scorer,
        heatmap_key: str | None = "heatmap",
        region_key: str = "region",
    ) -> None:
        super().__init__(keys)
        self.score, self.heatmap_key, self.region_key = KLIPScore(scorer), heatmap_key, region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Score the volumes."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.heatmap_key or key] = self.score(d[key], d.get(self.region_key))
        return d


class LoadSeriesd(MapTransform):
    """Read each key's path (a DICOM folder or archive, NIfTI, NRRD or MetaImage file) as a volume.

    Hosts that read scans themselves may hand over a volume in memory instead, which is checked as a file is. See
    :meth:`klip_monai.scan.opened.Reading.volume`; the meta gains ``read_seconds`` and ``read_at`` (performance counter,
    s), and what is unknown becomes "" in it, as MONAI cannot batch None.

    Args:
        keys: keys of paths, or of volumes in memory.
        series_uid: which series to read where a folder holds several.
        repair: what to repair, see :func:`klip_monai.io.read.read_volume`.
        hu_window: (low, high) HU that an 8-bit picture shows, see there.
        keep_names: name the case after its folder or file, which may name the patient.
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
        self.reading = Reading(series_uid, tuple(repair or ()), hu_window, keep_names)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Read the series."""
        d = dict(data)
        for key in self.key_iterator(d):
            start = time.perf_counter()
            d[key] = self.reading.volume(d[key])
            d[key].meta.update({name: "" for name, value in d[key].meta.items() if value is None})
            d[key].meta["read_seconds"] = time.perf_counter() - start
            d[key].meta["read_at"] = time.perf_counter()
        return d


class CheckOutputd(MapTransform):
    """Refuse scans before they are scored: their case is in the output folder already, or cannot be written.

    Args:
        keys: keys of volumes, from :class:`LoadSeriesd`.
        output_dir: folder that :class:`SaveCased` will write to.
        outputs: what it will write.
        overwrite: let cases that are there pass, to be replaced.

    Raises:
        InputError: when called, for headers that a DICOM output cannot be made from.
        OutputError: when built, if ``output_dir`` cannot be written to; when called, if a file of the case is there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        output_dir: str | Path,
        outputs: Sequence[str] = DEFAULT_OUTPUTS,
        overwrite: bool = False,
    ) -> None:
        super().__init__(keys)
        check_writable(output_dir)
        self.output_dir, self.outputs, self.overwrite = Path(output_dir), tuple(outputs), overwrite

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Look for files of the case, and at the headers of the scan."""
        d = dict(data)
        for key in self.key_iterator(d):
            if not self.overwrite:
                check_free(self.output_dir, case_files(d[key].meta["name"]))
            check_outputs(d[key], self.outputs)
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


class LoadRegiond(MapTransform):
    """Read the region to look at, and refuse one that is not the scan's before anything is scored.

    Goes after :class:`ToPriorGridd`; see :func:`klip_monai.scan.region.read_region`. Scans that come without a region
    pass as they are.

    Args:
        keys: key of the region, taken out: `FILE` or `FILE:LABELS`, a :class:`klip_monai.io.masks.roi.Roi`, or None.
        source_key: key of the scan, MetaTensor (1, X, Y, Z).
        image_key: key of its standard slices, MetaTensor (1, H, W, Z).
        body_key: key of their body mask, bool (1, H, W, Z).
        skin_px: thickness of the rim that is not scored, see :class:`klip_monai.inferer.KLIPInferer`.
        region_key: where the region goes, MetaTensor bool (1, X, Y, Z); with ``_slices`` behind it, where it goes on
            the standard slices, bool (1, H, W, Z).
        keep_names: let the file's name and the names of its segments into the meta.

    Raises:
        InputError: when called, for a region that cannot be read or is not the scan's.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        source_key: str = "source",
        image_key: str = "image",
        body_key: str = "body",
        skin_px: float = 0.0,
        region_key: str = "region",
        keep_names: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.source_key, self.image_key, self.body_key, self.skin_px = source_key, image_key, body_key, skin_px
        self.region_key, self.keep_names = region_key, keep_names

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Read the region, if there is one."""
        d = dict(data)
        for key in self.key_iterator(d):
            roi = d.pop(key)
            if roi is None:
                continue
            slices = _slices_of(d[self.image_key], d[self.body_key])
            d[self.region_key], on_slices = read_region(
                roi, d[self.source_key], slices, skin_px=self.skin_px, keep_names=self.keep_names
            )
            d[f"{self.region_key}_slices"] = _stack(on_slices)
        return d


class MakeCased(MapTransform):
    """Density of the standard slices to what was found: labels in its place, heat map, score and case beside them.

    Args:
        keys: keys of densities, MetaTensor (1, H, W, Z) or (2, H, W, Z), nats per pixel, from the scorer's inferer;
            become labels, MetaTensor uint8 (1, X, Y, Z).
        scorer: with the ID reference.
        image_key: key of the standard slices, from :class:`ToPriorGridd`.
        source_key: key of the volume that it kept.
        body_key: key of its body mask.
        region_key: key of the region that was looked at, from :class:`LoadRegiond`; need not be there.
        heatmap_key: where the heat map goes, MetaTensor float32 (1, X, Y, Z).
        case_key: where the :class:`klip_monai.scan.Case` goes.
        keep_names: whether files of the case may say whose scan it is.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        scorer: Scorer,
        image_key: str = "image",
        source_key: str = "source",
        body_key: str = "body",
        region_key: str = "region",
        heatmap_key: str = "heatmap",
        case_key: str = "case",
        keep_names: bool = False,
    ) -> None:
        super().__init__(keys)
        self.scorer, self.keep_names = scorer, keep_names
        self.image_key, self.source_key, self.body_key = image_key, source_key, body_key
        self.region_key, self.heatmap_key, self.case_key = region_key, heatmap_key, case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Make the case."""
        d = dict(data)
        volume, region = d[self.source_key], d.get(self.region_key)
        slices = _slices_of(d[self.image_key], d[self.body_key])
        on_slices = None if region is None else _unstack(d[f"{self.region_key}_slices"]).bool().cpu()
        scan = OpenedScan(volume, slices, region, on_slices, self.keep_names)
        meta = volume.meta
        for key in self.key_iterator(d):
            made = self.scorer.case(scan, _unstack(d[key]).float().cpu())
            seconds = {"read": float(meta["read_seconds"]), "score": time.perf_counter() - float(meta["read_at"])}
            case = d[self.case_key] = made.timed(**seconds)
            d[key] = _placed(case.labels.as_tensor(), case.labels.affine, meta=d[key].meta)
            d[self.heatmap_key] = case.heatmap
        return d


class SaveCased(MapTransform):
    """Write a case: the chosen outputs, summary and preview, all or nothing; see :func:`klip_monai.scan.save_case`.

    Files are ``NAME_heatmap.nii.gz`` and ``NAME_labels.nii.gz`` (output "nifti"), ``NAME_overlay.seg.nrrd``
    ("seg-nrrd"), ``NAME.mrb`` ("scene"), ``NAME_report.html`` ("report"), ``NAME_seg.dcm`` ("dicom-seg"),
    ``NAME_pm.dcm`` ("dicom-pm"), ``NAME_report.dcm`` ("dicom-pdf"), and always ``NAME_preview.png`` and
    ``NAME_summary.json``, where NAME is the ``name`` in the volume's meta. What was written, a
    :class:`klip_monai.scan.save.SavedCase`, is put under ``saved``.

    Args:
        keys: key of the case, from :class:`MakeCased`.
        output_dir: folder to write into.
        outputs: what to write, see :data:`klip_monai.scan.output_files.OUTPUTS`. The DICOM outputs need a scan read
            from DICOM files, and carry the patient module of the source.
        overwrite: replace files of the same case instead of refusing.

    Raises:
        InputError: when built, for an unknown output; when called, for a DICOM output of another format, or one that
            could not be written; all others of its case are.
        OutputError: when built, if ``output_dir`` cannot be written to; when called, if writing fails or files of the
            case are there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        output_dir: str | Path,
        outputs: Sequence[str] = DEFAULT_OUTPUTS,
        overwrite: bool = False,
    ) -> None:
        super().__init__(keys)
        check_writable(output_dir)
        file_names("", outputs)
        self.output_dir, self.outputs, self.overwrite = Path(output_dir), tuple(outputs), overwrite

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Write the case."""
        d = dict(data)
        for key in self.key_iterator(d):
            d["saved"] = save_case(d[key], self.output_dir, outputs=self.outputs, overwrite=self.overwrite)
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


def _slices_of(images: MetaTensor, body: torch.Tensor) -> StandardSlices:
    """What :class:`ToPriorGridd` made, from its stacked slices and body mask."""
    placements = [
        operation["extra_info"]["placement"]
        for operation in images.applied_operations
        if operation["class"] == ToPriorGridd.__name__
    ]
    placement: Placement = placements[-1]
    return StandardSlices(_unstack(images).float().cpu(), _unstack(body).bool().cpu(), placement)
