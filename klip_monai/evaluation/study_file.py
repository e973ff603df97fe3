"""A study as a YAML file: which prior, which slices, which anomalies, which methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from klip_monai import __version__
from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle, open_workflow
from klip_monai.errors import InputError
from klip_monai.evaluation.anomalies import ANOMALIES
from klip_monai.evaluation.anomaly_study import healthy_slices
from klip_monai.evaluation.baselines import BASELINES
from klip_monai.evaluation.method import Entry, Method
from klip_monai.evaluation.phantom_study import study_slices
from klip_monai.evaluation.reading import Reading, Readings, ablation
from klip_monai.evaluation.slice_study import StudySlices
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import AttenuationScale, FinerGrid, PoissonNoise, Tomography
from klip_monai.prior import weights_hash
from klip_monai.sampling import SAMPLERS
from klip_monai.settings import SETTINGS
from klip_monai.standard import PriorGrid
from klip_monai.training import SliceSet

_STUDY = ("title", "bundle", "configs", "slices", "calibration", "anomalies", "measurement", "rows", "grid", "seed")
_ROW = ("method", "bundle", "configs", "measurement", "data", "sampler", "readings")
_SLICES = ("phantoms", "slice_set", "split", "stride", "seed", "clipped")
_DATA = ("kernel", "finer", "photons")
_UNEVEN_CG_ITERATIONS = 20  # photon noise differs from ray to ray; the 5 that do for white noise leave y half used


@dataclass(frozen=True)
class Study:
    """A study, read and ready to run.

    Attributes:
        title: its heading.
        healthy: healthy slices.
        calibration: healthy slices of other patients.
        makers: anomalies by name.
        rows: methods by name.
        grid: the slice format.
        smoothing_px: of maps that bring no smoothing of their own: the bundle's, pixels.
        device: where to score.
        seed: of the anomalies.
        search: the ``grid`` section, for tuning.
        provenance: the file's content, the version, and the weights' hash by row, JSON-able.
    """

    title: str
    healthy: Callable[[], StudySlices]
    calibration: Callable[[], StudySlices]
    makers: Mapping[str, Callable[..., Any]]
    rows: Mapping[str, Entry]
    grid: PriorGrid
    smoothing_px: float
    device: Any
    seed: int
    search: Mapping[str, Any]
    provenance: Mapping[str, Any]


def read_study(path: str | Path, *, device: str | None = None) -> Study:
    """Read a study and build what it names.

    Args:
        path: YAML file.
        device: overrides the bundle's device ("cpu" or "cuda").

    Raises:
        InputError: if the file cannot be read, or names a key, method, anomaly or setting that there is not; the
            message tells which there are.
        BundleError: for a bundle or a configuration that there is not.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"study {path}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), dict) or not content["rows"]:
        raise InputError(f"study {path}: expected keys and values, among them rows: at least one method by name")
    _known("study", content, _STUDY)
    home = path.parent
    base = _Base(content, device)
    parser = base.open(content)
    grid = parser["grid"]
    rows = {str(name): base.entry(str(name), row or {}) for name, row in content["rows"].items()}
    sides = [
        _slices(name, content.get(name) or {}, grid, home, default)
        for name, default in (("slices", 500_000), ("calibration", 550_000))
    ]
    return Study(
        title=str(content.get("title", path.stem)),
        healthy=sides[0],
        calibration=sides[1],
        makers={str(name): _anomaly(str(name), options) for name, options in (content.get("anomalies") or {}).items()},
        rows=rows,
        grid=grid,
        smoothing_px=parser["inferer"].reading.smoothing_px,
        device=parser["device"],
        seed=int(content.get("seed", 0)),
        search=content.get("grid") or {},
        provenance={"version": __version__, "study": content, "weights_sha256": _hashes(rows)},
    )


def _hashes(rows: Mapping[str, Entry]) -> dict[str, str]:
    return {name: weights_hash(row.network) for name, row in rows.items() if isinstance(row.network, nn.Module)}


class _Base:
    """Opens bundles with what a study, and then a row, ask for."""

    def __init__(self, content: Mapping[str, Any], device: str | None) -> None:
        self.content, self.device = content, device
        self._open: dict[str, dict[str, Any]] = {}

    def open(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Network, inferer, its settings, operator, grid and device of a row's bundle; each opened once."""
        own = row is not self.content
        bundle = str(row.get("bundle") or self.content.get("bundle") or DEFAULT_BUNDLE)
        configs = list(self.content.get("configs") or ["inference.json"])
        configs += list(row.get("configs") or []) if own else []
        measurement = (self.content.get("measurement") or {}) | ((row.get("measurement") or {}) if own else {})
        overrides = {f"operator#{name}": value for name, value in measurement.items()}
        if self.device is not None:
            overrides["device"] = f"$torch.device('{self.device}')"
        key = repr((bundle, configs, sorted(overrides.items())))
        if key not in self._open:
            workflow = open_workflow(find_bundle(bundle), configs, kind="inference", **overrides)
            workflow.initialize()
            names = ("network", "operator", "grid", "inferer", "device")
            self._open[key] = {name: workflow.parser.get_parsed_content(name) for name in names}
        return self._open[key]

    def entry(self, name: str, row: Mapping[str, Any]) -> Entry:
        """A row's method and prior."""
        where = f"rows: {name}"
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: got {row!r}, expected settings by name, or nothing")
        parts = self.open(row)
        settings = {key: value for key, value in row.items() if key not in _ROW}
        method = str(row.get("method", "klip"))
        if method == "klip":
            made: Method | Readings = _klip(where, row, settings, parts)
        elif method in BASELINES:
            given = {key for key in ("data", "sampler", "readings") if key in row}
            if given:
                raise InputError(f"{where}: got {', '.join(sorted(given))}, which only the method klip has")
            if "operator" in inspect.signature(BASELINES[method]).parameters:
                settings["operator"] = parts["operator"]
            made = _make(where, BASELINES[method], settings)
        else:
            raise InputError(f"{where}: got method {method!r}, expected klip or one of {', '.join(BASELINES)}")
        return Entry(made, parts["network"])


def _klip(
    where: str, row: Mapping[str, Any], settings: Mapping[str, Any], parts: Mapping[str, Any]
) -> KLIPInferer | Readings:
    bundle: KLIPInferer = parts["inferer"]
    changed = dict(settings)
    if "sampler" in row:
        options = dict(row["sampler"]) if isinstance(row["sampler"], Mapping) else {"name": row["sampler"]}
        sampler = str(options.pop("name", None))
        if sampler not in SAMPLERS:
            raise InputError(f"{where}: got sampler {sampler!r}, expected one of {', '.join(SAMPLERS)}")
        changed["sampler"] = _make(f"{where}: sampler", SAMPLERS[sampler], options)
    changed = _mismatch(where, row.get("data") or {}, parts) | changed
    inferer = _make(where, bundle.changed, changed, known=("operator", *SETTINGS, "batch_size", "seed"))
    readings = row.get("readings", "own")
    if readings == "own":
        return inferer
    if readings == "ablation":
        window, own = bundle.estimation.range, bundle.reading
        return Readings(
            inferer, ablation((window.high, window.low), lowpass_px=own.lowpass_px, smoothing_px=own.smoothing_px)
        )
    if not isinstance(readings, Mapping):
        raise InputError(f"{where}: got readings {readings!r}, expected own, ablation, or settings by name")
    made = {}
    for name, options in readings.items():
        options = dict(options or {})
        if options.get("window") is not None:
            options["window"] = tuple(map(float, options["window"]))
        made[str(name)] = _make(f"{where}: readings: {name}", Reading, options)
    return Readings(inferer, made)


def _mismatch(where: str, data: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """How the data are made otherwise than they are reconstructed."""
    _known(f"{where}: data", data, _DATA)
    changed: dict[str, Any] = {}
    operator, grid = parts["operator"], parts["grid"]
    if data and not isinstance(operator, Tomography):
        raise InputError(f"{where}: data: got a mismatch for {operator}, expected a tomographic measurement")
    finer, kernel = int(data.get("finer", 1)), data.get("kernel")
    if finer > 1:
        changed["data_operator"] = FinerGrid(operator.geometry, factor=finer, kernel=kernel)
    elif kernel is not None:
        changed["data_operator"] = Tomography(operator.geometry, kernel=kernel)
    if "photons" in data:
        changed["noise"] = PoissonNoise(float(data["photons"]), AttenuationScale.from_hu(grid.hu_window))
        changed["cg_iterations"] = _UNEVEN_CG_ITERATIONS
    return changed


def _anomaly(name: str, options: Mapping[str, Any] | None) -> Callable[..., Any]:
    """An anomaly by name; a name such as "faint tumours" takes its kind from the settings."""
    settings = dict(options or {})
    kind = str(settings.pop("kind", name))
    if kind not in ANOMALIES:
        raise InputError(f"anomalies: got {kind!r}, expected one of {', '.join(ANOMALIES)}")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    made: Callable[..., Any] = _make(f"anomalies: {name}", ANOMALIES[kind], settings)
    return made


def _slices(name: str, options: Mapping[str, Any], grid: PriorGrid, home: Path, seed: int) -> Callable[[], StudySlices]:
    """A source of healthy slices; phantoms are rendered, and slice sets read, when it is called."""
    _known(name, options, _SLICES)
    if ("phantoms" in options) == ("slice_set" in options):
        raise InputError(f"{name}: got {dict(options)}, expected phantoms: their number, or slice_set: a folder")
    if "phantoms" in options:
        first = int(options.get("seed", seed))
        return lambda: study_slices(int(options["phantoms"]), grid, seed=first, lesion=False)
    split = options.get("split", "test" if name == "slices" else "reference")
    folder = home / str(options["slice_set"])

    def read() -> StudySlices:
        data = SliceSet(folder, split=split, grid=grid, clipped=bool(options.get("clipped", False)))
        return healthy_slices(data, stride=int(options.get("stride", 1)))

    return read


def _make(where: str, maker: Callable[..., Any], settings: Mapping[str, Any], known: Iterable[str] = ()) -> Any:
    """Call a maker with settings, and say which it has where one is unknown or impossible."""
    names = [n for n in (list(known) or list(inspect.signature(maker).parameters)) if n not in ("self", "progress")]
    _known(where, settings, names)
    try:
        return maker(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _known(where: str, given: Iterable[str], known: Sequence[str]) -> None:
    unknown = sorted(str(key) for key in given if key not in known)
    if unknown:
        raise InputError(f"{where}: got {', '.join(unknown)}, expected any of {', '.join(known)}")
