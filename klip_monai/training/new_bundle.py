"""A bundle of one's own: the configuration of another one, with weights to be trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from klip_monai.errors import BundleError, OutputError


def new_bundle(base: Path, target: Path) -> None:
    """Copy a bundle without its weights, ID references and training state, or go on with a copy made before.

    The card of the base does not describe the new weights, so it is not copied; its licences are.

    Args:
        base: folder of the bundle to start from.
        target: folder of the new one; its name becomes the bundle's name.

    Raises:
        BundleError: if ``base`` has no training configuration for slice sets.
        OutputError: if ``target`` exists and is not a copy of ``base``, or cannot be written to.
    """
    try:
        dataset = json.loads((base / "configs" / "train.json").read_text())["train"]["dataset"]["_target_"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {base.name}: no readable configs/train.json ({error})") from error
    if not dataset.endswith(".SliceSet"):
        raise BundleError(f"bundle {base.name}: trains on {dataset}, expected one that trains on a slice set")
    configs = target / "configs"
    if target.exists():
        if (
            not (configs / "train.json").is_file()
            or (configs / "train.json").read_text() != (base / "configs" / "train.json").read_text()
        ):
            raise OutputError(f"output: got {target}, which holds something else; choose a new folder")
        return
    try:
        shutil.copytree(base / "configs", configs)
        for name in ("LICENSE", "docs/data_license.txt"):
            if (base / name).is_file():
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copy(base / name, target / name)
        (target / "models").mkdir()
    except OSError as error:
        raise OutputError(f"output: cannot write {target} ({error.strerror}); choose a writable place") from error
