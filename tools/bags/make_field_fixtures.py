"""Writes tests/field/data: small pictures as real encoders make them, and sqlite recordings whose
recorder was killed. Made with Pillow 13.0; the encoders of other versions may give other bytes,
which the tests do not depend on."""

import io
import os
import shutil
import sqlite3
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "tests/field/data"


def picture() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    channels = [
        128 + 90 * np.sin(x / 5) + 20 * np.cos(y / 3),
        128 + 80 * np.cos((x + y) / 7),
        255 * (x / 64) * (y / 48),
    ]
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_thumbnail(plain: bytes, image: Image.Image) -> bytes:
    """The picture with an EXIF block that holds a whole JPEG, end marker included."""
    small = encoded(image.resize((16, 12)), "JPEG", quality=50)
    tiff = b"II*\0" + struct.pack("<IHI", 8, 0, 14) + struct.pack("<H", 3)
    tiff += struct.pack("<HHII", 0x103, 3, 1, 6)
    tiff += struct.pack("<HHII", 0x201, 4, 1, 14 + 2 + 36 + 4)
    tiff += struct.pack("<HHII", 0x202, 4, 1, len(small)) + struct.pack("<I", 0) + small
    exif = b"Exif\0\0" + tiff
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def png_of_48_bits(rgb: np.ndarray) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    wide = (rgb[:16].astype(np.uint32) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", wide.shape[1], 16, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def pictures() -> None:
    rgb = picture()
    image = Image.fromarray(rgb)
    turned = Image.Exif()
    turned[0x112] = 6
    plain = encoded(image, "JPEG", quality=80)
    files = {
        "plain.jpg": plain,
        "progressive.jpg": encoded(image, "JPEG", quality=80, progressive=True),
        "progressive_444.jpg": encoded(
            image, "JPEG", quality=95, progressive=True, subsampling=0
        ),
        "restart.jpg": encoded(image, "JPEG", quality=80, restart_marker_rows=1),
        "sampling_422.jpg": encoded(image, "JPEG", quality=80, subsampling=1),
        "grey.jpg": encoded(image.convert("L"), "JPEG", quality=80),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG", quality=80),
        "exif_6.jpg": encoded(image, "JPEG", quality=80, exif=turned),
        "two_pictures.mpo.jpg": encoded(
            image, "MPO", quality=80, save_all=True, append_images=[image.rotate(180)]
        ),
        "webp_named.jpg": encoded(image, "WEBP", quality=50),
        "palette_transparent.png": encoded(image.quantize(16), "PNG", transparency=3),
        "rgb16.png": png_of_48_bits(rgb),
        "thumbnail.jpg": with_thumbnail(plain, image),
    }
    for name, content in files.items():
        (OUT / name).write_bytes(content)


SCHEMA = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
    serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,
    timestamp INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
"""


def text(words: str) -> bytes:
    content = words.encode() + b"\0"
    return b"\0\1\0\0" + struct.pack("<I", len(content)) + content


def add(connection: sqlite3.Connection, number: int) -> None:
    time = 1_760_000_000_000_000_000 + number * 200_000_000
    words = f"message {number}: " + "pick up the block and put it on the plate " * 8
    connection.execute(
        "INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)", (time, text(words))
    )


def recording(path: Path, journal: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA page_size = 512")
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.executescript(SCHEMA)
    connection.execute(
        "INSERT INTO topics VALUES (1, '/instruction', 'std_msgs/msg/String', 'cdr', '')"
    )
    return connection


def kept(source: Path, folder: str, endings: list[str]) -> None:
    """Copies the files as a killed process leaves them."""
    (OUT / folder).mkdir(exist_ok=True)
    for ending in endings:
        shutil.copyfile(f"{source}{ending}", OUT / folder / f"{source.name}{ending}")


def killed() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        # Five messages, and a transaction that wrote some of its pages before the end.
        path = Path(scratch) / "hot_journal_0.db3"
        connection = recording(path, "DELETE")
        for number in range(5):
            add(connection, number)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE messages SET timestamp = timestamp + 7, data = zeroblob(300)")
        for number in range(5, 9):
            add(connection, number)
        connection.execute("UPDATE messages SET timestamp = timestamp + 1")
        kept(path, "hot_journal", ["", "-journal"])
        connection.execute("ROLLBACK")
        connection.close()
        path.rename(Path(scratch) / "finished_0.db3")
        kept(Path(scratch) / "finished_0.db3", "finished", [""])
        # Two messages in the file, three in the log.
        path = Path(scratch) / "write_ahead_log_0.db3"
        connection = recording(path, "WAL")
        for number in range(2):
            add(connection, number)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(2, 5):
            add(connection, number)
        kept(path, "write_ahead_log", ["", "-wal"])
        connection.close()


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    pictures()
    killed()
