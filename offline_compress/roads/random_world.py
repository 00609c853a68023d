"""Draws the worlds of the synthetic roads: road shape, lanes, lines, roadside, traffic."""

import numpy as np

from offline_compress.roads.geometry import RoadShape
from offline_compress.roads.world import STYLES, GroundStrip, LaneLine, World


def build_world(seed: int, style: str | None = None) -> World:
    """Draw a world from its seed: style, road shape, lanes, lines, roadside and traffic."""
    rng = np.random.default_rng((seed, 0))
    chosen = str(rng.choice(STYLES, p=[0.38, 0.22, 0.2, 0.2]))
    style = style or chosen
    side = 1 if rng.random() < 0.5 else -1
    fast = style == "highway"
    lane = rng.uniform(3.3, 3.8) if fast else rng.uniform(2.7, 3.6)
    lanes = int(rng.integers(2, 5)) if fast else int(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))
    two_way = fast or rng.random() < 0.85
    oncoming = lanes if (fast or rng.random() < 0.8) else 1
    oncoming = oncoming if two_way else 0
    ego_lane = int(rng.integers(lanes))
    strength = {"urban": 0.0012, "town": 0.004, "rural": 0.0045, "highway": 0.0011}[style]
    bends = tuple(
        (rng.normal(0, strength), 2 * np.pi / rng.uniform(140, 700), rng.uniform(0, 6.28))
        for _ in range(2)
    )
    steep = {"urban": 0.006, "town": 0.012, "rural": 0.016, "highway": 0.008}[style]
    hills = []
    for _ in range(2):
        wave = 2 * np.pi / rng.uniform(220, 700)
        hills.append((rng.normal(0, steep) / wave, wave, rng.uniform(0, 6.28)))

    park = lambda chance: style in ("urban", "town") and rng.random() < chance  # noqa: E731
    outer, inner = lanes * lane, -(oncoming * lane if not fast else 0.0)
    park_right, park_left = park(0.5), park(0.5)
    margin = rng.uniform(0.15, 0.5)
    right = outer + (2.2 if park_right else margin)
    left = inner - (2.2 if park_left else margin)
    shoulder = rng.uniform(1.5, 3.2) if fast else 0.0

    tone = rng.uniform(58, 150)
    asphalt = np.clip(
        tone + rng.normal(0, 3, 3) + rng.uniform(-4, 6) * np.array((1, 0, -1)), 0, 200
    )
    terrain, terrain_grain = _terrain(rng, style)
    strips: list[GroundStrip] = []
    kerbed = style == "urban" or (style == "town" and rng.random() < 0.6)
    verge_r = verge_l = rng.uniform(1.0, 4.0)
    if kerbed:
        walk = rng.uniform(1.6, 4.5)
        pave = tuple(
            np.clip(rng.uniform(85, 175) + rng.normal(0, 5, 3) + (3, 0, -3), 0, 220)
            if rng.random() < 0.8
            else np.array((165, 110, 95)) * rng.uniform(0.8, 1.1)
        )
        kerb = tuple(np.clip(np.array(pave) * rng.uniform(0.9, 1.4), 0, 235))
        for edge, sign in ((right, 1), (left, -1)):
            strips.append(GroundStrip(edge, edge + sign * walk, pave, 0.45))
            strips.append(GroundStrip(edge, edge + sign * 0.16, kerb, 0.3))
        verge_r = verge_l = walk + 0.2
    elif not fast:
        dirt = tuple(np.array((150, 132, 108)) * rng.uniform(0.6, 1.15))
        for edge, sign in ((right, 1), (left, -1)):
            strips.append(GroundStrip(edge, edge + sign * rng.uniform(0.3, 1.6), dirt, 1.2))

    drivable = [(left, right)]
    opposite = None
    barriers: list[tuple[float, str]] = []
    if fast:
        median = rng.uniform(1.5, 12.0)
        shoulder_tone = tuple(np.array(asphalt) * rng.uniform(0.85, 1.2))
        strips.append(GroundStrip(right, right + shoulder, shoulder_tone, 0.6))
        strips.append(GroundStrip(left - 1.0, left, shoulder_tone, 0.6))
        opposite = (left - median - 2 * margin - oncoming * lane, left - median)
        strips.append(GroundStrip(opposite[0] - shoulder, opposite[0], shoulder_tone, 0.6))
        drivable.append(opposite)
        if median < 5 or rng.random() < 0.5:
            barriers.append((left - min(1.2, median / 2), str(rng.choice(["rail", "concrete"]))))
        if rng.random() < 0.5:
            barriers.append((right + shoulder + 0.6, str(rng.choice(["rail", "concrete"]))))
    elif style == "rural" and rng.random() < 0.4:
        barriers.append((right + 1.2, "rail"))
        verge_r = max(verge_r, 2.0)
    elif style == "town" and rng.random() < 0.5:
        barriers.append((left - verge_l, str(rng.choice(["wall", "fence", "hedge"]))))
        barriers.append((right + verge_r, str(rng.choice(["wall", "fence", "hedge"]))))
    lines = _lines(rng, style, lane, lanes, oncoming, inner, outer, opposite, margin)
    if style in ("rural", "town") and rng.random() < 0.25:
        lines = []
    rows = []
    if park_right:
        rows.append(outer + 1.1)
    if park_left:
        rows.append(inner - 1.1)

    def flip(pair: tuple[float, float]) -> tuple[float, float]:
        low, high = sorted((side * pair[0], side * pair[1]))
        return low, high

    extent = right + shoulder + verge_r
    far = -(left if opposite is None else opposite[0] - shoulder) + verge_l
    return World(
        seed=seed,
        style=style,
        side=side,
        shape=RoadShape(bends, tuple(hills)),
        lane_m=lane,
        lanes=lanes,
        oncoming=oncoming,
        ego_lane=ego_lane,
        strips=tuple(GroundStrip(*flip((s.d0, s.d1)), s.colour, s.grain) for s in strips),
        lines=tuple(LaneLine(side * x.d, x.width_m, x.yellow, x.dash) for x in lines),
        drivable=tuple(flip(band) for band in drivable),
        road=flip((left, right)),
        opposite=None if opposite is None else flip(opposite),
        parking=tuple(side * d for d in rows),
        parking_density=rng.uniform(0.15, 0.85),
        verge=(far, extent) if side > 0 else (extent, far),
        barriers=tuple((side * d, kind) for d, kind in barriers),
        asphalt=tuple(asphalt),
        terrain=terrain,
        terrain_grain=terrain_grain,
        traffic_gap_m=float(np.exp(rng.uniform(np.log(18), np.log(110)))),
        ego_speed=rng.uniform(22, 32) if fast else rng.uniform(7, 19),
        crossings=style in ("urban", "town"),
        leafless=float(rng.choice([0.05, 0.8], p=[0.7, 0.3])),
        buildings={"urban": 0.85, "town": 0.4, "rural": 0.05, "highway": 0.06}[style],
        wear=rng.uniform(0.0, 0.7),
        junctions={"urban": 0.35, "town": 0.3, "rural": 0.1, "highway": 0.0}[style],
    )


def _terrain(rng: np.random.Generator, style: str) -> tuple[tuple[float, float, float], float]:
    palette = {
        "grass": (92, 116, 58),
        "dry": (176, 152, 104),
        "sand": (182, 164, 132),
        "soil": (124, 100, 78),
        "paved": (132, 130, 126),
    }
    odds = [0.2, 0.05, 0.1, 0.1, 0.55] if style == "urban" else [0.5, 0.2, 0.1, 0.15, 0.05]
    name = str(rng.choice(list(palette), p=odds))
    colour = np.array(palette[name]) * rng.uniform(0.65, 1.15) + rng.normal(0, 6, 3)
    return tuple(np.clip(colour, 15, 225)), 1.6 if name != "paved" else 0.6


def _lines(
    rng: np.random.Generator,
    style: str,
    lane: float,
    lanes: int,
    oncoming: int,
    inner: float,
    outer: float,
    opposite: tuple[float, float] | None,
    margin: float,
) -> list[LaneLine]:
    width = rng.uniform(0.10, 0.18)
    period = rng.uniform(6, 13)
    painted = period * rng.uniform(0.25, 0.6)
    phase = rng.uniform(0, period)
    dash = (painted, period, phase)
    yellow_centre = rng.random() < 0.4
    edge_kind = rng.random()
    lines: list[LaneLine] = []
    for i in range(1, lanes):
        lines.append(LaneLine(i * lane, width, False, dash))
    if opposite is None:
        for i in range(1, oncoming):
            lines.append(LaneLine(-i * lane, width, False, dash))
        if oncoming:
            pick = rng.random()
            if pick < 0.5:
                lines.append(LaneLine(0.0, width, yellow_centre, dash))
            elif pick < 0.75:
                lines.append(LaneLine(0.0, width, yellow_centre, None))
            else:
                lines.append(LaneLine(-0.13, width * 0.8, yellow_centre, None))
                second = None if rng.random() < 0.6 else dash
                lines.append(LaneLine(0.13, width * 0.8, yellow_centre, second))
    else:
        lines.append(LaneLine(0.05, width * 1.2, yellow_centre, None))
        low, high = opposite
        for i in range(1, oncoming):
            lines.append(LaneLine(high - margin - i * lane, width, False, dash))
        lines.append(LaneLine(high - 0.15, width * 1.2, yellow_centre, None))
        lines.append(LaneLine(low + 0.15, width * 1.2, False, None))
    chance = {"urban": 0.45, "town": 0.4, "rural": 0.75, "highway": 1.0}[style]
    if edge_kind < chance:
        double = style == "urban" and rng.random() < 0.4
        yellow = style == "urban" and rng.random() < 0.5
        edges = [outer - 0.05] + ([inner + 0.05] if opposite is None else [])
        for d in edges:
            lines.append(LaneLine(d, width * (0.7 if double else 1.1), yellow, None))
            if double:
                lines.append(LaneLine(d - np.sign(d) * 0.25, width * 0.7, yellow, None))
    return lines
