"""How a CT and its heat map are shown, for every picture and scene."""

from __future__ import annotations

WINDOW_LEVEL_HU, WINDOW_WIDTH_HU = 40.0, 400.0
"""Soft tissue window of the CT."""

COLOUR_MAP = "viridis"
"""Name of the heat map's colours, as matplotlib knows them."""
