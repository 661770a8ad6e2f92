"""Run by test_adjusted_wrapped.py: GAP inside a policy under `torch.compile`, against the eager one.

A process of its own, because the test suite's checks of array annotations are no code that dynamo traces.
Prints one line for every claim that held; the backend is the first argument, the device the second (default: cpu).
"""

import sys

import torch

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach, attach_columns
from gap_vla.core.errors import ConfigError
from tests.helpers.torch_policy import Policy


def gradients(module, policy, image, proprio):
    policy.zero_grad()
    module(image, proprio).square().mean().backward()
    return [p.grad.clone() for p in policy.parameters()]


def close(found, expected):
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def main() -> None:
    backend, device = sys.argv[1], (sys.argv[2:] or ["cpu"])[0]
    policy = Policy().to(device)
    image, proprio, rho = torch.randn(4, 6), torch.randn(4, 3), torch.tensor([0.0, 0.3, 0.9, 1.0])
    image, proprio, rho = image.to(device), proprio.to(device), rho.to(device)
    plain = gradients(policy, policy, image, proprio)
    schedule = AdjustmentSchedule(lam=1.0)
    compiled = torch.compile(policy, backend=backend)
    gradients(compiled, policy, image, proprio)
    with attach(policy, "state", schedule, total_steps=2) as gap:
        try:
            with gap.adjusting(rho, 0):
                gradients(compiled, policy, image, proprio)
        except ConfigError as error:
            assert "compiled before" in str(error)
            print("compiled before it was attached: refused")
    for name, make in {
        "submodule": lambda: attach(policy, "state", schedule, total_steps=2),
        "columns": lambda: attach_columns(policy, {"head": slice(4, 8)}, schedule, total_steps=2),
    }.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        with make() as gap:
            compiled = torch.compile(policy, backend=backend, fullgraph=True)
            for given in (rho, rho.flip(0), rho**2):
                with gap.adjusting(given, 0):
                    expected = gradients(policy, policy, image, proprio)
                    close(gradients(compiled, policy, image, proprio), expected)
                    changed = 2 if name == "submodule" else 6  # in the order of the parameters
                    assert not torch.allclose(expected[changed], plain[changed])
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            assert graphs == 1, f"{graphs} graphs for three values of rho"
            with gap.adjusting(rho, 1):  # the window ended
                close(gradients(compiled, policy, image, proprio), plain)
        close(gradients(compiled, policy, image, proprio), plain)
        print(f"{name}: whole graph, one compilation for every rho, plain after the window and after detaching")
    torch._dynamo.reset()
    torch._functorch.config.donated_buffer = False  # the backward pass runs twice
    both = torch.stack([rho, rho.flip(0)], 1)  # of two actions: the two outputs
    with attach(policy, "state", AdjustmentSchedule(lam=1.0, rho="chunk"), total_steps=2) as gap:
        found = []
        for module in (policy, torch.compile(policy, backend=backend, fullgraph=True)):
            policy.zero_grad()
            with gap.adjusting(both, 0):
                gap.scale_losses(module(image, proprio).square()).mean().backward()
            found.append([p.grad.clone() for p in policy.parameters()])
        close(found[1], found[0])
        assert not torch.allclose(found[0][2], plain[2]) and torch.allclose(found[0][6], plain[6])
    print("chunk: as without the compiler")


if __name__ == "__main__":
    main()
