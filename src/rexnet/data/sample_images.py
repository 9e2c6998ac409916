"""A few pictures to try a network on."""

import numpy as np
from PIL import Image

from rexnet.data.decode import find_images, open_image

COUNT = 5


def sample_pictures(source: str | None) -> list[Image.Image]:
    """COUNT upright RGB pictures: of a folder or pattern, evenly spread, repeated where it holds fewer; without one,
    the two photographs that come with scikit-learn, both mirrored, and noise, always the same.

    ValueError for a source without pictures, BadImageError for one that cannot be read.
    """
    if source is not None:
        files = find_images([source])
        return [open_image(files[index * len(files) // COUNT]) for index in range(COUNT)]
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images()["images"]]
    mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in photographs]
    noise = np.random.default_rng(0).integers(256, size=(256, 320, 3), dtype=np.uint8)
    return [*photographs, *mirrored, Image.fromarray(noise)]
