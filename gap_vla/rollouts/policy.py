"""What every policy looks like to the rollouts, and the ones that need no model: random, expert, replay."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import queue
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import one_line, whole
from gap_vla.core.processes import parts

EXPERT_ACTION = "expert_action"
"""Observation key of the scripted expert's action; only policies with `privileged = True` are given it."""

MOST_ACTION = 100.0
"""Entries of actions, which lie in -1 to 1, may be so far off and are clipped; beyond it they are no actions."""

FIRST_ANSWER = 600.0
"""Seconds that a policy has for its first answer, at least: it may have to be compiled for that."""


class PolicyError(UserError, RuntimeError):
    """A policy that cannot be loaded or does not fit the task; the message says what to do."""


class PolicyUnavailable(PolicyError):
    """The policy has gone away (its server, say): the evaluation stops, keeps what it has, can be resumed."""


@runtime_checkable
class Policy(Protocol):
    """A batched policy: one row per episode that is under way.

    Observations, all with leading axis B: `image_<camera>` uint8[B, h, w, 3]; `proprio` float32[B, 9 * arms]
    (per arm eef xyz in m, world; quaternion wxyz; two finger positions in m); `language_instruction` str[B].

    Optional attributes: `privileged` (bool; also receive `expert_action`), `layout_seeds` (episode number to
    simulator seed, for policies that only make sense on certain layouts), `identity` (JSON-able dict that
    says which policy this is; a resumed evaluation compares it), `source` (where it was loaded from, for the
    reader), `patience` (seconds that a call may wait for a server, on top of its own time limit),
    `warm_up()` (called once, before the first answer is asked for, while the simulators start),
    `forget(episode_ids)` (these episodes are over: nothing needs to be remembered about them), `forgotten` (a set
    of episodes that its server does not remember any more: they are played anew).
    """

    name: str

    def reset(self, episode_ids: Sequence[int]) -> None:
        """These episodes start now: forget whatever was remembered under their numbers."""

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """Actions in the simulator's units: per arm delta xyz, delta rotation vector, gripper (+1 closes),
        in [-1, 1].
        """


def as_numbers(result: Any) -> np.ndarray:
    """float32, of whatever shape, of what a policy returned. Raises PolicyError: no numbers."""
    try:
        kind, masked = np.asarray(result).dtype, np.ma.is_masked(result)
        if kind.kind not in "bcOSUmM" and not masked:  # numpy would make numbers of them
            return np.asarray(result, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's, of tensors with a gradient
        what = f"{type(result).__name__}, not an array of numbers: {one_line(error)}"
        raise PolicyError(f"the policy returned {what}") from error
    raise PolicyError(f"the policy returned {'masked entries' if masked else kind}, not an array of numbers")


def asked(
    policy: Policy, observations: dict[str, np.ndarray], episode_ids: Sequence[int], most: float = MOST_ACTION
) -> Float[np.ndarray, "B A"]:
    """The policy's actions where nothing but they is measured; beyond `most` they are none.

    Raises:
        PolicyError: another number of rows, no numbers, or NaN or numbers that are no actions in them.
    """
    actions = as_numbers(policy.act(observations, episode_ids))
    if actions.ndim != 2 or len(actions) != len(episode_ids):
        raise PolicyError(f"{policy.name} returned actions {actions.shape} for {len(episode_ids)} observations")
    if (odd := ~(np.abs(actions) <= most).all(1)).any():
        where = f"{policy.name}: the action in episode {episode_ids[int(odd.argmax())]}"
        raise PolicyError(f"{where} is NaN or no action, beyond ±{most:g}; take another checkpoint or policy")
    return actions


def forget(policy: Policy, episode_ids: Sequence[int]) -> None:
    """Tells a policy that remembers something about episodes that these are over."""
    if hasattr(policy, "forget"):
        policy.forget(episode_ids)


def identity(policy: Policy) -> dict[str, Any]:
    """What an evaluation writes down about its policy, to notice on resume that it is another one."""
    kind, said = type(policy), getattr(policy, "identity", None) or {}
    if not isinstance(said, Mapping):
        raise PolicyError(f"{policy.name}: its identity is {said!r:.60}; let it be a map that says which policy it is")
    own = {"name": policy.name, **said}
    bases = {base.__module__.partition(".")[0] for base in kind.__mro__ if base is not Policy}
    borrowed = said and inspect.getattr_static(policy, "identity", None) is None  # __getattr__
    if borrowed or ("gap_vla" in bases and not kind.__module__.startswith("gap_vla.")):
        own.setdefault("class", kind.__qualname__)  # its changes are no part of what it inherits, or hands on
    return as_json(policy.name, own)


def as_json(whose: str, said: dict[str, Any]) -> dict[str, Any]:
    """An identity as a file gives it back. Raises PolicyError: it is no JSON."""
    try:
        return json.loads(json.dumps(said, allow_nan=False))
    except (TypeError, ValueError) as error:
        what = "numbers (no NaN), texts, lists and maps of Python's"
        raise PolicyError(f"{whose}: its identity holds something else than {what}: {one_line(error)}") from None


class RandomPolicy:
    """Uniform actions; the same (seed, episode) draws the same ones, whatever else runs beside it."""

    name = "random"

    def __init__(self, action_dim: int, seed: int = 0) -> None:
        self.action_dim = whole("action_dim", action_dim, 1, 10_000, PolicyError)
        self.seed = whole("seed", seed, 0, 2**63, PolicyError)
        self.identity = {"seed": self.seed}
        self._generators: dict[int, np.random.Generator] = {}

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            self._generators[episode] = np.random.default_rng([self.seed, episode])

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        draws = [self._generators[episode].uniform(-1, 1, self.action_dim) for episode in episode_ids]
        return np.asarray(draws, np.float32)


class ExpertPolicy:
    """The task's scripted expert. It sees the simulator's state, so it runs in the worker; here it is only
    passed on.
    """

    name = "expert"
    privileged = True

    def reset(self, episode_ids: Sequence[int]) -> None:
        pass

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        return observations[EXPERT_ACTION]


class ReplayPolicy:
    """Plays recorded actions back, on the layouts on which they were recorded.

    Args:
        actions: one float32[T, A] per episode, in order. After the last action the episode gets zeros, and
            the gripper entries (every seventh) keep their last value.
        layout_seeds: the simulator seed of each recording.
    """

    name = "replay"

    def __init__(self, actions: Sequence[np.ndarray], layout_seeds: Sequence[int]) -> None:
        if len(layout_seeds) != len(actions):
            raise PolicyError(f"{len(actions)} recordings but {len(layout_seeds)} seeds; need one seed for each")
        self.source: str | None = None
        self.variant: Any = None  # of the scene, as far as its recordings say
        self.succeeded: Sequence[bool] = ()  # of each, when it was recorded
        for place, one in enumerate(map(np.asarray, actions)):
            odd = np.ma.is_masked(actions[place]) or one.dtype.kind not in "fiu" or not np.isfinite(one).all()
            if odd or one.ndim != 2 or not one.size:
                raise PolicyError(f"recording {place} is {one.dtype}{[*one.shape]}; give finite numbers [T, A]")
        widths = {np.shape(one)[1] for one in actions}
        if len(widths) != 1:
            raise PolicyError(f"{len(actions)} recordings, of widths {sorted(widths)}; give one or more, of one width")
        seeds = [whole("the seed of a recording's layout", seed, 0, 2**32 - 1, PolicyError) for seed in layout_seeds]
        self._actions = [np.array(a, np.float32) for a in actions]  # not the caller's, which may change
        self.layout_seeds = dict(enumerate(seeds))
        self.lengths = [len(one) for one in self._actions]
        played = hashlib.sha256(b"".join(action.tobytes() for action in self._actions))
        self.identity = {"recordings": len(actions), "actions": played.hexdigest()[:16]}
        self._step: dict[int, int] = {}

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            if not 0 <= episode < len(self._actions):
                raise PolicyError(f"episode {episode}: only {len(self._actions)} recordings; lower --episodes")
            self._step[episode] = 0

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        rows = []
        if fresh := set(episode_ids) - self._step.keys():
            raise PolicyError(f"episodes {sorted(fresh)}: reset each of them once before it acts")
        for episode in episode_ids:
            recording, step = self._actions[episode], self._step[episode]
            self._step[episode] = step + 1
            if step < len(recording):
                rows.append(recording[step])
            else:
                hold = np.zeros(recording.shape[1], np.float32)
                hold[6::7] = recording[-1, 6::7]
                rows.append(hold)
        return np.stack(rows)


class _Thread:
    """Runs calls one after the other in a daemon thread, which can be abandoned while it hangs in one of them."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="policy")
        self._thread.start()

    def _serve(self) -> None:
        while call := self._calls.get():
            try:
                self._results.put((call(), None))
            except BaseException as error:
                self._results.put((None, error))

    def run(self, call: Callable[[], Any], limit: float) -> Any:
        self._calls.put(call)
        for part in parts(limit):
            with contextlib.suppress(queue.Empty):
                result, error = self._results.get(timeout=part)
                break
        else:
            raise queue.Empty
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._calls.put(None)
        self._thread.join(1)  # compiled code that a thread still leaves while the process ends would abort it


class GuardedPolicy:
    """A policy whose wrong answers become messages; what it raises is raised.

    Args:
        limit: seconds for one call.
        first_limit: seconds for the first `act`, which may compile, and for what is asked before; at least `limit`.

    Attributes:
        silent: how many calls it has not answered in time since it last acted (to begin an episode is no sign of
            life: a client of a server that hangs can do that).
        answered: whether it has ever acted.
    """

    def __init__(self, policy: Policy, action_dim: int, *, limit: float, first_limit: float) -> None:
        self._policy, self._width = policy, action_dim
        patience = float(getattr(policy, "patience", 0.0))  # a remote policy may wait this long for its server
        self._one_by_one = hasattr(policy, "patience")  # it asks its server for each row, and each has this limit
        self._limit, self._next_limit = limit + patience, max(limit, first_limit) + patience
        self._privileged = bool(getattr(policy, "privileged", False))
        self._thread = _Thread()
        self.silent, self.answered = 0, False
        self._told = False

    def warm_up(self) -> None:
        """Lets a policy that compiles do so."""
        if hasattr(self._policy, "warm_up"):
            self._call(self._policy.warm_up, self._next_limit)

    def reset(self, episode_ids: Sequence[int]) -> str | None:
        """Returns why the policy could not start these episodes, or None."""
        return self._call(lambda: self._policy.reset(episode_ids), self._next_limit)[1]  # some load their model then

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> tuple[np.ndarray, dict[int, str]]:
        """Returns float32[B, A] clipped to [-1, 1], and by row why it is unusable."""
        if not self._privileged:
            observations = {key: value for key, value in observations.items() if key != EXPERT_ACTION}
        rows = len(episode_ids)
        unusable = np.zeros((rows, self._width), np.float32)
        limit = self._next_limit * (rows if self._one_by_one else 1)
        result, fault = self._call(lambda: self._policy.act(observations, episode_ids), limit)
        self._next_limit = self._limit
        actions: np.ndarray = unusable
        if fault is None:
            self.silent, self.answered = 0, True
            try:
                actions = as_numbers(result)
            except PolicyError as error:
                fault = str(error)
        if actions.shape != unusable.shape:
            given = f"actions of shape {actions.shape}, the task takes {unusable.shape}"
            fault = f"the policy returned {given}: was it trained for this task?"
        if fault is not None:
            return unusable, dict.fromkeys(range(rows), fault)
        odd = ~(np.abs(actions) <= MOST_ACTION)  # also NaN
        faults = {}
        for row in np.flatnonzero(odd.any(1)):
            what = "NaN or infinity" if not np.isfinite(actions[row]).all() else f"{actions[row][odd[row]][0]:g}"
            entries = np.flatnonzero(odd[row]).tolist()
            faults[int(row)] = f"the policy returned {what} in action entries {entries}; actions lie in -1 to 1"
        if not self._told and (np.abs(actions[~odd]) > 2).any():  # networks overshoot a little
            self._told = True
            warnings.warn(f"{self._policy.name} returned actions beyond ±2, which are cut to -1 to 1", stacklevel=2)
        return np.clip(np.where(odd.any(1)[:, None], 0, actions), -1, 1), faults

    def forget(self, episode_ids: Sequence[int]) -> None:
        """These episodes are over; policies that remember something about each need not do so any longer."""
        if not self.silent:
            self._call(lambda: forget(self._policy, episode_ids), self._limit)

    @property
    def forgotten(self) -> set[int]:
        """Episodes of which it, or its server, has lost what it kept."""
        return {*getattr(self._policy, "forgotten", ())}

    def close(self) -> None:
        self._thread.end()

    def _call(self, call: Callable[[], Any], limit: float) -> tuple[Any, str | None]:
        try:
            return self._thread.run(call, limit), None
        except queue.Empty:
            self._thread = _Thread()  # the old one is stuck for good
            self.silent += 1
            return None, f"the policy did not answer within {limit:g} s"


def require_seen(policy: Policy, cameras: Sequence[str], named: str) -> None:
    """Raises PolicyError: the cameras that are drawn are not those that a policy, as it is `named`, says it sees."""
    seen = {*getattr(policy, "cameras", ())}
    if seen - {*cameras}:
        raise PolicyError(
            f"{named} sees {', '.join(sorted(seen))}, and --cameras names {', '.join(cameras) or 'none'}; name those "
            "that it sees, or leave that away"
        )
    if seen and (idle := sorted({*cameras} - seen)):
        raise PolicyError(
            f"--cameras {idle[0]} has no effect: {named} sees {', '.join(sorted(seen))} alone; leave it out"
        )
