"""A study file is read, run, kept, written and searched as a user would."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.errors import InputError
from klip_monai.evaluation import Readings, metrics, read_study, scored, study_file, tune
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import FinerGrid, PoissonNoise
from klip_monai.sampling import PredictorCorrector

STUDY = {
    "title": "Tiny",
    "bundle": "klip_ct_phantom",
    "configs": ["inference.json", "small_inference.json"],
    "slices": {"phantoms": 3, "seed": 600_000},
    "calibration": {"phantoms": 3, "seed": 650_000},
    "anomalies": {"stars": {"radius_mm": [20, 30]}},
    "rows": {
        "fast": {"window_levels": 4, "sampler_levels": 3, "readings": "ablation"},
        "paper": {
            "sampler": {"name": "predictor_corrector", "levels": 6},
            "estimator": "trajectory",
            "window": None,
            "samples": 2,
        },
        "mismatch": {"data": {"kernel": "strip", "finer": 2, "photons": 1e5}, "window_levels": 2, "sampler_levels": 3},
        "ELBO": {"method": "negative_elbo", "levels": 4},
        "NLL": {"method": "pf_ode_nll", "levels": 3},
        "position": {"method": "position_z_score"},
    },
    "grid": {"edges": 4, "lowpass_px": [0, 1], "smoothing_px": [1.5]},
}


@pytest.fixture(scope="module", autouse=True)
def quick_to_repeat():
    """Phantoms are rendered once for all tests, and intervals, which none of them looks at, are rough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 50)
        patch.setattr(study_file, "study_slices", cache(study_file.study_slices))
        yield


def write(folder: Path, **changes: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a study that the command line ran."""
    folder = tmp_path_factory.mktemp("study")
    result = CliRunner().invoke(app, ["evaluate", str(write(folder)), "-o", str(folder / "out"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "fast: KLIP, calibrated" in result.output
    return folder


def rows_of(folder: Path) -> dict[tuple[str, bool], dict]:
    content = json.loads((folder / "out" / "study.json").read_text())
    return {(row["name"], row["calibrated"]): row for row in content["studies"]["stars"]["rows"]}


def test_every_row_has_its_figures_and_its_cost(done):
    rows = rows_of(done)
    names = {name for name, _ in rows}
    readings = {"fast: D_KL", "fast: spatial", "fast: temporal", "fast: KLIP"}
    assert names == readings | {"paper", "mismatch", "ELBO", "NLL", "position"}
    assert rows["fast: KLIP", False]["passes"] == 7
    assert rows["paper", False]["passes"] == 2 * 11
    assert rows["NLL", False]["image_level"] is None, "it does not localise"
    for row in rows.values():
        assert 0 <= row["slice_level"]["value"] <= 1
        assert row["seconds"] > 0
    assert rows["fast: KLIP", False]["image_level"]["value"] > 0.7, "a big bright star"


def test_a_page_with_its_pictures_is_written(done):
    text = (done / "out" / "study.md").read_text()
    for picture in ("density.png", "roc_stars.png", "maps_stars.png"):
        assert f"]({picture})" in text
        assert (done / "out" / picture).read_bytes().startswith(b"\x89PNG")
    assert "| fast: KLIP, calibrated |" in text


def test_what_was_scored_is_not_scored_again_and_a_changed_row_is(done, monkeypatch):
    calls: list[str] = []
    inner = scored._runner

    def spy(method, network):
        run = inner(method, network)

        def counted(batch):
            calls.append(type(method).__name__)
            return run(batch)

        return counted

    monkeypatch.setattr(scored, "_runner", spy)
    before = rows_of(done)
    rows = {**STUDY["rows"], "ELBO": {"method": "negative_elbo", "levels": 5}}
    changed = write(done, rows=rows)
    assert CliRunner().invoke(app, ["evaluate", str(changed), "-o", str(done / "out")]).exit_code == 0
    assert calls == ["NegativeELBO"]
    after = rows_of(done)
    assert before["fast: KLIP", True]["slice_level"] == after["fast: KLIP", True]["slice_level"]


def test_tuning_finds_a_setting_and_writes_it_as_an_overlay_of_the_bundle(done):
    result = CliRunner().invoke(app, ["tune", str(write(done)), "-o", str(done / "tuned"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    content = json.loads((done / "tuned" / "tuning.json").read_text())
    settings = content["settings"]
    # 3 bins make 6 windows; 2 low-passes, 1 smoothing, 3 strengths of calibration; 3 rows of the method klip.
    assert len(settings) == 6 * 2 * 3 * 3
    assert [s["mean"] for s in settings] == sorted((s["mean"] for s in settings), reverse=True)
    overlay = json.loads((done / "tuned" / "tuned.json").read_text())
    assert overlay["inferer#estimation#window"] == settings[0]["window"]
    assert "| fast |" in (done / "tuned" / "tuning.md").read_text()


@pytest.mark.parametrize(("sharp", "skin_px"), [(False, 0), (True, 0), (True, 3)])
def test_a_window_s_figures_are_those_of_a_row_that_has_it_alone(tmp_path, sharp, skin_px):
    alone = {"KLIP": {"window": [3.0, 0.02], "window_levels": 6, "sampler_levels": 3, "smoothing_px": 1.5}}
    grid = {
        "edges": [3.0, 0.3, 0.02],
        "lowpass_px": [1.0],
        "calibration": [0, 0.75],
        "sharp": [False, True],
        "skin_px": [0, 3],
    }
    study = read_study(write(tmp_path, rows=alone, grid=grid), device="cpu")
    how = ((3.0, 0.02), 1.5, 0.75 if sharp else 0, sharp, skin_px)
    whole = next(s for s in tune(study) if (s.window, s.smoothing_px, s.calibration, s.sharp, s.skin_px) == how)
    out = tmp_path / "out"
    changed = {"lowpass_px": 1.0, "calibration": 0.75, "sharp": sharp, "skin_px": skin_px}
    path = write(tmp_path, rows={"KLIP": {**alone["KLIP"], **changed}})
    assert CliRunner().invoke(app, ["evaluate", str(path), "-o", str(out), "--device", "cpu"]).exit_code == 0
    row = rows_of(tmp_path)["KLIP", sharp]
    assert whole.image_level["stars"] == pytest.approx(row["image_level"]["value"], abs=1e-6)
    assert whole.slice_level["stars"] == pytest.approx(row["slice_level"]["value"], abs=1e-6)


def test_rows_become_what_they_say(tmp_path):
    study = read_study(write(tmp_path), device="cpu")
    fast, paper, mismatch = (study.rows[name].method for name in ("fast", "paper", "mismatch"))
    assert isinstance(fast, Readings)
    assert isinstance(paper, KLIPInferer)
    assert paper.sampling.sampler == PredictorCorrector(levels=6)
    assert isinstance(mismatch, KLIPInferer)
    assert isinstance(mismatch.measured.data_operator, FinerGrid)
    assert isinstance(mismatch.measured.noise, PoissonNoise)
    assert fast.readings["KLIP"].window == (3.0, 0.25), "that of the configuration"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"a": {"method": "klop"}}}, "rows: a: got method 'klop', expected klip or one of denoising_error"),
        ({"rows": {"a": {"windows": [1, 2]}}}, r"rows: a: got windows, expected any of operator, noise, data_operator"),
        ({"rows": {"a": {"sampler": "dpm"}}}, "rows: a: got sampler 'dpm', expected one of predictor_corrector"),
        ({"rows": {"a": {"method": "msma", "readings": "ablation"}}}, "got readings, which only the method klip has"),
        ({"rows": {"a": {"data": {"photon": 3}}}}, "rows: a: data: got photon, expected any of kernel, finer, photons"),
        ({"anomalies": {"comets": {}}}, "anomalies: got 'comets', expected one of stars"),
        ({"anomalies": {"stars": {"size": 3}}}, "anomalies: stars: got size, expected any of radius_mm, value_hu"),
        ({"slices": {}}, "slices: got {}, expected phantoms: their number, or slice_set: a folder"),
        ({"typo": 1}, "study: got typo, expected any of title, bundle"),
        ({"rows": {}}, "among them rows: at least one method by name"),
        ({"rows": {"a": {"readings": "all"}}}, "got readings 'all', expected own, ablation, or settings by name"),
    ],
)
def test_what_there_is_not_is_refused_naming_what_there_is(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_study(write(tmp_path, **changes), device="cpu")


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("rows: [1, 2")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        read_study(tmp_path / "study.yaml")


def test_a_patient_on_both_sides_is_refused(tmp_path):
    same = {"phantoms": 2, "seed": 600_000}
    study = write(tmp_path, slices=same, calibration=same)
    result = CliRunner().invoke(app, ["evaluate", str(study), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert result.exit_code != 0
    assert "got 2 patients of the study itself" in str(result.exception)


def test_the_study_in_the_readme_is_one_of_under_25_lines(tmp_path):
    readme = (Path(__file__).parents[2] / "klip_monai" / "evaluation" / "README.md").read_text()
    text = readme.split("```yaml\n")[1].split("```")[0]
    assert len(text.splitlines()) < 25
    (tmp_path / "study.yaml").write_text(text)
    study = read_study(tmp_path / "study.yaml", device="cpu")
    assert len(study.rows) == 5
    with pytest.raises(InputError, match=r"no readable manifest\.csv"):
        study.healthy()
