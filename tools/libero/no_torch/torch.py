"""Stands for PyTorch, of which vla-eval's LIBERO benchmark only wraps `load`: initial states are
NumPy's here. Found after an installed PyTorch."""


def load(*_, **__):
    """Only PyTorch can."""
    raise RuntimeError("PyTorch is not installed: this stands for it")
