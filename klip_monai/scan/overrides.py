"""Settings by their plain names as overrides of a bundle's configuration; imports no library."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from klip_monai.errors import InputError
from klip_monai.operators import ANGLE_RANGES, OPERATORS

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

_OF_OPERATORS = frozenset(key for takes in OPERATORS.values() for key in takes)
_OPERATOR, _INFERER = "operator#", "inferer#"


def bundle_overrides(
    settings: Mapping[str, Any], *, device: str = "auto", precision: str = "auto", preset: str | None = None
) -> dict[str, Any]:
    """What is asked for, by config id of ``inference.json``.

    Args:
        settings: ``operator`` by name, what it takes, and settings of the inferer; those that are None are left to the
            bundle.
        device: "auto" leaves it to the bundle.
        precision: see :func:`klip_monai.bundle.open_workflow`.
        preset: likewise; None is the bundle's choice.

    Raises:
        InputError: for what is no device.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    operator = given.pop("operator", None)
    overrides: dict[str, Any] = {} if operator is None else {f"{_OPERATOR}name": operator}
    if operator in ANGLE_RANGES:
        given.setdefault("angle_range", ANGLE_RANGES[operator])
    for name, value in given.items():
        overrides[f"{_OPERATOR if name in _OF_OPERATORS else _INFERER}{name}"] = value
    if preset is not None:
        overrides["preset"] = preset
    if precision != "auto":
        overrides["precision"] = precision
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:\d+)?", device):
        raise InputError(f"device: got {device!r}, expected auto, cpu, cuda or cuda:1")
    if device != "auto":
        overrides["device"] = f"$torch.device({device!r})"
    return overrides


def check_settings(overrides: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse settings of the inferer that there are not, and texts that a configuration would run or look up.

    Args:
        overrides: values by config id.
        known: names of all settings of an inferer.

    Raises:
        InputError: for the first of them.
    """
    for key, value in overrides.items():
        name = key.removeprefix(_INFERER)
        if name != key and isinstance(value, str) and value.startswith(("$", "@", "%")):
            raise InputError(f"{name}: got {value!r}, expected a plain value")
        if name != key and name not in known:
            expected = f"operator, what it takes, or {', '.join(sorted(known))}"
            raise InputError(f"{name}: there is no such setting, expected {expected}")


def check_measurement(
    parser: ConfigParser, overrides: Collection[str], *, called: Callable[[str], str] = "{}=".format
) -> None:
    """Refuse settings that the measurement does not have.

    Args:
        parser: of the bundle with the overrides.
        overrides: config ids.
        called: how whoever asked calls a setting, by its plain name.

    Raises:
        InputError: for the first of them.
    """
    measurement = parser["operator#name"]
    takes = OPERATORS.get(measurement)
    if takes is None:
        return  # which operator it is, make_operator refuses
    given = [key.removeprefix(_OPERATOR) for key in overrides if key.startswith(_OPERATOR)]
    for key in given:
        if key != "name" and key not in takes:
            others = [name for name, takes_too in OPERATORS.items() if key in takes_too]
            raise InputError(
                f"{called(key)}: got it with the measurement {measurement}, expected "
                f"{', '.join(map(called, takes)) or 'no settings'}; or add {called('operator')} {' or '.join(others)}"
            )
