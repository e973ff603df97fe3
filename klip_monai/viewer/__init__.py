"""A case in the browser, drawn by 3D Slicer's own core.

:mod:`klip_monai.viewer.page` needs nothing but the standard library, slicer-core and trame-slicer, so it runs in this
environment (`pip install "klip-monai[viewer]"`) or in another one, whose Python `KLIP_SLICER_PYTHON` names.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from klip_monai.errors import InputError

_PAGE = Path(__file__).with_name("page.py")
_SCENE_ENDING, _SUMMARY_ENDING = ".mrb", "_summary.json"


def find_scene(case: str | Path) -> Path:
    """The scene of a case.

    Args:
        case: the scene `NAME.mrb`, `NAME_summary.json` beside it, or the folder that holds one case.

    Raises:
        InputError: there is no scene, or a folder holds more than one.
    """
    case = Path(case)
    if case.is_dir():
        scenes = sorted(case.glob(f"*{_SCENE_ENDING}"))
        if len(scenes) > 1:
            names = ", ".join(scene.name for scene in scenes[:5])
            raise InputError(f"case: got {case} with {len(scenes)} scenes ({names}), expected one; name the scene")
        scene = scenes[0] if scenes else case / f"NAME{_SCENE_ENDING}"
    elif case.name.endswith(_SUMMARY_ENDING):
        scene = case.with_name(case.name.removesuffix(_SUMMARY_ENDING) + _SCENE_ENDING)
    else:
        scene = case
    if not scene.is_file() or scene.suffix != _SCENE_ENDING:
        raise InputError(
            f"case: got {case}, expected a scene ({scene.stem}{_SCENE_ENDING}), its {_SUMMARY_ENDING[1:]} or a folder "
            "with one scene; score the scan with --outputs scene"
        )
    return scene


def slicer_python() -> str:
    """The Python to draw with: `KLIP_SLICER_PYTHON`, else this one if it can.

    Raises:
        InputError: neither has 3D Slicer's core.
    """
    named = os.environ.get("KLIP_SLICER_PYTHON")
    if named:
        return named
    if all(importlib.util.find_spec(name) for name in ("slicer", "trame_slicer")):
        return sys.executable
    raise InputError(
        "view: got no 3D Slicer core, expected slicer-core and trame-slicer here or in the environment of the Python "
        'that KLIP_SLICER_PYTHON names; pip install "klip-monai[viewer]"'
    )


def view(scene: str | Path, *, host: str = "127.0.0.1", port: int = 0, browser: bool = True) -> int:
    """Serve a scene until interrupted.

    Args:
        scene: `.mrb` file, from :func:`klip_monai.io.scene.write_scene`.
        host: address to listen at. Whoever reaches it sees the scan: others than this machine's own have no lock.
        port: to listen at; 0 takes a free one.
        browser: whether to open the page.

    Returns:
        The server's exit status.
    """
    command = [slicer_python(), str(_PAGE), str(scene), "--host", host, "--port", str(port)]
    command += [] if browser else ["--no-browser"]
    # Neither environment's packages are for the other one.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(command, env=environment, check=False).returncode
