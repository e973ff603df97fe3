"""Tables of the archive's index, and the statements that sum up files into series."""

from __future__ import annotations

VERSION = 1

SCHEMA = """
CREATE TABLE folders (          -- folders, archives, and files named by themselves
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,  -- bytes, as names on disk need not be text
    seen INTEGER NOT NULL,      -- number of the update that saw it last
    problem TEXT NOT NULL DEFAULT ''
);
CREATE TABLE files (
    folder INTEGER NOT NULL,
    name BLOB NOT NULL,
    size INTEGER,
    mtime INTEGER,              -- ns since 1970; NULL for members, whose archive tells
    what TEXT,                  -- NULL for images
    series INTEGER,
    instance INTEGER,           -- hash of the SOPInstanceUID
    frames INTEGER,
    position INTEGER,           -- hash of ImagePositionPatient
    volume INTEGER,             -- of a series that has several, from 1
    offset INTEGER, method INTEGER, packed INTEGER, crc INTEGER, streamed INTEGER,  -- of a member
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE INDEX files_of_series ON files (series, instance, frames, position) WHERE series IS NOT NULL;
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    is_dicom INTEGER NOT NULL,
    modality TEXT, description TEXT, body_part TEXT, rows INTEGER, columns INTEGER, date TEXT,
    n_files INTEGER, n_slices INTEGER, copies INTEGER,
    content TEXT,               -- sums of the halves of the hashes of its instances
    n_places INTEGER,           -- distinct positions; NULL if a file has none
    looked_at INTEGER,          -- content when it was last searched for several volumes
    parent INTEGER, volume INTEGER,  -- of a volume: its series, and its number
    split INTEGER NOT NULL DEFAULT 0,  -- whether its volumes stand for it
    duplicate_of INTEGER
);
CREATE INDEX series_by_content ON series (content, n_files);
"""

SUMMARISE = (
    """
    DELETE FROM series WHERE parent IS NULL AND NOT EXISTS (SELECT 1 FROM files WHERE files.series = series.id)
    """,
    """
    UPDATE series SET (n_files, n_slices, copies, content, n_places) = (
        SELECT count(*), sum(frames), sum(times) - count(*), sum(instance >> 32) || ' ' || sum(instance & 4294967295),
            CASE WHEN count(position) = count(*) THEN count(DISTINCT position) END
        FROM (
            SELECT instance, max(frames) AS frames, min(position) AS position, count(*) AS times
            FROM files WHERE files.series = series.id GROUP BY instance
        )
    ) WHERE parent IS NULL
    """,
    """
    DELETE FROM series
    WHERE parent IS NOT NULL AND parent NOT IN (SELECT id FROM series WHERE split AND looked_at = content)
    """,
    """
    UPDATE files SET volume = NULL
    WHERE series IN (SELECT id FROM series WHERE split AND looked_at <> content)
    """,
    """
    UPDATE series SET split = 0 WHERE split AND looked_at <> content
    """,
    """
    UPDATE series SET duplicate_of = (
        SELECT first.id FROM series AS first
        WHERE first.content = series.content AND first.n_files = series.n_files AND first.id < series.id
            AND first.parent IS NULL
        ORDER BY first.id LIMIT 1
    ) WHERE parent IS NULL
    """,
)
"""Statements that bring the series up to date with the files, in this order."""
