"""The models that can be compared, by name: each line names the module that holds a function of that name.

It imports nothing, so that a new line trains no finished model again.
"""

COMPARATORS: dict[str, str] = {
    "covid3d": "covid3d.comparators.volumes",
    "covid3d_lungs": "covid3d.comparators.volumes",
    "resnet_2d": "covid3d.comparators.slices",
    "resnet_maxpool": "covid3d.comparators.slices",
    "s3d": "covid3d.comparators.video",
    "r3d_18": "covid3d.comparators.video",
    "metadata": "covid3d.comparators.tables",
    "histogram": "covid3d.comparators.tables",
}
REFERENCE = "covid3d"
"""The model that the others are compared with; every run trains it anyway."""
OTHERS = tuple(name for name in COMPARATORS if name != REFERENCE)
