"""Which packages there are; all else is in pyproject.toml.

The starter's adapters stand in assets/starter, where people find them, and go into the package when it is
built.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["epalm", "epalm.*"]), "epalm.assets.starter"],
    package_dir={"epalm.assets.starter": "assets/starter"},
)
