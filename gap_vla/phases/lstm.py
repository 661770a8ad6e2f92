"""The estimator's network: features of motion and two layers of LSTM, compiled.

Every sum has the order that stands here, tanh is a ratio of polynomials, and the compiler may fuse or reorder nothing.
So the same data give the same bits on every processor, whatever the width of its vectors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

f32 = np.float32


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

    A sample is [position 3·arms, quaternion wxyz 4·arms (if `rotations`), any other columns]; of joints it is other
    columns only, and `arms` is 0.
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


@njit(cache=True, nogil=True, error_model="numpy")
def tanh(x):
    """tanh of a float32, to 3e-7; the coefficients are those of Eigen and XLA."""
    x = min(max(x, f32(-7.99)), f32(7.99))
    s = x * x
    p = f32(2.00018790482477e-13) + s * f32(-2.76076847742355e-16)
    p = f32(5.12229709037114e-08) + s * (f32(-8.60467152213735e-11) + s * p)
    p = f32(6.37261928875436e-04) + s * (f32(1.48572235717979e-05) + s * p)
    p = f32(4.89352455891786e-03) + s * p
    q = f32(1.18534705686654e-04) + s * f32(1.19825839466702e-06)
    q = f32(4.89352518554385e-03) + s * (f32(2.26843463243900e-03) + s * q)
    return x * p / q


@njit(cache=True, nogil=True, error_model="numpy")
def sigmoid(x):
    """1 / (1 + exp(-x)) of a float32."""
    return f32(0.5) + f32(0.5) * tanh(f32(0.5) * x)


@njit(cache=True, nogil=True, error_model="numpy")
def add_product(out, left, right):
    """out[B, K] += left[B, J] @ right[J, K]."""
    fours = right.shape[0] // 4 * 4
    for j in range(0, fours, 4):
        r0, r1, r2, r3 = right[j], right[j + 1], right[j + 2], right[j + 3]
        for b in range(out.shape[0]):
            v0, v1, v2, v3 = left[b, j], left[b, j + 1], left[b, j + 2], left[b, j + 3]
            for k in range(out.shape[1]):
                out[b, k] += (v0 * r0[k] + v1 * r1[k]) + (v2 * r2[k] + v3 * r3[k])
    for j in range(fours, right.shape[0]):
        for b in range(out.shape[0]):
            value = left[b, j]
            for k in range(out.shape[1]):
                out[b, k] += value * right[j, k]


@njit(cache=True, nogil=True, error_model="numpy")
def layer(x, weight_in, weight_hidden, bias):
    """One LSTM layer over f32[T, B, J], from a zero state: gates f32[T, B, 4H], cells and outputs f32[T, B, H]."""
    steps, batch, hidden = x.shape[0], x.shape[1], weight_hidden.shape[0]
    gates = np.empty((steps, batch, 4 * hidden), f32)
    cells, outputs = np.empty((steps, batch, hidden), f32), np.empty((steps, batch, hidden), f32)
    for t in range(steps):
        z = gates[t]
        for b in range(batch):
            z[b] = bias
        add_product(z, x[t], weight_in)
        if t > 0:
            add_product(z, outputs[t - 1], weight_hidden)
        for b in range(batch):
            for k in range(2 * hidden):
                z[b, k] = sigmoid(z[b, k])
            for k in range(2 * hidden, 3 * hidden):
                z[b, k] = tanh(z[b, k])
            for k in range(3 * hidden, 4 * hidden):
                z[b, k] = sigmoid(z[b, k])
            for k in range(hidden):
                c = z[b, k] * z[b, 2 * hidden + k]
                if t > 0:
                    c += z[b, hidden + k] * cells[t - 1, b, k]
                cells[t, b, k] = c
                outputs[t, b, k] = z[b, 3 * hidden + k] * tanh(c)
    return gates, cells, outputs


@njit(cache=True, nogil=True, error_model="numpy")
def probabilities(outputs, head, head_bias):
    """ρ, f32[T, B], of the outputs f32[T, B, H] of the second layer."""
    rho = np.empty(outputs.shape[:2], f32)
    for t in range(outputs.shape[0]):
        for b in range(outputs.shape[1]):
            logit = head_bias[0]
            for k in range(head.shape[0]):
                logit += head[k] * outputs[t, b, k]
            rho[t, b] = sigmoid(logit)
    return rho


@njit(cache=True, nogil=True, error_model="numpy")
def lstm_run(features, w):
    """ρ, f32[T, B], of features f32[T, B, F] (unscaled) of B recordings side by side."""
    x = (features - w.mean) / w.scale
    first = layer(x, w.first_in, w.first_hidden, w.first_bias)
    second = layer(first[2], w.second_in, w.second_hidden, w.second_bias)
    return probabilities(second[2], w.head, w.head_bias)


@njit(cache=True, nogil=True, error_model="numpy")
def length_of(a, b, c, d, e, f, g, h):
    """Euclidean length of all these arrays together."""
    total = 0.0
    for array in (a.ravel(), b.ravel(), c, d.ravel(), e.ravel(), f, g, h):
        for value in array:
            total += value * value
    return np.sqrt(total)


@njit(cache=True, nogil=True, error_model="numpy")
def gradients(x, y, w, in1, hidden1, bias1, in2, hidden2, bias2, head, head_bias):
    """ρ f32[T, B], and the gradient of Σ w · cross-entropy / Σ w by every parameter, in their order."""
    gates1, cells1, outputs1 = layer(x, in1, hidden1, bias1)
    gates2, cells2, outputs2 = layer(outputs1, in2, hidden2, bias2)
    rho = probabilities(outputs2, head, head_bias)
    d_head, d_head_bias = np.zeros_like(head), np.zeros_like(head_bias)
    d_outputs2, d_outputs1 = np.empty_like(outputs2), np.zeros_like(outputs1)
    total = 0.0
    for t in range(x.shape[0]):
        for b in range(x.shape[1]):
            total += w[t, b]
    for t in range(x.shape[0]):
        for b in range(x.shape[1]):
            d_logit = w[t, b] * (rho[t, b] - y[t, b]) / f32(total)
            d_head_bias[0] += d_logit
            for k in range(head.shape[0]):
                d_head[k] += d_logit * outputs2[t, b, k]
                d_outputs2[t, b, k] = d_logit * head[k]
    d2 = backward(outputs1, in2, hidden2, gates2, cells2, outputs2, d_outputs2, d_outputs1)
    d1 = backward(x, in1, hidden1, gates1, cells1, outputs1, d_outputs1, np.zeros((0, 0, 0), f32))
    return rho, (d1[0], d1[1], d1[2], d2[0], d2[1], d2[2], d_head, d_head_bias)


@njit(cache=True, nogil=True, error_model="numpy")
def backward(x, weight_in, weight_hidden, gates, cells, outputs, d_outputs, d_x):
    """The gradients of a `layer` by its weights, from those by its outputs, which it changes; those by x are added to
    `d_x` if that is not empty."""
    batch, hidden = outputs.shape[1], outputs.shape[2]
    one = f32(1)
    in_t, hidden_t = np.ascontiguousarray(weight_in.T), np.ascontiguousarray(weight_hidden.T)
    d_in, d_hidden, d_bias = np.zeros_like(weight_in), np.zeros_like(weight_hidden), np.zeros(4 * hidden, f32)
    d_cell, dz = np.zeros((batch, hidden), f32), np.empty((batch, 4 * hidden), f32)
    for t in range(x.shape[0] - 1, -1, -1):
        for b in range(batch):
            z = gates[t, b]
            for k in range(hidden):
                gate_in, forget, new, gate_out = z[k], z[hidden + k], z[2 * hidden + k], z[3 * hidden + k]
                before = cells[t - 1, b, k] if t > 0 else f32(0)
                shown, d_out = tanh(cells[t, b, k]), d_outputs[t, b, k]
                dc = d_cell[b, k] + d_out * gate_out * (one - shown * shown)
                d_cell[b, k] = dc * forget
                dz[b, k] = dc * new * gate_in * (one - gate_in)
                dz[b, hidden + k] = dc * before * forget * (one - forget)
                dz[b, 2 * hidden + k] = dc * gate_in * (one - new * new)
                dz[b, 3 * hidden + k] = d_out * shown * gate_out * (one - gate_out)
            for k in range(4 * hidden):
                d_bias[k] += dz[b, k]
        add_product(d_in, np.ascontiguousarray(x[t].T), dz)
        if t > 0:
            add_product(d_hidden, np.ascontiguousarray(outputs[t - 1].T), dz)
            add_product(d_outputs[t - 1], dz, hidden_t)
        if d_x.shape[0] > 0:
            add_product(d_x[t], dz, in_t)
    return d_in, d_hidden, d_bias
