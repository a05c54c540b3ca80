"""The pictures of results/README.md, out of the executed copies of the released run.

python docs/pictures.py
"""

import io
from hashlib import md5
from pathlib import Path

from PIL import Image
from sources import copy_of, executed, pictures

from debir_nb.disk import atomic

ROOT = Path(__file__).resolve().parents[1]
PICTURES = {  # file in results/ -> notebook there, and the cell whose picture it is
    "exposures.jpg": ("10_results", "06-40-results"),
    "scenes.jpg": ("10_results", "12-40-results"),
    "differences.jpg": ("20_tables", "15-41-tables"),
    "oracle.jpg": ("30_oracle", "09-42-oracle"),
    "gradient.jpg": ("40_gradient", "04-43-gradient"),
}


def found(copies):
    "File -> picture of the released run, as the bytes of an image file."
    for file, (notebook, cell) in PICTURES.items():
        yield file, pictures(copy_of(Path(notebook), copies))[cell]


def small(picture):
    "A picture as a JPEG; its comment is the hash of the one that it was made from."
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((1000, 1000))
    image.save(written := io.BytesIO(), "JPEG", quality=88, comment=md5(picture).hexdigest())
    return written.getvalue()


if __name__ == "__main__":
    for file, picture in found(executed()):
        with atomic(ROOT / "results" / file) as path:
            path.write_bytes(small(picture))
