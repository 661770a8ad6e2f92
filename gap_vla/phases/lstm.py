"""The estimator's network when it runs: features and LSTM cell, compiled, one step at a time.

It gives the same bits on any number of processes, and needs no torch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit


class Weights(NamedTuple):
    """float32. Gate order input, forget, cell, output; matrices are transposed so that their rows are contiguous."""

    mean: np.ndarray  # f32[F]
    scale: np.ndarray  # f32[F]
    first_in: np.ndarray  # f32[F, 4H]
    first_hidden: np.ndarray  # f32[H, 4H]
    first_bias: np.ndarray  # f32[4H]
    second_in: np.ndarray  # f32[H, 4H]
    second_hidden: np.ndarray  # f32[H, 4H]
    second_bias: np.ndarray  # f32[4H]
    head: np.ndarray  # f32[H]
    head_bias: np.ndarray  # f32[1]


@njit(cache=True, nogil=True)
def all_features(samples, arms, rotations, width):
    """f32[T, F]: row t is Δs of M5 between samples t - 1 and t, that is displacement (m), rotation vector (rad) and
    other differences; row 0 is zero.

    A sample is [position 3·arms, quaternion wxyz 4·arms (if `rotations`), any other columns].
    """
    features = np.zeros((samples.shape[0], width), np.float32)
    for t in range(1, samples.shape[0]):
        before, after, out = samples[t - 1], samples[t], features[t]
        k = 3 * arms
        for i in range(k):
            out[i] = after[i] - before[i]
        column = k
        if rotations:
            for arm in range(arms):
                q = 3 * arms + 4 * arm
                w1, x1, y1, z1 = before[q], before[q + 1], before[q + 2], before[q + 3]
                w2, x2, y2, z2 = after[q], after[q + 1], after[q + 2], after[q + 3]
                w = w1 * w2 + x1 * x2 + y1 * y2 + z1 * z2
                x = w1 * x2 - w2 * x1 - (y2 * z1 - z2 * y1)
                y = w1 * y2 - w2 * y1 - (z2 * x1 - x2 * z1)
                z = w1 * z2 - w2 * z1 - (x2 * y1 - y2 * x1)
                sine = math.sqrt(x * x + y * y + z * z)
                factor = 0.0
                if sine > 0:
                    factor = 2 * math.atan2(sine, abs(w)) / sine
                if w < 0:
                    factor = -factor
                out[k], out[k + 1], out[k + 2] = factor * x, factor * y, factor * z
                k += 3
            column = 7 * arms
        for i in range(column, len(before)):
            out[k] = after[i] - before[i]
            k += 1
    return features


@njit(cache=True, nogil=True)
def _gates(x, h, c, weight_in, weight_hidden, bias):
    hidden = h.shape[0]
    z = bias.copy()
    for j in range(x.shape[0]):
        value, row = x[j], weight_in[j]
        for k in range(4 * hidden):
            z[k] += value * row[k]
    for j in range(hidden):
        value, row = h[j], weight_hidden[j]
        for k in range(4 * hidden):
            z[k] += value * row[k]
    one = np.float32(1)
    for k in range(hidden):
        gate_in = one / (one + math.exp(-z[k]))
        gate_forget = one / (one + math.exp(-z[hidden + k]))
        gate_out = one / (one + math.exp(-z[3 * hidden + k]))
        c[k] = gate_forget * c[k] + gate_in * math.tanh(z[2 * hidden + k])
        h[k] = gate_out * math.tanh(c[k])


@njit(cache=True, nogil=True)
def lstm_run(features, w):
    """ρ for every row of features, by two layers and the head, from a zero state (h1, c1, h2, c2)."""
    state = np.zeros((4, w.head.shape[0]), np.float32)
    rho = np.zeros(features.shape[0], np.float32)
    for t in range(features.shape[0]):
        x = (features[t] - w.mean) / w.scale
        _gates(x, state[0], state[1], w.first_in, w.first_hidden, w.first_bias)
        _gates(state[0], state[2], state[3], w.second_in, w.second_hidden, w.second_bias)
        logit = w.head_bias[0]
        for k in range(state.shape[1]):
            logit += w.head[k] * state[2, k]
        rho[t] = np.float32(1 / (1 + math.exp(-logit)))
    return rho
