"""The classes of drawn landscapes."""

UNKNOWN, SKY, CLOUD, SUN, MOUNTAIN, FIELD, WATER, TREE, WALL, ROOF, ROAD = range(11)
CLASS_NAMES = (
    "unknown",
    "sky",
    "cloud",
    "sun or moon",
    "mountain",
    "field",
    "water",
    "tree",
    "house wall",
    "roof",
    "road",
)
NUM_CLASSES = len(CLASS_NAMES)
