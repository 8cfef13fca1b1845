"""Houses of drawn scenes: walls with a door and windows, a wing, a chimney, and their roofs.

A house's unit is its width, its origin the middle of its foot; u runs towards the wing's side and v
upwards. Windows, door and the pattern of the roof belong to the classes wall and roof: where they
are follows from the outline, which the label map shows, and not from the class.
"""

import dataclasses

import numpy as np

from cocosnet_jax.data.drawn.arithmetic import Plane
from cocosnet_jax.data.drawn.things import ROOF, WALL, Thing

TWO_STOREYS = 0.67  # walls as high as this, in widths, have windows upstairs
GABLE = 0.25  # a roof whose ridge is shorter, in widths, is a gable with a round window
CHIMNEY = -0.3  # its u


@dataclasses.dataclass(frozen=True)
class House:
    """A house's outline, from which its parts follow; lengths but `x`, `base`, `width` in widths.

    Attributes:
      x, base, width: its middle, its foot and its width, in the picture.
      mirror: 1, or -1 where the wing is on the left.
      wall: the walls' height.
      roof: the roof's height.
      ridge: the ridge's length.
      lean: how far the ridge's middle is from the house's.
      wing: the wing's width, 0 for none.
    """

    x: float
    base: float
    width: float
    mirror: int
    wall: float
    roof: float
    ridge: float
    lean: float
    wing: float

    @property
    def wing_wall(self) -> float:
        """How high the wing's walls are at their outer end."""
        return self.wall * 0.52

    @property
    def chimney(self) -> float:
        """V of the chimney's top, which is seen beside a gable and above a ridge."""
        return self.wall + (0.92 if self.ridge < GABLE else 1.25) * self.roof

    def place(self, u: float, v: float) -> tuple[float, float]:
        """Where (u, v) is in the picture."""
        return self.x + self.mirror * u * self.width, self.base - v * self.width

    def local(self, px: Plane, py: Plane) -> tuple[Plane, Plane]:
        """(u, v) of places of the picture."""
        return (
            (px - self.x) * (self.mirror / self.width),
            (self.base - py) * (1 / self.width),
        )

    def windows(self) -> list[tuple[float, float]]:
        """(u, v) of the windows' middles."""
        found = [(-0.24, 0.25)]
        if self.wall >= TWO_STOREYS:
            found += [(-0.24, self.wall - 0.16), (0.22, self.wall - 0.16)]
        if self.wing:
            found.append((0.5 + 0.48 * self.wing, 0.2))
        return found


def things(house: House) -> list[Thing]:
    """The walls and the roof of a house."""

    def in_walls(px: Plane, py: Plane) -> Plane:
        u, v = house.local(px, py)
        main = (np.abs(u) < 0.5) & (v < house.wall + 0.05)
        wing = (u > 0) & (u < 0.5 + house.wing) & (v < house.wing_wall + 0.03)
        chimney = (np.abs(u - CHIMNEY) < 0.06) & (v < house.chimney)
        return (main | wing | chimney) & (v >= 0)

    def in_roof(px: Plane, py: Plane) -> Plane:
        u, v = house.local(px, py)
        rise = (v - house.wall) * (1 / house.roof)
        half = 0.58 + (house.ridge / 2 - 0.58) * rise
        main = (np.abs(u - house.lean * rise) < half) & (rise > -0.05) & (rise < 1)
        if not house.wing:
            return main
        out = (u - 0.5) * (1 / (house.wing + 0.07))  # 0 at the house, 1 outside
        eaves = house.wing_wall
        slope = eaves + (house.wall - 0.04 - eaves) * (1 - out)
        return main | ((out >= 0) & (out < 1) & (v > eaves - 0.02) & (v < slope + 0.04))

    left, right = sorted(house.place(u, 0)[0] for u in (-0.6, 0.6 + house.wing))
    top = house.place(0, house.wall + 1.25 * house.roof)[1]
    shape = dataclasses.astuple(house)
    at = {where: house.place(*uv) for where, uv in wall_points(house).items()}
    walls = {f"house {where}": xy for where, xy in at.items()}
    tiles = {f"house {where}": house.place(*uv) for where, uv in roof_points(house).items()}
    return [
        Thing(WALL, (left, top, right, house.base), in_walls, house.local, shape, walls),
        Thing(ROOF, (left, top, right, house.base), in_roof, house.local, shape, tiles),
    ]


def wall_points(house: House) -> dict[str, tuple[float, float]]:
    """Named places on the walls, as (u, v)."""
    points = {
        "wall outer foot": (-0.44, 0.05),
        "wall inner foot": (0.44, 0.05),
        "wall outer top": (-0.44, house.wall - 0.08),
        "wall inner top": (0.44, house.wall - 0.08),
        "door": (0.2, 0.17),
        "window": (-0.24, 0.25),
        "chimney": (CHIMNEY, house.chimney - 0.04),
    }
    if house.wall >= TWO_STOREYS:
        points["window upstairs"] = (-0.24, house.wall - 0.16)
        points["window above the door"] = (0.22, house.wall - 0.16)
    if house.wing:
        points["wing's window"] = (0.5 + 0.48 * house.wing, 0.2)
    return points


def roof_points(house: House) -> dict[str, tuple[float, float]]:
    """Named places on the roof, as (u, v)."""
    up, lean, half = house.roof, house.lean, house.ridge / 2
    points = {
        "roof outer eaves": (-0.48, house.wall + 0.06 * up),
        "roof inner eaves": (0.48, house.wall + 0.06 * up),
        "roof eaves": (0.0, house.wall + 0.06 * up),
        "roof middle": (0.5 * lean, house.wall + 0.5 * up),
        "ridge": (0.9 * lean, house.wall + 0.9 * up),
    }
    if house.ridge >= GABLE:
        points["ridge outer end"] = (0.9 * lean - 0.88 * half, house.wall + 0.9 * up)
        points["ridge inner end"] = (0.9 * lean + 0.88 * half, house.wall + 0.9 * up)
    if house.wing:
        v = house.wing_wall + 0.5 * (house.wall - 0.04 - house.wing_wall) * 0.6
        points["wing's roof"] = (0.5 + 0.4 * house.wing, v)
    return points
