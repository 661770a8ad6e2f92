"""Two short recordings of robosuite's Lift as robosuite's collection stores them (states, actions, model), no pictures.

python write_lift.py demo.hdf5        # in an environment with robomimic and robosuite, see README.md
"""

from __future__ import annotations

import json
import sys

import h5py
import numpy as np


def main(path: str) -> None:
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.envs.env_robosuite import EnvRobosuite
    from robosuite.controllers import load_composite_controller_config

    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["robot0_eef_pos"], "rgb": []}})
    controller = load_composite_controller_config(controller="BASIC", robot="Panda")
    settings = {"robots": ["Panda"], "controller_configs": controller, "control_freq": 20, "horizon": 100}
    env = EnvRobosuite(
        "Lift",
        render=False,
        render_offscreen=False,
        use_image_obs=False,
        reward_shaping=False,
        ignore_done=True,
        **settings,
    )
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        lengths = (14, 17)
        for i, steps in enumerate(lengths):
            env.reset()
            start = env.get_state()
            env.reset_to(start)
            states, actions = [], []
            for t in range(steps):
                action = np.zeros(7)
                action[:3], action[5] = 0.4 * np.sin(np.arange(3) + t / 5), 0.1
                action[6] = 1 if t > steps // 2 else -1
                states.append(env.get_state()["states"])
                actions.append(action)
                env.step(action)
            demo = data.create_group(f"demo_{i}")
            demo["states"], demo["actions"] = np.array(states), np.array(actions)
            demo.attrs["model_file"], demo.attrs["num_samples"] = start["model"], steps
        data.attrs["total"] = sum(lengths)
        data.attrs["env_args"] = json.dumps(env.serialize(), default=lambda array: array.tolist())


if __name__ == "__main__":
    main(sys.argv[1])
