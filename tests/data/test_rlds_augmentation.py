"""Augmentation is upstream's arithmetic, and its random numbers belong to windows, not to readers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.loader import uniform

EVERYTHING = Augmentation((0.5, 0.9), (0.8, 1.2), 0.2, (0.7, 1.3), (0.6, 1.4), 0.2)


def by_tensorflow(frame: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """dlimp's `augment_image` with its random numbers given."""
    top, left, tall, wide, brightness, contrast, saturation, hue = parameters.astype(np.float32)
    image = tf.image.convert_image_dtype(frame, tf.float32)
    box = [[top, left, top + tall, left + wide]]
    image = tf.clip_by_value(tf.image.crop_and_resize(image[None], box, [0], frame.shape[:2])[0], 0, 1)
    for change, amount in (
        (tf.image.adjust_brightness, brightness),
        (tf.image.adjust_contrast, contrast),
        (tf.image.adjust_saturation, saturation),
        (tf.image.adjust_hue, hue),
    ):
        image = tf.clip_by_value(change(image, amount), 0, 1)
    return tf.image.convert_image_dtype(image, tf.uint8, saturate=True).numpy()


@pytest.mark.parametrize("size", [(16, 16), (9, 24)])
def test_pictures_change_as_tensorflow_changes_them(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 256, (12, 2, *size, 3), dtype=np.uint8)
    windows[0] = 77  # grey: no hue
    windows[1] = np.linspace(0, 255, size[1], dtype=np.uint8)[:, None]
    draws = rng.random((12, DRAWS))
    real = np.ones((12, 2), bool)
    real[3, 0] = False
    changed = EVERYTHING(windows, real, draws)
    for b, parameters in enumerate(EVERYTHING.parameters(draws)):
        for t in range(2):
            expected = by_tensorflow(windows[b, t], parameters) if real[b, t] else windows[b, t]
            off = np.abs(changed[b, t].astype(int) - expected)
            assert off.max() <= 1 and (off > 0).mean() < 0.02, (b, t)


def test_draws_are_uniform_independent_and_repeatable() -> None:
    step = np.arange(4000)
    epoch, episode = np.zeros(4000, int), step // 50
    draw = uniform(1, "augment", epoch, episode, step, 4)
    assert draw.min() >= 0 and draw.max() < 1
    np.testing.assert_allclose(draw.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(draw.std(0), 12**-0.5, atol=0.01)
    others = [uniform(2, "augment", epoch, episode, step, 4), uniform(1, "other", epoch, episode, step, 4)]
    others += [uniform(1, "augment", epoch + 1, episode, step, 4), uniform(1, "augment", epoch, episode + 1, step, 4)]
    others += [uniform(1 + upper, "augment", epoch, episode, step, 4) for upper in (2**32, 2**62)]
    for other in others:
        assert abs(np.corrcoef(draw.ravel(), other.ravel())[0, 1]) < 0.03
    assert np.abs(np.corrcoef(draw.T) - np.eye(4)).max() < 0.05
    np.testing.assert_array_equal(draw[10:20], uniform(1, "augment", epoch[10:20], episode[10:20], step[10:20], 4))
