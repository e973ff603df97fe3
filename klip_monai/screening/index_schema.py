"""Tables of the archive's index, and the statements that sum up files into series."""

from __future__ import annotations

from klip_monai.io.kinds import PERHAPS_LOST, SURELY_LOST

VERSION = 2

_LOST = ", ".join(f"'{what}'" for what in SURELY_LOST + PERHAPS_LOST)

SCHEMA = f"""
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
    instance INTEGER,           -- hash of the SOPInstanceUID; of a damaged file that of its series, if it says
    frames INTEGER,
    position INTEGER,           -- hash of ImagePositionPatient
    traits INTEGER,             -- hash of kernel, kVp, thickness, ...
    volume INTEGER,             -- of a series that has several, from 1
    offset INTEGER, method INTEGER, packed INTEGER, crc INTEGER, streamed INTEGER,  -- of a member
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE INDEX files_of_series ON files (series, instance, position, frames, traits) WHERE series IS NOT NULL;
CREATE INDEX lost_files ON files (folder, what) WHERE what IN ({_LOST});
CREATE TABLE lost (             -- files that cannot be read, and the series that may miss them
    series INTEGER NOT NULL,
    folder INTEGER NOT NULL,
    name BLOB NOT NULL
);
CREATE INDEX lost_of_series ON lost (series);
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    is_dicom INTEGER NOT NULL,
    modality TEXT, description TEXT, body_part TEXT, rows INTEGER, columns INTEGER, date TEXT,
    n_files INTEGER, n_slices INTEGER, copies INTEGER,
    content TEXT,               -- sums of the halves of the hashes of its instances, and of its positions
    n_places INTEGER,           -- distinct positions; NULL if a file has none
    is_mixed INTEGER,           -- whether traits differ
    pixels TEXT,                -- content, and a hash of all pixels; of series with the content of another one
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
    UPDATE series SET (n_files, n_slices, copies, content, n_places, is_mixed) = (
        SELECT count(*), sum(frames), sum(times) - count(*),
            sum(instance >> 32) || ' ' || sum(instance & 4294967295) || ' ' || sum(coalesce(position, 0) & 4294967295),
            CASE WHEN count(position) = count(*) THEN count(DISTINCT position) END,
            min(least) < max(most)
        FROM (
            SELECT instance, position, max(frames) AS frames, count(*) AS times,
                min(traits) AS least, max(traits) AS most
            FROM files WHERE files.series = series.id GROUP BY instance, position
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
)
"""Statements that bring the series up to date with the files, in this order."""

LOST = f"""
SELECT folder, path, name, what, instance FROM files JOIN folders ON id = folder WHERE what IN ({_LOST}) ORDER BY folder
"""
"""Files that cannot be read, and may be slices."""

ALIKE = """
SELECT id, content FROM series AS one WHERE parent IS NULL AND is_dicom AND (
    SELECT count(*) FROM series AS other
    WHERE other.content = one.content AND other.n_files = one.n_files AND other.parent IS NULL
) > 1 AND coalesce(pixels, '') NOT LIKE content || ' %'
"""
"""Series with the instances and places of another one, whose pixels have not been looked at."""

DUPLICATES = """
UPDATE series SET duplicate_of = (
    SELECT first.id FROM series AS first
    WHERE first.content = series.content AND first.n_files = series.n_files AND first.id < series.id
        AND first.parent IS NULL AND (first.pixels = series.pixels OR NOT series.is_dicom)
    ORDER BY first.id LIMIT 1
) WHERE parent IS NULL
"""
"""Which series show the same as an earlier one."""
