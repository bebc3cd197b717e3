"""A page in headless Chromium: what it shows on a screen and what it prints, as coloured pixels."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.independent.conftest import need

DRAWN = (0, 114, 178)
"""The colour of bars and lines in the report's plots, in print."""


@dataclass(frozen=True)
class Printed:
    """Pages as A4 or not, the text on them, and how many pixels the plots colour."""

    sizes: frozenset[tuple[int, int]]
    text: str
    ink: int


def open_page(page: Path, *options: str) -> str:
    """The document as the browser holds it once it has loaded."""
    command = [need("chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--no-pdf-header-footer", *(options or ("--dump-dom",)), page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def print_page(page: Path) -> Printed:
    """The page printed to PDF, read by poppler."""
    pdf = page.with_suffix(".pdf")
    open_page(page, f"--print-to-pdf={pdf}")
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", pdf.read_bytes())
    text = [need("pdftotext", "poppler-utils"), "-layout", str(pdf), "-"]
    words = subprocess.run(text, capture_output=True, text=True, check=True, timeout=60).stdout
    render = [need("pdftoppm", "poppler-utils"), "-r", "40", str(pdf)]
    images = subprocess.run(render, capture_output=True, check=True, timeout=60).stdout
    near = np.abs(_pixels(images).astype(int) - DRAWN).max(axis=1) < 24
    return Printed(
        frozenset((round(float(x)), round(float(y))) for x, y in boxes), words, int(near.sum())
    )


def _pixels(images: bytes) -> NDArray[np.uint8]:
    """All pixels [N, 3] of binary PPM images that follow one another."""
    found = []
    while images:
        header = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", images)
        assert header is not None
        end = header.end() + 3 * int(header[1]) * int(header[2])
        found.append(np.frombuffer(images[header.end() : end], np.uint8).reshape(-1, 3))
        images = images[end:]
    return np.concatenate(found)
