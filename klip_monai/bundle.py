"""Bundles: finding them, what a score depends on, and running their configurations through MONAI.

Finding them imports neither PyTorch nor MONAI, so that a misspelt name costs no time.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klip_monai.errors import BundleError, InputError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

    from klip_monai.inferer import KLIPInferer
    from klip_monai.report.summary import Provenance
    from klip_monai.scoring import IDReference
    from klip_monai.standard import PriorGrid

DEFAULT_BUNDLE = "klip_ct_abdomen"
_INFERER = "inferer#"
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class BundleInfo:
    """A bundle found on disk: ``name``, ``version``, ``root`` folder, one-line ``description`` and ``intended_use``."""

    name: str
    version: str
    root: Path
    description: str
    intended_use: str


def shipped_bundles() -> list[BundleInfo]:
    """Bundles that came with the package, or that lie beside it in a source checkout, by name."""
    folders = [_HERE / "bundles", _HERE.parent / "bundles"]
    roots = next(
        (sorted(p.parent.parent for p in f.glob("*/configs/metadata.json")) for f in folders if f.is_dir()), []
    )
    return [bundle_info(root) for root in roots]


def bundle_info(root: Path) -> BundleInfo:
    """Read a bundle's metadata.

    Raises:
        BundleError: if ``root`` is not a bundle.
    """
    path = root / "configs" / "metadata.json"
    try:
        content = json.loads(path.read_text())
        words = (str(content[key]) for key in ("description", "intended_use"))
        return BundleInfo(root.name, str(content["version"]), root.resolve(), *words)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"bundle {root}: no readable configs/metadata.json ({error}); give the folder of a MONAI bundle"
        ) from error


def find_bundle(name_or_path: str) -> BundleInfo:
    """A shipped bundle by name, or any bundle by its folder.

    Raises:
        BundleError: if there is none, listing those that are shipped.
    """
    shipped = {info.name: info for info in shipped_bundles()}
    if name_or_path in shipped:
        return shipped[name_or_path]
    if Path(name_or_path).is_dir():
        return bundle_info(Path(name_or_path))
    raise BundleError(
        f"bundle: got {name_or_path!r}, expected a bundle's folder or one of {', '.join(shipped) or '(none shipped)'}"
    )


def scoring_settings(weights: str | Path, grid: PriorGrid, inferer: KLIPInferer) -> dict[str, Any]:
    """Everything a score depends on, JSON-able: weights hash, slice format, operator, sampler and window."""
    from klip_monai.prior import weights_hash

    return {"weights_sha256": weights_hash(weights), "grid": grid.describe(), **inferer.describe()}


def find_reference(folder: str | Path, settings: Mapping[str, Any]) -> IDReference:
    """The ID reference in ``folder`` (one JSON file each) that was made with exactly these settings.

    Raises:
        BundleError: if none was; thresholds of other settings mean nothing for these.
    """
    from klip_monai.scoring import IDReference, settings_key

    paths = sorted(Path(folder).glob("*.json"))
    for path in paths:
        if IDReference.load(path, scores_only=True).matches(settings):
            return IDReference.load(path)
    raise BundleError(
        f"ID reference: none of the {len(paths)} in {Path(folder).name}/ was made with these settings (key "
        f"{settings_key(settings)}: other weights, operator, estimator, null or window); use the bundle's defaults, or "
        "make one with `klip-monai calibrate` and the same options"
    )


def open_workflow(bundle: BundleInfo, config: str | list[str], *, kind: str, **overrides: Any) -> ConfigWorkflow:
    """Load one of the bundle's configurations as a MONAI workflow.

    Args:
        bundle: the bundle.
        config: file name(s) in its configs folder; later ones override earlier ones.
        kind: MONAI's workflow type, "inference" or "train".
        **overrides: values by config id.

    Of the overrides, those of ``inferer#`` have its settings' plain names (:data:`klip_monai.settings.SETTINGS`), and
    ``precision`` is that of the network, see :mod:`klip_monai.prior.precision`; without it a network
    that has a choice takes the faster one on its device, whatever the configuration says.

    Raises:
        BundleError: if the bundle has no such configuration, or none of the preset or precision that is asked for.
        InputError: for a CUDA device where there is none.
    """
    precision = overrides.pop("precision", None)
    of_inferer = {key: overrides.pop(key) for key in list(overrides) if key.startswith(_INFERER)}
    files = [str(bundle.root / "configs" / name) for name in ([config] if isinstance(config, str) else config)]
    missing = [name for name in files if not Path(name).is_file()]
    if missing:
        raise BundleError(f"bundle {bundle.name}: {Path(missing[0]).name} is missing from its configs folder")
    _check_device(str(overrides.get("device", "")))
    from monai.bundle import ConfigWorkflow

    with _without_warnings("monai.bundle.workflows"):  # that there is no logging file, which was asked for
        workflow = ConfigWorkflow(
            config_file=files,
            meta_file=str(bundle.root / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type=kind,
            bundle_root=_literal(str(bundle.root)),
            **overrides,
        )
    for name, value in of_inferer.items():
        _set_inferer(name.removeprefix(_INFERER), value, workflow.parser)
    _check_preset(bundle, workflow.parser, overrides.get("preset"))
    _set_precision(bundle, workflow.parser, precision)
    return workflow


def _literal(text: str) -> str:
    """A configuration's value for a text that MONAI's parser must read nothing into, as into the # or @ of a path."""
    return f"$bytes.fromhex('{os.fsencode(text).hex()}').decode('utf-8', 'surrogateescape')"


def _check_device(device: str) -> None:
    if "cuda" not in device:
        return
    import torch

    if not torch.cuda.is_available():
        raise InputError("device: got cuda, expected cpu or auto, as PyTorch finds no CUDA device here")


@contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Keep a logger from warning."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _set_inferer(name: str, value: Any, parser: ConfigParser) -> None:
    """Set a setting of the inferer by its plain name; in an earlier build's bundle that was its place, too."""
    from klip_monai.settings import GROUPS

    if "measured" in parser["inferer"]:
        if name == "noise_std":
            name, value = "noise", {"_target_": "klip_monai.physics.GaussianNoise", "std": value}
        if name in GROUPS:
            name = f"{GROUPS[name]}#{name}"
    parser[f"{_INFERER}{name}"] = value


def _check_preset(bundle: BundleInfo, parser: ConfigParser, preset: str | None) -> None:
    presets = parser.get("presets", {})
    if preset is not None and preset not in presets:
        expected = f"one of {', '.join(presets)}" if presets else "none, as it has no presets"
        raise BundleError(f"preset: got {preset!r} with the bundle {bundle.name}, expected {expected}")


def _set_precision(bundle: BundleInfo, parser: ConfigParser, precision: str | None) -> None:
    having = [key for key in ("network_def", "network_def#unet") if "precision" in (parser.get(key) or {})]
    for key in having:
        parser[f"{key}#precision"] = precision or "auto"
    if not having and precision == "bfloat16":
        raise BundleError(f"precision: got 'bfloat16' with the bundle {bundle.name}, whose network has float32 only")


def provenance(
    root: str | Path,
    settings: Mapping[str, Any],
    *,
    seed: int,
    device: Any,
    network: object = None,
    preset: str | None = None,
) -> Provenance:
    """How scores were made, for the summary.

    Args:
        root: folder of the bundle.
        settings: everything that the scores depend on, but for rounding; JSON-able.
        seed: of all noise.
        device: where they were made.
        network: what made them; its precision is noted.
        preset: name of the bundle's settings.
    """
    from klip_monai.prior.precision import precision_of
    from klip_monai.report.summary import Provenance
    from klip_monai.scoring import settings_key

    info = bundle_info(Path(root).resolve())
    return Provenance(
        bundle=info.name,
        bundle_version=info.version,
        intended_use=info.intended_use,
        key=settings_key(settings),
        settings=dict(settings),
        seed=seed,
        preset=preset,
        device=str(device),
        precision=precision_of(network, device),
    )
