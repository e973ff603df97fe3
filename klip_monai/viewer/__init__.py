"""A case in the browser, drawn by 3D Slicer's own core.

:mod:`klip_monai.viewer.page` needs nothing but the standard library, slicer-core and trame-slicer, so it runs in this
environment (`pip install "klip-monai[viewer]"`) or in another one, whose Python `KLIP_SLICER_PYTHON` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from klip_monai.errors import InputError

_PAGE = Path(__file__).with_name("page.py")
_HAS_SLICER = "import sys, importlib.util as u; sys.exit(not (u.find_spec('slicer') and u.find_spec('trame_slicer')))"
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
    """The Python to draw with: the one that `KLIP_SLICER_PYTHON` names, else this one.

    Raises:
        InputError: it cannot be started or has no 3D Slicer core.
    """
    python = os.environ.get("KLIP_SLICER_PYTHON") or sys.executable
    try:
        able = subprocess.run([python, "-I", "-c", _HAS_SLICER], check=False, capture_output=True).returncode == 0
    except OSError:
        able = False
    if not able:
        raise InputError(
            f"view: got {python} without 3D Slicer's core, expected slicer-core and trame-slicer; pip install "
            '"klip-monai[viewer]", or let KLIP_SLICER_PYTHON name a Python that has them'
        )
    return python


def view(scene: str | Path, *, host: str = "127.0.0.1", port: int = 0, browser: bool = True) -> NoReturn:
    """Become the server of a scene, until interrupted.

    Args:
        scene: `.mrb` file, from :func:`klip_monai.report.scene.write_scene`.
        host: address to listen at. Whoever reaches it sees the scan; nothing else asks who it is.
        port: to listen at; 0 takes a free one.
        browser: whether to open the page.

    Raises:
        InputError: there is no 3D Slicer core to draw with.
    """
    python = slicer_python()
    command = [python, str(_PAGE), str(scene), "--host", host, "--port", str(port)]
    command += [] if browser else ["--no-browser"]
    # Neither environment's packages are for the other one.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    os.execve(python, command, environment)
