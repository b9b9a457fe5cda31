"""Pictures that are uploaded, and what is sent in their place."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.http import bodies
from deploy.http.bodies import pictures
from deploy.http.errors import HttpError

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
HOLE = np.zeros((4, 6), np.uint8)
HOLE[1, 2] = 255


def file(image: Image.Image, form: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def test_pictures_of_any_format():
    for form in ("PNG", "WEBP"):
        made = pictures({"image": file(Image.fromarray(PICTURE), form, lossless=True)})
        assert made.keys() == {"image"}
        assert (made["image"] == PICTURE).all()
    assert pictures({"image": file(Image.fromarray(PICTURE), "JPEG")})["image"].shape == (4, 6, 3)
    turned = Image.Exif()
    turned[0x0112] = 6  # as a camera that is held upright has it
    assert pictures({"image": file(Image.fromarray(PICTURE), "JPEG", exif=turned)})["image"].shape == (6, 4, 3)
    assert pictures({"image": file(Image.fromarray(PICTURE[..., 0]))})["image"].shape == (4, 6, 3)


def test_masks():
    """Transparent is drawn anew, in a mask or in the picture itself; white is, in a mask without transparency."""
    clear = Image.fromarray(np.dstack([PICTURE, 255 - HOLE]))
    plain = file(Image.fromarray(PICTURE))
    for files in (
        {"image": plain, "mask": file(clear)},
        {"image": file(clear)},
        {"image": plain, "mask": file(Image.fromarray(HOLE))},
    ):
        assert (pictures(files)["mask"] == HOLE).all()
    assert "mask" not in pictures({"image": file(Image.fromarray(PICTURE).convert("RGBA"))})


def test_what_is_no_picture(monkeypatch: pytest.MonkeyPatch):
    whole = file(Image.fromarray(PICTURE))
    for data in (b"", b"GIF89a", whole[:40], file(Image.fromarray(PICTURE), "GIF"), b"%PDF-1.4"):
        with pytest.raises(HttpError, match="image: expected a picture as png, jpeg, webp, got") as caught:
            pictures({"image": data})
        assert (caught.value.status, caught.value.param) == (400, "image")
    with pytest.raises(HttpError, match="image: expected a picture, got none"):
        pictures({"mask": whole})
    monkeypatch.setattr(bodies, "MOST_PIXELS", 23)
    with pytest.raises(HttpError, match="image: expected at most 23 pixels, got 6 x 4"):
        pictures({"image": whole})
