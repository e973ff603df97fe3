"""Sinograms of every kind of file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from klip_monai.errors import InputError
from klip_monai.io.files.sinogram import read_sinogram
from klip_monai.physics import FanBeam, ParallelBeam, Tomography, bounded_least_squares

VALUES = np.random.default_rng(0).random((5, 8)).astype(np.float32)
PARALLEL = {"kind": "parallel", "angles": [0, 10, 25, 40, 90], "pitch_mm": 1.5}
FAN = {"kind": "fan", "angles": {"start": 3, "step": -2}, "pitch_mm": 1.5, "source_mm": 300, "detector_mm": 150}
HELSINKI = {
    "angles": [30.0, 30.5, 31.0, 31.5, 32.0],
    "distanceSourceOrigin": 410.66,
    "distanceSourceDetector": 553.74,
    "effectivePixelSizePost": 0.148,
    "pixelSizePost": 0.2,
    "numDetectorsPost": 8.0,
}


def write(path: Path, values: np.ndarray, name: str = "sinogram") -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, **{name: values}, other=np.arange(3))
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {name: values, "note": "text", "other": 3.0})
    else:
        with h5py.File(path, "w") as file:
            file[f"scan/{name}"] = values
            file["scan/other"] = np.arange(3)
    return path


def matlab_73(path: Path, content: dict) -> Path:
    """HDF5 as MATLAB writes it: structs are groups, axes are reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:

        def put(group: h5py.Group, values: dict) -> None:
            for name, value in values.items():
                if isinstance(value, dict):
                    put(group.create_group(name), value)
                else:
                    group[name] = np.atleast_2d(value).T

        put(file, content)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".hdf5"])
def test_the_same_values_come_out_of_every_kind_of_file(tmp_path, suffix):
    sinogram = read_sinogram(write(tmp_path / f"my scan{suffix}", VALUES), PARALLEL)
    np.testing.assert_array_equal(sinogram.line_integrals, VALUES)
    assert sinogram.name == "my_scan"
    geometry = sinogram.geometry(image_shape=(6, 6), pixel_mm=2.0)
    assert isinstance(geometry, ParallelBeam)
    assert geometry.angles.tolist() == PARALLEL["angles"]
    assert (geometry.sinogram_shape, geometry.pitch_mm, geometry.pixel_mm) == ((5, 8), 1.5, 2.0)


def test_a_fan_beam_is_described_by_a_file_with_all_its_fields(tmp_path):
    asked = FAN | {"views": 5, "detectors": 8, "offset_mm": 0.4, "pixel_mm": 0.7, "image_shape": [6, 6], "photons": 1e4}
    (tmp_path / "geometry.json").write_text(json.dumps(asked | {"mu_window": [0, 0.1]}))
    sinogram = read_sinogram(write(tmp_path / "a.npy", VALUES), tmp_path / "geometry.json")
    geometry = sinogram.geometry(image_shape=(6, 6), pixel_mm=2.0)
    assert isinstance(geometry, FanBeam)
    assert geometry.angles.tolist() == [3, 1, -1, -3, -5]
    assert (geometry.source_mm, geometry.detector_mm, geometry.detector_offset_mm) == (300, 150, 0.4)
    assert geometry.pixel_mm == 0.7
    assert sinogram.photons == 1e4
    assert (sinogram.scale((-160, 240)).low, sinogram.scale((-160, 240)).high) == (0, 0.1)


def test_values_are_tissue_in_the_window_of_the_prior_unless_the_geometry_says_otherwise(tmp_path):
    path = write(tmp_path / "a.npy", VALUES)
    prior = read_sinogram(path, PARALLEL).scale((-160, 240))
    own = read_sinogram(path, PARALLEL | {"hu_window": [-1000, 1000], "mu_water": 0.02}).scale((-160, 240))
    assert prior.low == pytest.approx(0.0193 * 0.84)
    assert (own.low, own.high) == pytest.approx((0, 0.04))


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("struct", ["CtDataLimited", "CtDataFull"])
def test_helsinki_files_bring_their_own_geometry(tmp_path, version, struct):
    content = {struct: {"type": "2d", "sinogram": VALUES, "parameters": HELSINKI}}
    if version == "5":
        scipy.io.savemat(tmp_path / "ta.mat", content)
    else:
        del content[struct]["type"]
        matlab_73(tmp_path / "ta.mat", content)
    sinogram = read_sinogram(tmp_path / "ta.mat")
    np.testing.assert_array_equal(sinogram.line_integrals, VALUES)
    geometry = sinogram.geometry(image_shape=(6, 6), pixel_mm=3.0)
    assert isinstance(geometry, FanBeam)
    assert geometry.angles.tolist() == HELSINKI["angles"]
    assert (geometry.source_mm, geometry.pitch_mm) == (410.66, 0.2)
    assert geometry.detector_mm == pytest.approx(143.08)
    assert geometry.pixel_mm == pytest.approx(0.148 * 8 / 6)
    assert (
        read_sinogram(tmp_path / "ta.mat", {"pixel_mm": 0.3}).geometry(image_shape=(6, 6), pixel_mm=3.0).pixel_mm == 0.3
    )


def test_elements_are_averaged_without_moving_the_rays(tmp_path):
    binned = read_sinogram(write(tmp_path / "a.npy", VALUES), PARALLEL | {"photons": 100}).binned(4)
    np.testing.assert_allclose(binned.line_integrals, VALUES.reshape(5, 2, 4).mean(2))
    geometry = binned.geometry(image_shape=(6, 6), pixel_mm=2.0)
    assert (geometry.sinogram_shape, geometry.pitch_mm, binned.photons) == ((5, 2), 6.0, 400)
    with pytest.raises(InputError, match="factor: got 3, expected a divisor of 8"):
        binned = read_sinogram(tmp_path / "a.npy", PARALLEL).binned(3)


@pytest.mark.parametrize(
    ("values", "geometry", "message"),
    [
        (
            VALUES.T,
            PARALLEL | {"detectors": 8},
            r"got shape \(8, 5\), expected \(views, detectors\) = \(5, 8\); transpose",
        ),
        (VALUES[:4], PARALLEL, r"got shape \(4, 8\), expected \(views, detectors\) = \(5, 8\); the geometry must"),
        (VALUES[0], PARALLEL, "expected one array"),
        (VALUES[None], PARALLEL, "expected one array"),
        (np.where(VALUES > 0.9, np.nan, VALUES), PARALLEL, "NaN or infinite values, expected none"),
        (VALUES * 5e4, PARALLEL, "take the logarithm of counts first"),
        (VALUES - 9, PARALLEL, "expected line integrals"),
        (VALUES * 1j, PARALLEL, "got dtype complex64"),
        (VALUES, None, "geometry: a.npy does not say how it was measured"),
        (VALUES, {"angles": [0] * 5}, "geometry: got no pitch_mm"),
        (VALUES, PARALLEL | {"kind": "cone"}, "kind: got 'cone', expected one of parallel, fan"),
        (VALUES, PARALLEL | {"kind": "fan"}, "geometry: got no source_mm, detector_mm"),
        (VALUES, PARALLEL | {"source_mm": 3}, "got source_mm for kind 'parallel'"),
        (VALUES, PARALLEL | {"pitch": 3}, "got unknown fields pitch, expected some of"),
        (VALUES, PARALLEL | {"pitch_mm": "1.5"}, "pitch_mm: got '1.5', expected a finite number"),
        (VALUES, PARALLEL | {"views": 6}, "angles: got 5, expected one for each of 6 views"),
        (VALUES, PARALLEL | {"angles": {"start": 1}}, r"angles: got fields \['start'\], expected start and step"),
        (VALUES, PARALLEL | {"angles": 7}, "angles: got 7, expected a list of degrees"),
        (VALUES, PARALLEL | {"angles": [0, 1, 2, 3, None]}, r"angles\[4\]: got None"),
        (VALUES, PARALLEL | {"mu_window": 3}, "mu_window: got 3, expected a list of two numbers"),
        (VALUES, PARALLEL | {"pixel_mm": 0}, "pixel_mm: got 0, expected a number above 0"),
        (VALUES, PARALLEL | {"dataset": "b"}, "dataset: got 'b', expected one of sinogram in a.npy"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, values, geometry, message):
    with pytest.raises(InputError, match=message) as caught:
        read_sinogram(write(tmp_path / "a.npy", values), geometry)
    assert "\n" not in str(caught.value)


def test_one_of_several_arrays_is_chosen_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", one=VALUES, two=VALUES + 1)
    with pytest.raises(InputError, match=r"one \(5, 8\), two \(5, 8\), expected one array"):
        read_sinogram(tmp_path / "a.npz", PARALLEL)
    assert read_sinogram(tmp_path / "a.npz", PARALLEL | {"dataset": "two"}).line_integrals.min() >= 1


def test_files_that_cannot_be_read_are_refused(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for suffix in (".npy", ".npz", ".mat", ".h5"):
        (tmp_path / f"noise{suffix}").write_bytes(b"no such thing" * 30)
    (tmp_path / "cut.mat").write_bytes(write(tmp_path / "whole.mat", VALUES).read_bytes()[:-50])
    for name in ("pickled.npy", "noise.npy", "noise.npz", "noise.mat", "noise.h5", "cut.mat"):
        with pytest.raises(InputError, match=f"sinogram: got {name}, which cannot be read"):
            read_sinogram(tmp_path / name, PARALLEL)
    with pytest.raises(InputError, match="which is no file"):
        read_sinogram(tmp_path / "none.npy", PARALLEL)
    with pytest.raises(InputError, match=r"expected a file ending in \.npy"):
        read_sinogram(tmp_path / "scan.tif", PARALLEL)
    (tmp_path / "geometry.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_sinogram(tmp_path / "whole.mat", tmp_path / "geometry.json")


def test_another_grid_than_the_priors_is_refused(tmp_path):
    sinogram = read_sinogram(write(tmp_path / "a.npy", VALUES), PARALLEL | {"image_shape": [64, 64]})
    with pytest.raises(InputError, match=r"image_shape: got \[64, 64\] in the geometry, expected \[6, 6\]"):
        sinogram.geometry(image_shape=(6, 6), pixel_mm=1.0)


@pytest.fixture
def laboratory(shared_data) -> Path:
    folder = shared_data / "sinograms"
    if not folder.is_dir():
        pytest.skip(f"laboratory sinograms are not at {folder}")
    return folder


def least_squares(parts, *, side: int, angle_sign: int = 1, detector_sign: int = 1):
    """Least-squares attenuation of a slice seen by several sinograms, and what it leaves unexplained."""
    lines = np.concatenate([part.line_integrals[::4, ::detector_sign] for part in parts])
    geometry = parts[0].geometry(image_shape=(side, side), pixel_mm=1.0)
    angles = np.concatenate([np.asarray(part.acquisition["view_angles"])[::4] for part in parts])
    options = dict(parts[0].acquisition) | {"view_angles": tuple(angle_sign * angles)}
    operator = Tomography(FanBeam(image_shape=(side, side), pixel_mm=geometry.pixel_mm, **options))
    y = torch.from_numpy(np.ascontiguousarray(lines))[None, None] * operator.scale
    x = bounded_least_squares(operator.A, operator.A_adjoint, y, low=0.0, iterations=60)
    return x[0, 0].numpy(), geometry.pixel_mm, float((operator.A(x) - y).norm() / y.norm())


def test_laboratory_sinograms_of_two_arcs_show_the_disc(laboratory):
    parts = [read_sinogram(laboratory / f"tb_subsample_{n}.mat").binned(8) for n in (60, 90)]
    image, pixel_mm, misfit = least_squares(parts, side=64)
    assert misfit < 0.02
    rows, columns = (np.arange(64) - 31.5) * pixel_mm, (np.arange(64) - 31.5) * pixel_mm
    middle = (rows @ image.sum(1) / image.sum(), columns @ image.sum(0) / image.sum())
    distance = np.hypot(rows[:, None] - middle[0], columns[None] - middle[1])
    assert np.hypot(*middle) < 8
    assert image[distance < 37].sum() > 0.93 * image.sum()  # the disc has a diameter of 70 mm
    ring = (distance > 31) & (distance < 33)
    assert 0.02 < np.median(image[ring]) < 0.06


def test_only_the_right_direction_of_angles_and_detector_explains_laboratory_sinograms(laboratory):
    # Opposite arcs see the same lines; a scanner that turned the other way would contradict itself.
    parts = [read_sinogram(laboratory / f"tb_subsample_{n}.mat").binned(8) for n in (60, 90)]
    right = least_squares(parts, side=64)[2]
    for angle_sign, detector_sign in ((-1, 1), (1, -1)):
        assert least_squares(parts, side=64, angle_sign=angle_sign, detector_sign=detector_sign)[2] > 2 * right
