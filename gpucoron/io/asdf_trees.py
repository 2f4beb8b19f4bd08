"""Copy the contents of an ASDF file, so that they remain valid when the file is closed."""

import numpy as np


def copy_tree(node):
    """Copy a node of an ASDF tree with all its children: dictionaries, lists, arrays and plain values."""
    if hasattr(node, "items"):
        return {str(name): copy_tree(child) for name, child in node.items()}
    if isinstance(node, (list, tuple)) or hasattr(node, "append"):
        return [copy_tree(child) for child in node]
    return np.array(node) if hasattr(node, "dtype") and np.ndim(node) else node
