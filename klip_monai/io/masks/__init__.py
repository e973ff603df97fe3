"""Masks of a region, in whatever format and on whatever grid."""
