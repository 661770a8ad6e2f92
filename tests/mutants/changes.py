"""Small wrong changes of the code, each with a test that must notice it: what the tests of the method are worth.

`old` occurs exactly once in the file. A change that no longer fits is an error, so whoever rewrites the line rewrites
the change too.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """What is changed, and who must notice."""

    what: str
    file: str  # below gap_vla/
    old: str
    new: str
    killer: str  # a test, as pytest names it


SMALL = "tests/policies/test_policies_adjusted_step.py"
SMALL_STEP = f"{SMALL}::test_the_step_moves_every_branch_as_the_equations_say"
SMALL_END = f"{SMALL}::test_from_the_end_of_the_window_on_a_step_is_the_plain_one_to_the_bit"
OCTO = "tests/training/test_training_octo_adjusted_step.py"
OCTO_STEP = f"{OCTO}::test_the_step_moves_every_leaf_as_the_equations_say"
LOOP = "tests/training/test_training_loop.py::test_every_step_gets_the_factors_of_its_own_number_and_batch"
PARTS = "tests/training/test_training_step.py"
SCHEDULE = "tests/adjustment/test_adjustment_schedule.py"
JAX = "tests/adjustment/test_adjustment_jax.py"
ESTIMATOR = "tests/phases/test_phases_estimator.py"
SEGMENTS = "tests/phases/test_phases_segmentation.py"
MOTION = "tests/phases/test_phases_motion.py"
WINDOWS = "tests/rlds/test_rlds_windows.py"
MIXTURE = "tests/training/test_training_mixture.py"
ROLLOUTS = "tests/policies/test_policies_in_rollouts.py"
STATISTICS = "tests/rollouts/test_evaluation_statistics.py"

RHO_REACHES_TRAINING = (
    Mutant(
        "torch: ρ is zero",
        "training/torch_trainer.py",
        'self.adjustment.adjusting(shown["rho"], step)',
        'self.adjustment.adjusting(torch.zeros_like(shown["rho"]), step)',
        f"{SMALL_STEP}[gap-sample-current]",
    ),
    Mutant(
        "torch: 1 - ρ for ρ",
        "training/torch_trainer.py",
        'self.adjustment.adjusting(shown["rho"], step)',
        'self.adjustment.adjusting(1 - shown["rho"], step)',
        f"{SMALL_STEP}[gap-sample-current]",
    ),
    Mutant(
        "torch: ρ of the step before",
        "policies/windows.py",
        '"rho": self.rho[steps],',
        '"rho": self.rho[np.maximum(steps - 1, 0)],',
        f"{SMALL_STEP}[gap-sample-current]",
    ),
    Mutant(
        "torch: transitions by the ρ that a control trains with",
        "policies/windows.py",
        'is_transition(np.asarray(self._data.fields.get("rho", self.rho)))',
        "is_transition(np.asarray(self.rho))",
        "tests/policies/test_policies_training.py::"
        "test_transitions_are_those_of_the_dataset_whatever_the_method_trains_with",
    ),
    Mutant(
        "Octo: ρ is zero in the step's inputs",
        "training/step.py",
        'chosen["rho"] = batch.get("rho", np.zeros(batch["observation"]["timestep_pad_mask"].shape, np.float32))',
        'chosen["rho"] = np.zeros(batch["observation"]["timestep_pad_mask"].shape, np.float32)',
        f"{OCTO_STEP}[sample]",
    ),
    Mutant(
        "Octo: the sample factor is one",
        "training/octo_trainer.py",
        "place_batch(self.mesh, factors.sample)",
        "place_batch(self.mesh, np.ones_like(factors.sample))",
        LOOP,
    ),
    Mutant(
        "Octo: no factor inside the gradient",
        "training/step.py",
        "batch, rng, True, sample if adjust else None)",
        "batch, rng, True, None)",
        f"{OCTO_STEP}[sample]",
    ),
    Mutant(
        "store: ρ of the step before",
        "rlds/windows.py",
        "{key: self._small[key][step] for key in self.labels}",
        "{key: self._small[key][np.maximum(step - 1, 0)] for key in self.labels}",
        f"{WINDOWS}::test_every_field_belongs_to_its_step",
    ),
)

WHEN = (
    Mutant(
        "Octo: the schedule ends a step early",
        "training/octo_trainer.py",
        'schedule.factors(batch["rho"], step, self.steps',
        'schedule.factors(batch["rho"], step + 1, self.steps',
        LOOP,
    ),
    Mutant(
        "Octo: the schedule ends a step late",
        "training/octo_trainer.py",
        'schedule.factors(batch["rho"], step, self.steps',
        'schedule.factors(batch["rho"], max(step - 1, 0), self.steps',
        LOOP,
    ),
    Mutant(
        "torch: the schedule ends a step early",
        "training/torch_trainer.py",
        'self.adjustment.adjusting(shown["rho"], step)',
        'self.adjustment.adjusting(shown["rho"], step + 1)',
        f"{SMALL_END}[gap-sample-current]",
    ),
    Mutant(
        "torch: the schedule ends a step late",
        "training/torch_trainer.py",
        'self.adjustment.adjusting(shown["rho"], step)',
        'self.adjustment.adjusting(shown["rho"], max(step - 1, 0))',
        f"{SMALL_END}[gap-sample-current]",
    ),
    Mutant(
        "torch: the loop counts from one",
        "training/loop.py",
        "trainer.step(batch, done, measure=logged)",
        "trainer.step(batch, done + 1, measure=logged)",
        f"{SMALL_END}[gap-sample-current]",
    ),
    Mutant(
        "torch: the loop trains on one batch for ever",
        "training/torch_trainer.py",
        "self.place(self.windows.batch(step))",
        "self.place(self.windows.batch(0))",
        f"{SMALL}::test_an_epoch_shows_every_window_once[gap-sample-current]",
    ),
    Mutant(
        "a window of training that is rounded down",
        "adjustment/schedule.py",
        "-(-above * (2**51 - 1) * steps // (below * 2**51))",
        "above * steps // below",
        f"{SMALL_END}[gap-sample-current]",
    ),
    Mutant(
        "a window of training with one step more",
        "adjustment/schedule.py",
        "-(-above * (2**51 - 1) * steps // (below * 2**51))",
        "-(-above * (2**51 - 1) * steps // (below * 2**51)) + 1",
        f"{SCHEDULE}::test_after_the_window_every_factor_is_exactly_one",
    ),
)

HOW_MUCH = (
    Mutant(
        "M6: ρ for 1 - ρ",
        "adjustment/schedule.py",
        "Factors((1 - rho).astype(np.float32), np.float32(1), lam)",
        "Factors(rho.astype(np.float32), np.float32(1), lam)",
        f"{SCHEDULE}::test_sample_is_one_minus_rho_with_lambda_on_the_update",
    ),
    Mutant(
        "sample_lambda: without λ",
        "adjustment/schedule.py",
        "(1 - lam * rho).astype",
        "(1 - rho).astype",
        f"{SCHEDULE}::test_sample_lambda_is_one_minus_lambda_rho_per_sample",
    ),
    Mutant(
        "M7: no factor",
        "adjustment/schedule.py",
        "np.float32(1 - lam * counted.max())",
        "np.float32(1)",
        f"{SCHEDULE}::test_batch_is_one_number_from_the_largest_rho_of_the_batch",
    ),
    Mutant(
        "M7: padded steps count",
        "adjustment/schedule.py",
        "counted = rho[counts]",
        "counted = rho",
        f"{SCHEDULE}::test_batch_does_not_count_padded_steps",
    ),
    Mutant(
        "M7 is dead in Octo's step",
        "training/step.py",
        "scale_group_gradients(gradients, group, factors.gradient, may_be_empty=True)",
        "scale_group_gradients(gradients, group, 1.0, may_be_empty=True)",
        f"{OCTO_STEP}[batch]",
    ),
    Mutant(
        "M7 is dead in torch",
        "adjustment/torch.py",
        "torch.from_numpy(factors.sample * factors.gradient)",
        "torch.from_numpy(factors.sample)",
        f"{SMALL_STEP}[gap-batch-current]",
    ),
    Mutant(
        "the first step's ρ for the window's last",
        "adjustment/schedule.py",
        "np.broadcast_to(rho[:, -1:], rho.shape)",
        "np.broadcast_to(rho[:, :1], rho.shape)",
        f"{SCHEDULE}::test_current_uses_the_last_step_of_the_window_for_all",
    ),
    Mutant(
        "rho_only with λ",
        "policies/registry.py",
        '"rho_only": {"mode": "sample", "lam": 1.0}',
        '"rho_only": {"mode": "sample"}',
        f"{SMALL_STEP}[rho_only-sample-current]",
    ),
    Mutant(
        "lambda_only with the configured ρ",
        "policies/registry.py",
        '{"mode": "fixed", "fixed_rho": 0.0}',
        '{"mode": "fixed"}',
        f"{SMALL_STEP}[lambda_only-sample-current]",
    ),
)

WHERE = (
    Mutant(
        "JAX: the cotangent is not scaled",
        "adjustment/jax.py",
        "return _times(cotangent, factor), ",
        "return cotangent, ",
        f"{JAX}::test_scale_gradient_keeps_the_value_and_scales_the_cotangent",
    ),
    Mutant(
        "JAX: one ρ for the whole window",
        "adjustment/jax.py",
        "sample[:, :, None, None]",
        "sample[:, -1:, None, None]",
        f"{JAX}::test_factors_act_on_their_own_window_step",
    ),
    Mutant(
        "JAX: the positional embedding is no leaf of the branch",
        "adjustment/jax.py",
        'own = {f"{token_group}_projection", f"{token_group}_pos_embedding"}',
        'own = {f"{token_group}_projection"}',
        f"{JAX}::test_match_group_names_exactly_the_leaves_before_the_transformer",
    ),
    Mutant(
        "λ before Adam's normalisation",
        "octo/optimizer.py",
        "        optax.scale_by_adam(**adam_options),\n"
        "        optax.identity() if after_normalization is None else after_normalization,\n",
        "        optax.identity() if after_normalization is None else after_normalization,\n"
        "        optax.scale_by_adam(**adam_options),\n",
        f"{OCTO_STEP}[sample]",
    ),
    Mutant(
        "λ scales the weight decay too",
        "octo/optimizer.py",
        "        optax.identity() if after_normalization is None else after_normalization,\n"
        "        optax.add_decayed_weights(weight_decay, decay_mask),\n",
        "        optax.add_decayed_weights(weight_decay, decay_mask),\n"
        "        optax.identity() if after_normalization is None else after_normalization,\n",
        f"{OCTO_STEP}[sample]",
    ),
    Mutant(
        "branches by a substring, as in the release",
        "training/packing.py",
        "if path in group:",
        'if "pro" in path:',
        f"{PARTS}::test_branches_are_told_by_the_owner_of_a_leaf_not_by_a_substring",
    ),
    Mutant(
        "parts of a batch with each other's ρ",
        "training/step.py",
        "jax.tree_util.tree_map(cut, dict(batch)), cut(sample)",
        "jax.tree_util.tree_map(cut, dict(batch)), jnp.reshape(sample, (parts, -1, *sample.shape[1:]))",
        f"{PARTS}::test_in_parts_every_sample_keeps_its_own_factor_of_gap",
    ),
    Mutant(
        "parts of a batch weigh alike",
        "training/step.py",
        "weights = entries / jnp.maximum(jnp.sum(entries), 1)",
        "weights = jnp.full_like(entries, 1 / parts)",
        f"{PARTS}::test_a_batch_in_parts_gives_the_step_of_the_whole",
    ),
    Mutant(
        "torch: the gradient is not scaled",
        "adjustment/torch_gradients.py",
        "scaled = (cotangents[0] * factor).to(",
        "scaled = (cotangents[0]).to(",
        f"{SMALL_STEP}[gap-sample-current]",
    ),
    Mutant(
        "torch: one ρ for the whole window",
        "adjustment/torch_places.py",
        "if len(shape) >= 3 and tuple(shape[:2]) == (batch, window):\n        return sample",
        "if len(shape) >= 3 and tuple(shape[:2]) == (batch, window):\n        return sample[:, -1]",
        f"{SMALL_STEP}[gap-sample-step]",
    ),
    Mutant(
        "torch: λ is one",
        "adjustment/torch.py",
        "self._steps.begin(float(factors.update))",
        "self._steps.begin(1.0)",
        f"{SMALL_STEP}[lambda_only-sample-current]",
    ),
    Mutant(
        "torch: λ scales the weight decay too",
        "adjustment/torch_optimizer.py",
        "start = before if decay is None else before * (1 - decay)",
        "start = before",
        f"{SMALL_STEP}[gap-sample-current]",
    ),
    Mutant(
        "torch: clipping does nothing",
        "training/torch_trainer.py",
        "self.policy.parameters(), self.config.optimizer.clip_gradient)",
        "self.policy.parameters(), 1e9)",
        f"{SMALL_STEP}[concat-sample-current]",
    ),
)

LABELS = (
    Mutant(
        "M3: change points cost nothing",
        "phases/search.py",
        "value += prices[a]",
        "value += 0.0",
        f"{SEGMENTS}::test_the_search_finds_the_minimum_that_brute_force_finds",
    ),
    Mutant(
        "M2: the rotation term without α",
        "phases/search.py",
        "total -= t.alpha * along / length",
        "total -= along / length",
        f"{SEGMENTS}::test_prefix_sums_give_the_cost_by_definition",
    ),
    Mutant(
        "M2: the sign of a quaternion matters",
        "phases/search.py",
        "                along = -along\n",
        "                along = along\n",
        f"{SEGMENTS}::test_world_frame_quaternion_sign_and_unit_do_not_matter",
    ),
    Mutant(
        "M2: fingers that close count as opening",
        "phases/search.py",
        "elif d < -t.gripper_dead:\n            sign = -1",
        "elif d < -t.gripper_dead:\n            sign = 1",
        f"{SEGMENTS}::test_prefix_sums_give_the_cost_by_definition",
    ),
    Mutant(
        "M1: rotation in the body's frame",
        "phases/motion.py",
        "quaternion_product(second, first * [1, -1, -1, -1])",
        "quaternion_product(first * [1, -1, -1, -1], second)",
        f"{MOTION}::test_relative_rotation_is_the_log_of_the_world_frame_rotation",
    ),
    Mutant(
        "M4: the first step is no target",
        "phases/targets.py",
        "targets[:1] = 1",
        "targets[:0] = 1",
        f"{ESTIMATOR}::test_targets_are_one_at_change_points_and_at_the_first_step",
    ),
    Mutant(
        "M5: w(d) = k·d",
        "phases/targets.py",
        "np.minimum(k * distance**2, most)",
        "np.minimum(k * distance, most)",
        f"{ESTIMATOR}::test_negatives_weigh_k_d_squared_up_to_the_bound",
    ),
    Mutant(
        "M5: the scale is fitted on held-out recordings too",
        "phases/estimator.py",
        "features[i][1:] for i in kept]",
        "features[i][1:] for i in usable]",
        f"{ESTIMATOR}::test_nothing_is_learnt_from_what_is_held_out",
    ),
    Mutant(
        "M5: held-out recordings are learnt too",
        "phases/estimator.py",
        "[examples[i] for i in kept],",
        "[examples[i] for i in usable],",
        f"{ESTIMATOR}::test_nothing_is_learnt_from_what_is_held_out",
    ),
    Mutant(
        "M5: the worst epoch is kept",
        "phases/training.py",
        "held_losses[-1] <= held_losses[kept]",
        "held_losses[-1] >= held_losses[kept]",
        f"{ESTIMATOR}::test_the_epoch_kept_is_the_best_one_on_recordings_that_are_held_out",
    ),
    Mutant(
        "M5: ρ is late by the lookahead",
        "phases/estimator.py",
        "lstm_run(np.pad(features, ((0, ahead), (0, 0))), weights)[ahead:]",
        "lstm_run(np.pad(features, ((0, ahead), (0, 0))), weights)[: len(features)]",
        f"{ESTIMATOR}::test_rho_sees_so_many_samples_ahead_and_no_more",
    ),
    Mutant(
        "M5: targets are early by the lookahead",
        "phases/estimator.py",
        "np.pad(targets, (ahead, 0))",
        "np.pad(targets, (0, ahead))",
        f"{ESTIMATOR}::test_rho_is_high_at_change_points_and_low_between",
    ),
)

DATA_AND_ROLLOUTS = (
    Mutant(
        "mixture: every dataset has the same share",
        "training/data.py",
        "[1.0, *(weight for _, weight in config.data.mixture)]",
        "[1.0, *(1.0 for _ in config.data.mixture)]",
        f"{MIXTURE}::test_the_weights_are_shares_of_the_windows",
    ),
    Mutant(
        "mixture: windows of the first dataset in the place of the others",
        "rlds/loader.py",
        "batches.append(part.gather(addresses[mine, 2], addresses[mine, 1]))",
        "batches.append(parts[0].gather(addresses[mine, 2], addresses[mine, 1]))",
        f"{MIXTURE}::test_windows_have_the_rho_and_the_statistics_of_their_own_dataset",
    ),
    Mutant(
        "windows: history in reverse",
        "rlds/windows.py",
        "history = np.arange(1 - window_size, 1)",
        "history = np.arange(0, -window_size, -1)",
        f"{WINDOWS}::test_windows_are_upstreams",
    ),
    Mutant(
        "windows: a padded step counts as one of the episode",
        "rlds/windows.py",
        "WindowIndices(observation, raw >= 0, action, valid)",
        "WindowIndices(observation, raw >= -1, action, valid)",
        f"{WINDOWS}::test_windows_are_upstreams",
    ),
    Mutant(
        "windows: an action beyond the end is learnt",
        "rlds/windows.py",
        "observation[..., None] + ahead <= last",
        "observation[..., None] + ahead <= last + 1",
        f"{WINDOWS}::test_our_mask_ends_with_the_episode_where_upstreams_is_one_step_late",
    ),
    Mutant(
        "torch: a window reaches into the episode before",
        "policies/windows.py",
        "frames = np.maximum(numbers[:, None] + np.arange(1 - self._frames, 1), start[:, None])",
        "frames = np.maximum(numbers[:, None] + np.arange(1 - self._frames, 1), 0)",
        "tests/policies/test_policies_training.py::test_a_window_shows_its_own_history_and_never_the_episode_before",
    ),
    Mutant(
        "rollouts: proprioception is not normalised",
        "rollouts/chunk_policy.py",
        "        return normalized\n",
        "        return value\n",
        f"{ROLLOUTS}::test_actions_are_those_of_the_network_in_the_units_of_the_data",
    ),
    Mutant(
        "rollouts: actions stay normalised",
        "rollouts/chunk_policy.py",
        "chunks.extend(np.array(actions))",
        "chunks.extend(normalized)",
        f"{ROLLOUTS}::test_actions_are_those_of_the_network_in_the_units_of_the_data",
    ),
    Mutant(
        "rollouts: padding counts as seen",
        "rollouts/chunk_policy.py",
        "seen = np.arange(self._window) >= self._window - self.steps",
        "seen = np.arange(self._window) >= 0",
        "tests/rollouts/test_evaluation_octo_policy.py::test_history_receding_horizon_and_ensemble_are_upstreams",
    ),
    Mutant(
        "rollouts: the last actions of a chunk first",
        "rollouts/chunk_policy.py",
        "self._left = deque(chunk[: self._execute])",
        "self._left = deque(chunk[-self._execute :])",
        f"{ROLLOUTS}::test_a_chunk_is_executed_before_the_next_is_asked_for",
    ),
    Mutant(
        "rollouts: an episode that was lost with its simulator fails at once",
        "rollouts/rollout.py",
        "if given_up or not (starting or answer.lost):",
        "if given_up or not starting:",
        "tests/rollouts/test_evaluation_rollout.py"
        "::test_an_episode_that_was_lost_once_with_its_simulator_is_tried_again_and_costs_the_policy_nothing",
    ),
    Mutant(
        "intervals: a normal distribution for few seeds",
        "rollouts/statistics.py",
        "half = float(special.stdtrit(len(per_seed) - 1, 0.5 + LEVEL / 2)) * spread",
        "half = float(special.ndtri(0.5 + LEVEL / 2)) * spread",
        f"{STATISTICS}::test_one_seed_that_stands_out_leaves_the_question_open",
    ),
    Mutant(
        "intervals: seeds alone are drawn again",
        "rollouts/statistics.py",
        "return rows, rng.multinomial(layouts, np.full(layouts, 1 / layouts), size=draws) / layouts",
        "return rows, np.full((draws, layouts), 1 / layouts)",
        f"{STATISTICS}::test_the_interval_covers_the_true_difference_as_often_as_it_says",
    ),
)

MUTANTS = (*RHO_REACHES_TRAINING, *WHEN, *HOW_MUCH, *WHERE, *LABELS, *DATA_AND_ROLLOUTS)
