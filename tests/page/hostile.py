"""Hostile files: what a page should answer with an error in words, and go on."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(width, height, pixels=b"", colour=2, depth=8, extra=b""):
    """A PNG that says it has so many pixels; `pixels` is the compressed data."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(kind, size=(64, 64), mode="RGB", **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def zeros(megabytes):
    return zlib.compress(bytes(megabytes * 2**20), 9)


def text_bomb():
    data = b"comment\0\0" + zlib.compress(bytes(64 * 2**20), 9)
    return (
        struct.pack(">I", len(data))
        + b"zTXt"
        + data
        + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    )


def webp_canvas(width, height):
    """A WebP whose extended header claims a canvas, with the pixels of a small one."""
    small = saved("WEBP", lossless=True)[12:]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + small
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def files():
    """(name, content) of a hundred files, all of which must be refused."""
    rng = np.random.default_rng(1)
    jpeg, whole = saved("JPEG"), saved("PNG")
    found = [("empty.png", b"")]
    # Broken: cut off, with damaged bytes, and with nothing but noise.
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        content = saved(kind)
        found += [(f"cut{at}.{kind}", content[:at]) for at in (1, 8, 24, len(content) // 2)]
        found.append((f"noise.{kind}", content[:12] + rng.bytes(4000)))
    for number in range(10):
        damaged = bytearray(whole)
        for at in rng.integers(33, 400, 40):
            damaged[at] ^= int(rng.integers(1, 255))
        found.append((f"damaged{number}.png", bytes(damaged)))
    # Decompression bombs: few bytes that say they are many pixels, or are.
    for side in (5000, 6000, 20_000, 60_000, 2**31 - 1):
        found.append((f"claims{side}.png", png(side, side)))
        found.append((f"bomb{side}.png", png(side, side, zeros(64))))
        found.append((f"grey16_{side}.png", png(side, side, zeros(16), 0, 16)))
    found += [
        ("wide.png", png(2**24, 16, zeros(32))),
        ("tall.png", png(16, 2**24, zeros(32))),
        ("text.png", png(9000, 9000, zeros(1), extra=text_bomb())),
        ("text_small.png", png(64, 64, b"", extra=text_bomb())),
        ("zero.png", png(0, 0)),
        ("strip.png", saved("PNG", (100_000, 1))),
        ("thread.png", saved("PNG", (1, 100_000))),
        ("webp_canvas.webp", webp_canvas(16_000, 16_000)),
        ("bmp_claims.bmp", saved("BMP")[:18] + struct.pack("<ii", 50_000, 50_000) + bytes(60)),
        ("jpeg_claims.jpg", _jpeg_of_size(jpeg, 65_000, 65_000)),
        ("tiff_claims.tif", _tiff_of_size(saved("TIFF"), 60_000)),
        ("bilevel.png", png(16_000, 16_000, zeros(30), 0, 1)),
    ]
    # Huge: larger than the page takes; the first two are no pictures at all.
    found += [(f"huge{i}.png", bytes(33 * 2**20)) for i in range(2)]
    found.append(("huge.bmp", saved("BMP", (3400, 3400))))
    # Of other types, by content and by name.
    texts = {
        "page.html": b"<script>alert(1)</script>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///x"/></svg>',
        "entities.svg": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "metafile.wmf": b"\xd7\xcd\xc6\x9a" + bytes(80),
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "document.pdf": b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>",
        "archive.zip": b"PK\x03\x04" + bytes(60),
        "array.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'shape': (1,)}\n",
        "pickle.png": b"cos\nsystem\n(S'touch owned'\ntR.",
        "program.png": b"\x7fELF" + bytes(200),
        "text.png": b"hello",
        "json.png": b'{"path": "/etc/passwd"}',
        "icon.ico": b"\0\0\1\0\1\0" + bytes(40),
        "picture.ppm": b"P6 99999 99999 255\n",
        "picture.pgm": b"P5 64 64 255\n" + bytes(64 * 64),
        "cursor.png": b"#define x_width 9999\n#define x_height 9999\nstatic char x_bits[] = {\n",
        "fits.png": b"SIMPLE  =                    T" + bytes(2880),
    }
    found += list(texts.items())
    found += [
        ("movie.gif", saved("GIF", mode="P")),
        ("old.tga", saved("TGA")),
        ("old.pcx", saved("PCX")),
        ("jpeg2000.png", saved("PPM")),
        ("float.tiff", saved("TIFF", mode="F")),
        ("integers.tiff", saved("TIFF", mode="I")),
    ]
    # Names with paths, and names that have a meaning to some system.
    names = [
        *("../../../../etc/passwd", "..\\..\\windows\\system.ini", "/etc/shadow", "a/../../b.png"),
        *(
            "%2e%2e%2fescape.png",
            "con.png",
            "-rf.png",
            "x" * 300 + ".png",
            "a\nb.png",
            "é\u202e.png",
        ),
        *("$(touch owned).png", "`id`.png", "a;b|c&d.png", "http://127.0.0.1/x.png", ".env"),
        *("file:///etc/passwd", "nul\0l.png"),
    ]
    found += [(name, b"not a picture") for name in names]
    return found


def _jpeg_of_size(content, width, height):
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def _tiff_of_size(content, side):
    at = struct.unpack("<I", content[4:8])[0]
    entries = struct.unpack("<H", content[at : at + 2])[0]
    data = bytearray(content)
    for number in range(entries):
        place = at + 2 + 12 * number
        if struct.unpack("<H", data[place : place + 2])[0] in (256, 257):
            data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)
