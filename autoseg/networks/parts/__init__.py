"""Parts that a U-Net may be made of: blocks, skips, attention, bottlenecks; named in a NetworkSpec."""
