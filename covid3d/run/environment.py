"""The settings of the programs that a run starts: their own, never the user's."""

from pathlib import Path


def own_settings(folder: Path) -> dict[str, str]:
    """Return environment variables that place settings and caches of IPython, Jupyter, matplotlib and Snakemake in `folder`.

    Start-up files, profiles and a matplotlibrc of the user then have no part in a run, and HOME need not be writable.
    """
    places = {
        "XDG_CONFIG_HOME": "config",
        "XDG_CACHE_HOME": "cache",
        "XDG_DATA_HOME": "data",
        "XDG_STATE_HOME": "state",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "jupyter",
        "JUPYTER_DATA_DIR": "jupyter/data",
        "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
        "MPLCONFIGDIR": "matplotlib",
        "MATPLOTLIBRC": "matplotlib",
    }
    nothing = dict.fromkeys(("JUPYTER_CONFIG_PATH", "MPLBACKEND", "PYTHONSTARTUP"), "")
    return {**{name: str(folder / place) for name, place in places.items()}, **nothing, "SNAKEMAKE_PROFILE": "none"}
