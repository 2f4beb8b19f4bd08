"""Read the imports between the modules of a package from its source, for the structure test and its picture.

No module is imported. An import inside a function counts like one at the top of a file, because it can also close a
circle. Imports by `import_module` cannot be read; `uses` finds where it is called.
"""

import ast
from collections import deque
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import: the importing module, what it imports (both dotted), and where, as ``path:line``."""

    module: str
    target: str
    where: str

    def __str__(self):
        return f"{self.where}: {self.module} imports {self.target}"


@dataclass(frozen=True)
class Package:
    """A package, as read from its source.

    Attributes
    ----------
    name : str
    trees : dict
        Dotted name of each module -> its syntax tree. ``__init__`` has the name of its package.
    paths : dict
        Dotted name -> path, relative to the parent folder of the package.
    lines : dict
        Dotted name -> number of lines.
    inner, outer : tuple of Import
        Imports of modules of the package, and of others.
    """

    name: str
    trees: dict
    paths: dict
    lines: dict
    inner: tuple
    outer: tuple

    def uses(self, is_meant):
        """List (module, name, ``path:line``) of each name, attribute or imported name for which ``is_meant(name)``."""
        return [
            (module, name, f"{self.paths[module]}:{node.lineno}")
            for module, tree in self.trees.items()
            for node in ast.walk(tree)
            for name in _names_in(node)
            if is_meant(name)
        ]

    def rooms(self, inside=None):
        """Return the rooms of the package, or of a package within it: name -> number of lines."""
        rooms = {}
        for module, lines in self.lines.items():
            room = room_of(module, inside or self.name)
            if room:
                rooms[room] = rooms.get(room, 0) + lines
        return rooms

    def arrows(self, inside=None):
        """Gather the imports between rooms: (room, imported room) -> list of Import."""
        inside = inside or self.name
        return _gather(self.inner, lambda module: room_of(module, inside))


def read_package(folder):
    """Read the modules of a package and their imports.

    Parameters
    ----------
    folder : path
        Folder of the package.

    Returns
    -------
    Package
    """
    folder = Path(folder)
    trees, paths, lines = {}, {}, {}
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder.parent)
        parts = relative.parts[:-1] if path.name == "__init__.py" else relative.with_suffix("").parts
        module = ".".join(parts)
        text = path.read_text(encoding="utf-8")
        trees[module], paths[module], lines[module] = ast.parse(text), relative.as_posix(), len(text.splitlines())
    imports = [
        Import(module, _resolve(target, trees), f"{paths[module]}:{line}")
        for module, tree in trees.items()
        for target, line in _imported(tree, module, paths[module].endswith("__init__.py"))
    ]
    imports = dict.fromkeys(imports)  # `from a import b, c` is one import of a
    inner = tuple(one for one in imports if one.target in trees and one.target != one.module)
    outer = tuple(one for one in imports if one.target not in trees)
    return Package(folder.name, trees, paths, lines, inner, outer)


def room_of(module, inside):
    """Return the room of a module: a file or folder directly in a package; None for a module elsewhere."""
    if module == inside:
        return "__init__"
    return module.removeprefix(f"{inside}.").split(".")[0] if module.startswith(f"{inside}.") else None


def module_arrows(package):
    """Gather the imports between modules: (module, imported module) -> list of Import."""
    return _gather(package.inner, lambda module: module)


def find_circles(arrows):
    """Find the shortest circle through each node that is part of one.

    Parameters
    ----------
    arrows : iterable of (node, node)

    Returns
    -------
    list of list
        The nodes in the order of the arrows, the alphabetically first one in front; each circle once.
    """
    after = _successors(arrows)
    circles = {}
    for start in sorted(after):
        path = _shortest_way_back(start, after)
        if path:
            first = path.index(min(path))
            circles.setdefault(tuple(path[first:] + path[:first]))
    return [list(circle) for circle in circles]


def find_upward(arrows, order):
    """List the imports that do not run downward in an order of rooms, top first; rooms not named are below it."""
    rank = {room: number for number, room in enumerate(order)}
    below = len(order)
    return [
        one
        for (room, target), imports in arrows.items()
        for one in imports
        if rank.get(target, below) < rank.get(room, below)
    ]


def floors_of(rooms, arrows):
    """Assign each room a floor: one above the highest that it imports; arrows that close a circle are ignored.

    Parameters
    ----------
    rooms : iterable of str
    arrows : iterable of (room, imported room)

    Returns
    -------
    dict
        Room -> floor; those that import no other room are on floor 0.
    """
    after = _successors(arrows)
    floors = {}

    def visit(room, above):
        if room not in floors:
            below = [visit(target, {*above, room}) for target in after.get(room, ()) if target not in {*above, room}]
            floors[room] = 1 + max(below, default=-1)
        return floors[room]

    for room in sorted(rooms):
        visit(room, set())
    return floors


def _gather(imports, name_of):
    arrows = {}
    for one in imports:
        start, end = name_of(one.module), name_of(one.target)
        if start and end and start != end:
            arrows.setdefault((start, end), []).append(one)
    return arrows


def _successors(arrows):
    after = {}
    for start, end in sorted(arrows):
        after.setdefault(start, []).append(end)
    return after


def _shortest_way_back(start, after):
    """Return the nodes of the shortest circle through ``start``, beginning with it; None if there is none."""
    came_from = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for target in after.get(node, ()):
            if target == start:
                path = [node]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if target not in came_from:
                came_from[target] = node
                queue.append(target)
    return None


def _imported(tree, module, is_package):
    """Yield (dotted name, line) of all imports of a module; relative names are made absolute.

    The top package repeats for type checkers the names that it loads when they are used; these do not count.
    """
    home = module if is_package else module.rpartition(".")[0]
    is_top = "." not in module
    nodes = [node for node in tree.body if not (is_top and _is_for_types(node))]
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            parts = home.split(".")[: len(home.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def _is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _resolve(target, modules):
    """Return the module of an imported name: ``a.b.c`` is module ``a.b`` if ``c`` is not a module."""
    name = target
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or target


def _names_in(node):
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [part for alias in node.names for part in alias.name.split(".")]
    return []
