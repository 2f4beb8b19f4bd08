"""Draw the rooms (modules and packages) of the package on floors, from the imports in its source.

The SVG is embedded in the page and uses its colours, light or dark. A room is one floor above the highest room that it
imports. An arrow that follows from others (a imports b, b imports c, so a may import c) is omitted; an arrow that does
not run downward closes a circle and is red. While the mouse is on a room, only its arrows are shown.
"""

from itertools import pairwise
from statistics import fmean

from rooms import floors_of, read_package

_BOX = 42  #: height of a room, in pixels; all below too
_FLOOR = 88  #: from one floor to the next
_GAP = 22  #: between two rooms
_LANE = 14  # width of an arrow where it passes a floor
_LETTER = 7.83  # width of a letter in the names
_OUT = 40  # how far an arrow upward extends to the right
_MARGIN = 12

_STYLE = """
svg.rooms { display: block; margin: 1rem auto; max-width: 100%; height: auto; }
svg.rooms rect { fill: var(--color-background-secondary, #f8f9fb); stroke: var(--color-foreground-border, #878787); }
svg.rooms text { fill: var(--color-foreground-primary, #111); text-anchor: middle; font: 13px monospace; }
svg.rooms text.lines { fill: var(--color-foreground-secondary, #555); font: 11px sans-serif; }
svg.rooms path { fill: none; stroke: var(--color-foreground-muted, #6b6f76); stroke-width: 1.3; }
svg.rooms path.upward { stroke: #d33; stroke-dasharray: 5 3; stroke-width: 1.8; }
svg.rooms marker path { fill: var(--color-foreground-muted, #6b6f76); stroke: none; }
svg.rooms marker path.upward { fill: #d33; }
"""


def draw_rooms(folder, target):
    """Write ``rooms.svg``, the whole package, and ``rooms_backends.svg``, the inside of its backends.

    Parameters
    ----------
    folder, target : Path
        The package, and the output folder.
    """
    package = read_package(folder)
    target.mkdir(exist_ok=True)
    for path, inside in (("rooms.svg", package.name), ("rooms_backends.svg", f"{package.name}.backends")):
        text = draw(package, inside)
        path = target / path
        if not path.exists() or path.read_text() != text:  # Sphinx reads rewritten pages again
            path.write_text(text)


def draw(package, inside):
    """Draw the rooms of a package, or of a package within it.

    Parameters
    ----------
    package : rooms.Package
    inside : str
        Dotted name of the package whose rooms are drawn.

    Returns
    -------
    str
        The SVG.
    """
    rooms, arrows = package.rooms(inside), package.arrows(inside)
    floors = floors_of(rooms, arrows)
    down = {arrow for arrow in arrows if floors[arrow[0]] > floors[arrow[1]]}
    shown = _without_implied_arrows(down)
    labels = {room: _label(package, inside, room) for room in rooms}
    ways = [_way(start, end, floors) for start, end in sorted(shown)]
    widths = {room: max(80, len(label) * _LETTER + 20) for room, label in labels.items()}
    x = _places(floors, ways, widths)
    right = {room: x[room] + widths[room] / 2 for room in rooms}
    upward = sorted(set(arrows) - down)
    wide = max(right.values()) + _MARGIN + (_OUT + len(upward) * _LANE if upward else 0)
    top = max(floors.values())
    y = {node: _MARGIN + (top - level) * _FLOOR + _BOX / 2 for node, level in _levels(floors, ways).items()}
    high = (top + 1) * _FLOOR - (_FLOOR - _BOX) + 2 * _MARGIN
    key = inside.replace(".", "-")

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rooms" viewBox="0 0 {wide:.0f} {high:.0f}" '
        f'width="{wide:.0f}" height="{high:.0f}" role="img" aria-label="The rooms of {inside} and what they import">',
        f"<style>{_STYLE}{_hover(key, rooms)}</style>",
        f"<defs>{_head(key, '')}{_head(key, 'upward')}</defs>",
    ]
    leaves, arrives = _ports(ways, x, widths)
    for way in ways:
        points = [(leaves[way], y[way[0]] + _BOX / 2)]
        points += [(x[lane], y[lane] + side) for lane in way[1:-1] for side in (-_BOX / 2, _BOX / 2)]
        points.append((arrives[way], y[way[-1]] - _BOX / 2 - 1))
        parts.append(_arrow(_curve(points), f"of-{way[0]} of-{way[-1]}", f"{key}-head"))
    for number, (start, end) in enumerate(upward):
        out = max(right[start], right[end]) + _OUT + number * _LANE
        path = f"M{right[start]:.1f} {y[start]:.1f} C{out:.1f} {y[start]:.1f} "
        path += f"{out:.1f} {y[end]:.1f} {right[end] + 1:.1f} {y[end]:.1f}"
        parts.append(_arrow(path, f"upward of-{start} of-{end}", f"{key}-head-upward"))
    for room, lines in rooms.items():
        imports = ", ".join(end for start, end in sorted(arrows) if start == room) or "no other room"
        left, upper = x[room] - widths[room] / 2, y[room] - _BOX / 2
        parts.append(
            f'<g id="{key}-{room}"><title>{labels[room]} imports {imports}</title>'
            f'<rect x="{left:.1f}" y="{upper:.1f}" width="{widths[room]:.1f}" height="{_BOX}" rx="5"/>'
            f'<text x="{x[room]:.1f}" y="{upper + 18:.1f}">{labels[room]}</text>'
            f'<text class="lines" x="{x[room]:.1f}" y="{upper + 34:.1f}">{lines:,} lines</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _label(package, inside, room):
    path = package.paths.get(f"{inside}.{room}", "a folder without one/__init__.py")
    return f"{room}/" if room != "__init__" and path.endswith("/__init__.py") else f"{room}.py"


def _without_implied_arrows(arrows):
    """Omit each arrow whose end is also reached by a longer path; the arrows form no circle."""
    after = {}
    for start, end in arrows:
        after.setdefault(start, set()).add(end)
    reached = {}

    def below(room):
        if room not in reached:
            reached[room] = set().union(*({end} | below(end) for end in after.get(room, ())))
        return reached[room]

    return {(start, end) for start, end in arrows if not any(end in below(other) for other in after[start])}


def _way(start, end, floors):
    """List the places on an arrow: its first room, one lane on each floor between, its last room."""
    lanes = [(start, end, floor) for floor in range(floors[start] - 1, floors[end], -1)]
    return (start, *lanes, end)


def _levels(floors, ways):
    return floors | {lane: lane[2] for way in ways for lane in way[1:-1]}


def _places(floors, ways, widths):
    """Place rooms and lanes from left to right, with few crossings and short arrows; return node -> x."""
    neighbours = {room: [] for room in floors}
    for way in ways:
        for upper, lower in pairwise(way):
            neighbours.setdefault(upper, []).append(lower)
            neighbours.setdefault(lower, []).append(upper)
    levels = _levels(floors, ways)
    layers = [sorted((n for n in levels if levels[n] == level), key=str) for level in range(max(floors.values()) + 1)]
    starts = (layers, [layer[::-1] for layer in layers], layers[:1] + [layer[::-1] for layer in layers[1:]])
    met = (order for start in starts for order in _orders(start, levels, neighbours))
    best = min(met, key=lambda order: _crossings(order, levels, neighbours))

    width = {node: widths.get(node, _LANE) for node in levels}
    x = {node: float(sum(width[other] + _GAP for other in layer[:i])) for layer in best for i, node in enumerate(layer)}
    for sweep in range(200):
        for layer in best if sweep % 2 else best[::-1]:
            wanted = [fmean(x[other] for other in neighbours[node] or layer) for node in layer]
            x |= dict(zip(layer, _apart(wanted, [width[node] for node in layer]), strict=True))
    left = min(x[node] - width[node] / 2 for node in x)
    return {node: place - left + _MARGIN for node, place in x.items()}


def _orders(layers, levels, neighbours):
    """Order each layer by the positions of its neighbours, repeatedly, upward and downward; yield each order."""
    yield layers
    upward = range(1, len(layers))
    downward = range(len(layers) - 2, -1, -1)
    for sweep in range(24):
        layers = list(layers)
        place = {node: number for layer in layers for number, node in enumerate(layer)}
        for level in downward if sweep % 2 else upward:
            beside = level + 1 if sweep % 2 else level - 1
            met = {
                node: [place[other] for other in neighbours[node] if levels[other] == beside] for node in layers[level]
            }
            middle = {node: fmean(places or [place[node]]) for node, places in met.items()}
            layers[level] = sorted(layers[level], key=middle.get)
            place |= {node: number for number, node in enumerate(layers[level])}
        yield layers


def _crossings(layers, levels, neighbours):
    place = {node: i for layer in layers for i, node in enumerate(layer)}
    count = 0
    for layer in layers[1:]:
        lines = [(place[n], place[m]) for n in layer for m in neighbours[n] if levels[m] == levels[n] - 1]
        count += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(lines) for c, d in lines[:i])
    return count


def _apart(wanted, widths):
    """Move positions as little as needed to avoid overlaps: blocks that touch share their mean."""
    offsets, blocks = [0.0], []
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + _GAP)
    for place, offset in zip(wanted, offsets, strict=True):
        blocks.append([place - offset, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (left, m), (right, n) = blocks[-2:]
            blocks[-2:] = [[(left * m + right * n) / (m + n), m + n]]
    moved = [mean for mean, count in blocks for _ in range(count)]
    return [place + offset for place, offset in zip(moved, offsets, strict=True)]


def _ports(ways, x, widths):
    """Distribute the arrows along the edges of their rooms, ordered by their targets: way -> x at start, at end."""
    sides = ({}, {})
    for way in ways:
        sides[0].setdefault(way[0], []).append((x[way[1]], way))
        sides[1].setdefault(way[-1], []).append((x[way[-2]], way))
    ports = ({}, {})
    for side, port in zip(sides, ports, strict=True):
        for room, met in side.items():
            met.sort(key=lambda pair: pair[0])
            step = min(16, (widths[room] - 16) / len(met))
            for i, (_, way) in enumerate(met):
                port[way] = x[room] + (i - (len(met) - 1) / 2) * step
    return ports


def _curve(points):
    """Draw a smooth line through points, vertical at each of them."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f" C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    return path


def _arrow(path, names, head):
    return f'<path class="{names}" marker-end="url(#{head})" d="{path}"/>'


def _head(key, kind):
    name = f"{key}-head-{kind}" if kind else f"{key}-head"
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path class="{kind}" d="M0 1 L8 4 L0 7 z"/></marker>'
    )


def _hover(key, rooms):
    """Fade the arrows of other rooms while the mouse is on a room."""
    return "".join(
        f"svg.rooms:has(#{key}-{room}:hover) > path:not(.of-{room}) {{ opacity: 0.12; }}\n" for room in sorted(rooms)
    )
