"""Random changes of patches: parameters are drawn first, then applied on the CPU or on the device."""
