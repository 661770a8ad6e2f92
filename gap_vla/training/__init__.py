"""From demonstrations to success rates: one configuration, one run and one loop, whatever backend trains the policy.

A backend is a subclass of `config.Experiment` and one of `loop.Trainer`: `octo`, `octo_trainer` and `torch`,
`torch_trainer`.
"""
