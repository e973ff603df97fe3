"""`--roi` from the command line: one scan, an archive, and the bundle run by MONAI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import klip_monai
from mask_files import draw, in_box, write_nifti, write_seg_nrrd
from monai.bundle import ConfigWorkflow
from screen_runs import screen, tiny_scan
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.errors import InputError
from klip_monai.io.masks.roi import Roi
from klip_monai.screening.entry import State
from klip_monai.screening.ledger import FILE_NAME, Ledger
from klip_monai.screening.masks import NO_MASK, mask_hash

BOX = ((-60.0, 40.0), (-50.0, 50.0), (10.0, 30.0))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Two scans."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(2):
        nib.save(tiny_scan(number), folder / f"Smith_{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def names(scans, quick_bundle, tmp_path_factory) -> list[str]:
    """What the archive's scans are called."""
    output = tmp_path_factory.mktemp("names")
    key = output / "key.csv"
    assert screen(scans, output, quick_bundle, "--dry-run", "--key-file", key).exit_code == 0
    return sorted(line.split(",")[0] for line in key.read_text().splitlines()[1:])


@pytest.fixture
def masks(names, tmp_path) -> Path:
    """A mask for the first of them alone."""
    folder = tmp_path / "masks"
    folder.mkdir()
    write_nifti(folder / f"{names[0]}.nii.gz", draw((5, 5, 5), box=BOX, value=5))
    return folder


def states(output: Path) -> dict[str, tuple[State, str]]:
    with Ledger(output / FILE_NAME) as ledger:
        return {entry.name: (entry.state, entry.group) for entry in ledger.entries()}


def test_scans_are_scored_in_their_region_and_refused_without_one(scans, names, masks, quick_bundle, tmp_path):
    output = tmp_path / "out"
    assert screen(scans, output, quick_bundle, "--roi", f"{masks}:5").exit_code == 3
    assert states(output) == {names[0]: (State.scored, ""), names[1]: (State.refused, "no mask of the region")}
    with Ledger(output / FILE_NAME) as ledger:
        assert ledger.settings()["roi"] == "5"
        (refused,) = (entry for entry in ledger.entries() if entry.state is State.refused)
    assert refused.reason.startswith("--roi: got no mask for ")
    assert str(masks) not in refused.reason
    (summary,) = output.glob(f"cases/*/{names[0]}/*_summary.json")
    content = json.loads(summary.read_text())
    assert content["region"]["labels"] == [5]
    assert all(low < mm < high for mm, (low, high) in zip(content["worst"]["ras_mm"], BOX, strict=True))
    highest = max(content["slice_scores"])  # on the scan's grid, where the map is interpolated
    assert highest <= content["scan_score"] < 1.2 * highest
    assert any("p is too large" in remark for remark in content["remarks"])


def test_a_mask_that_comes_later_is_taken_up_on_retry(scans, names, masks, quick_bundle, tmp_path):
    output = tmp_path / "out"
    screen(scans, output, quick_bundle, "--roi", masks)
    write_seg_nrrd(
        masks / f"{names[1]}.seg.nrrd", *as_segment(draw((5, 5, 5), box=BOX)), segments=[("Liver", 1, 0)]
    )  # fmt: skip
    assert screen(scans, output, quick_bundle, "--roi", masks, "--retry").exit_code == 0
    assert {state for state, _ in states(output).values()} == {State.scored}


def as_segment(drawn) -> tuple[list[np.ndarray], np.ndarray]:
    return [drawn.values], drawn.affine


def scores(output: Path) -> dict[str, float | None]:
    with Ledger(output / FILE_NAME) as ledger:
        return {entry.name: entry.scan_score for entry in ledger.entries()}


def test_a_mask_that_is_edited_elsewhere_or_gone_is_noticed(scans, names, masks, quick_bundle, tmp_path):
    write_nifti(masks / f"{names[1]}.nii.gz", draw((5, 5, 5), box=BOX, value=5))
    output, roi = tmp_path / "out", ("--roi", masks)
    assert screen(scans, output, quick_bundle, *roi).exit_code == 0
    first = scores(output)
    with Ledger(output / FILE_NAME) as ledger:
        before = list(ledger.entries())
    assert screen(scans, output, quick_bundle, *roi).exit_code == 0
    with Ledger(output / FILE_NAME) as ledger:
        assert list(ledger.entries()) == before  # times, too

    other = ((-10.0, 20.0), (-30.0, 0.0), (10.0, 30.0))
    write_nifti(masks / f"{names[0]}.nii.gz", draw((5, 5, 5), box=other, value=5))
    assert "1 series" in screen(scans, output, quick_bundle, *roi, "--dry-run").output.splitlines()[0]
    assert screen(scans, output, quick_bundle, *roi).exit_code == 0
    edited = scores(output)
    assert edited[names[0]] != first[names[0]]
    assert edited[names[1]] == first[names[1]]

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(masks, elsewhere)
    shutil.copy(masks / f"{names[0]}.nii.gz", elsewhere / f"{names[1]}.nii.gz")
    (elsewhere / f"{names[0]}.nii.gz").unlink()
    assert screen(scans, output, quick_bundle, "--roi", elsewhere).exit_code == 3
    assert states(output)[names[0]] == (State.refused, "no mask of the region")
    assert scores(output)[names[1]] not in (None, first[names[1]])
    shutil.copy(masks / f"{names[0]}.nii.gz", elsewhere)
    assert screen(scans, output, quick_bundle, "--roi", elsewhere, "--retry").exit_code == 0
    assert scores(output)[names[0]] == edited[names[0]]


def test_the_hash_of_a_mask_is_of_its_data_files_too(tmp_path):
    header, masks = tmp_path / "ct-a.mhd", Roi(tmp_path)
    assert mask_hash(masks, "1.2.3#1", "ct-a") == NO_MASK
    seen = set()
    for place, text in enumerate(("ElementDataFile = ct-a.raw\n", "ElementDataFile = LIST\nct-a.raw\n")):
        header.write_text(text)
        for data in (b"1", b"2"):
            (tmp_path / "ct-a.raw").write_bytes(data)
            seen.add(mask_hash(masks, "1.2.3#1", "ct-a"))
        assert len(seen) == 2 * (place + 1)
    header.write_text("ElementDataFile = slice%02d.raw 1 2 1\n")
    for data in (b"1", b"2"):
        (tmp_path / "slice02.raw").write_bytes(data)
        seen.add(mask_hash(masks, "1.2.3#1", "ct-a"))
    assert len(seen) == 6
    (tmp_path / "1.2.3.nii.gz").write_bytes(b"")
    assert mask_hash(masks, "1.2.3#1", "ct-a") == NO_MASK  # two


def test_a_mask_that_cannot_be_used_is_a_reason_of_its_own(scans, names, masks, quick_bundle, tmp_path):
    write_nifti(masks / f"{names[1]}.nii.gz", draw((5, 5, 5), box=((400, 420), (400, 420), (400, 420))))
    screen(scans, tmp_path / "out", quick_bundle, "--roi", masks)
    assert states(tmp_path / "out")[names[1]] == (State.refused, "mask of the region")
    screen(scans, tmp_path / "other", quick_bundle, "--roi", f"{masks}:77")
    assert {state for state, _ in states(tmp_path / "other").values()} == {State.refused}


def test_whole_scans_and_regions_do_not_mix_in_one_screening(scans, masks, quick_bundle, tmp_path):
    output = tmp_path / "out"
    screen(scans, output, quick_bundle, "--roi", masks)
    for options in ((), ("--roi", f"{masks}:5")):
        refused = screen(scans, output, quick_bundle, *options)
        assert isinstance(refused.exception, InputError)
        assert "roi" in str(refused.exception)


def test_a_folder_that_is_not_there_is_refused_before_any_work(scans, quick_bundle, tmp_path):
    refused = screen(scans, tmp_path / "out", quick_bundle, "--roi", tmp_path / "none")
    assert isinstance(refused.exception, InputError)
    assert not (tmp_path / "out").exists()


def test_score_and_the_bundle_run_by_monai_and_screen_agree_to_the_last_bit(
    scans, names, masks, quick_bundle, tmp_path
):
    (mask,) = masks.iterdir()
    odd = tmp_path / "a #1, 50 % @home"  # letters that MONAI's configurations give a meaning
    odd.mkdir()
    shutil.copy(mask, odd / "mask.nii.gz")
    scan = next(path for path in sorted(scans.iterdir()) if named(path, scans, quick_bundle, tmp_path) == names[0])
    shutil.copy(scan, odd / "scan.nii.gz")
    options = ("--bundle", quick_bundle, "--outputs", "nifti", "--roi", f"{odd / 'mask.nii.gz'}:5")
    result = klip_monai("score", odd / "scan.nii.gz", "-o", odd / "out", *options)
    assert result.returncode == 0, result.stderr
    assert "region" in result.stdout
    workflow = ConfigWorkflow(
        config_file=str(quick_bundle / "configs" / "inference.json"),
        meta_file=str(quick_bundle / "configs" / "metadata.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(quick_bundle),
        dataset_dir=str(scan),
        output_dir=str(tmp_path / "by_bundle"),
        outputs=["nifti"],
        roi=f"{mask}:5",
    )
    workflow.initialize()
    workflow.run()
    assert (
        screen(scans, tmp_path / "screened", quick_bundle, "--roi", f"{masks}:5", "--outputs", "nifti").exit_code == 3
    )
    for kind in ("heatmap", "labels"):
        files = [next(folder.rglob(f"*_{kind}.nii.gz")) for folder in (odd / "out", tmp_path / "by_bundle")]
        files.append(next((tmp_path / "screened").rglob(f"*_{kind}.nii.gz")))
        maps = [nib.load(file).get_fdata() for file in files]
        assert maps[0].any() or kind == "labels"
        assert not maps[0][~in_box(nib.load(scan).affine, maps[0].shape, box=np.add(BOX, (-0.01, 0.01)))].any()
        for other in maps[1:]:
            np.testing.assert_array_equal(maps[0], other)


def named(path: Path, scans: Path, bundle: Path, folder: Path) -> str:
    """What a file of the archive is called."""
    key = folder / f"{path.name}.csv"
    screen(path, folder / f"{path.name}.index", bundle, "--dry-run", "--key-file", key)
    return key.read_text().splitlines()[1].split(",")[0]


def test_a_region_of_raw_data_is_refused(tmp_path):
    refused = klip_monai("score", "--sinogram", tmp_path / "a.npy", "-o", tmp_path / "out", "--roi", "liver.nii.gz")
    assert refused.returncode == 2
    assert "--roi" in refused.stderr


@pytest.mark.parametrize("option", [("--null", "context"), ("--no-sharp",), ("--roi", ""), ("--hu-window", "")])
def test_what_raw_data_has_no_use_for_is_refused_and_not_left_unsaid(option, tmp_path):
    command = ["score", "--sinogram", str(tmp_path / "a.npy"), "-o", str(tmp_path / "out"), *option]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InputError)
    assert "leave out" in str(refused.exception)
    assert option[0].replace("--no-", "--") in str(refused.exception)


def test_a_mask_that_is_not_there_is_refused_before_the_scan_is_read(tmp_path):
    refused = klip_monai("score", tmp_path / "none.nii", "-o", tmp_path / "out", "--roi", "liver.nii.gz:5")
    assert refused.returncode == 2
    assert "--roi: got 'liver.nii.gz:5', which is no file" in refused.stderr
