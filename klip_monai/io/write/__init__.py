"""Overlays out, whole or not at all."""
