"""Behaviour cloning of a small OpenVLA on the simulated tabletop, run by tools/train_demo/run."""
