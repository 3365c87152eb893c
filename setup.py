"""Hand the metadata of settings.ini to setuptools: nothing is written twice."""
from configparser import ConfigParser

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read("settings.ini", encoding="utf-8")
meta = config["DEFAULT"]
EXPERIMENTS = meta["lib_path"] + ".experiments"


def lines(key: str) -> list[str]:
    return [line.strip() for line in meta[key].splitlines() if line.strip()]


setup(
    version=meta["version"],
    install_requires=lines("requirements"),
    extras_require={"dev": lines("dev_requirements") + lines("slurm_requirements"),
                    **{extra: lines(extra + "_requirements") for extra in ("slurm", "files", "backbones", "explore")}},
    # The experiments' notebooks and grids travel in the package; in a clone they are used where they are.
    packages=[*find_packages(include=[meta["lib_path"], meta["lib_path"] + ".*"]), EXPERIMENTS, EXPERIMENTS + ".grids"],
    package_dir={EXPERIMENTS: meta["nbs_path"] + "/experiments"},
    package_data={meta["lib_path"]: ["py.typed",
                                     "data/*.csv", "data/*.md", "extractors/*.safetensors", "results/*.csv"],
                  EXPERIMENTS: ["*.ipynb", "*.mplstyle"], EXPERIMENTS + ".grids": ["*.yaml"]},
    entry_points={"console_scripts": lines("console_scripts"),
                  "nbdev": [f"{meta['lib_name']}={meta['lib_path']}._modidx:d"]},
)
