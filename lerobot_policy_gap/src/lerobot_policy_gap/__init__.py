"""GAP as a policy plugin of LeRobot: `lerobot-train --policy.type=gap_act …` (docs/ANY_POLICY.md).

LeRobot imports this package, which registers the policy types and the scheduler `gap`.
"""

from lerobot_policy_gap import configuration_gap  # noqa: F401
