"""Behaviour cloning of a small, genuine OpenVLA on the simulated tabletop; `tools/train_demo/run` is the one command."""
