"""What a network of another package promises; the checks are in `autoseg.testing.network_trial`, which loads torch.

Tested in tests/test_testing_networks.py.
"""

from collections.abc import Mapping


def network_violations(name: str, options: Mapping[str, str] | None = None) -> list[str]:
    """Try an installed network on small images, and say which promises it breaks.

    A network promises
    - a declaration that loads no torch, and refuses settings that it does not know with a ValueError;
    - logits (B, K, *S) for images (B, C, *S) of every size that it declares, for any number of channels and heads, in
      training also for a batch of one; with deep supervision a list of them;
    - start values that follow torch's seed, finite gradients, and the same logits for the same image at prediction;
    - weights that another one, built alike, can take.

    Args:
        name: Name of the network.
        options: Its own settings; None: its defaults.

    Returns:
        One sentence per broken promise; empty when all is well.
    """
    from autoseg.testing.network_trial import list_violations

    return list_violations(name, dict(options or {}))
