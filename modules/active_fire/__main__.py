"""`python -m modules.active_fire`."""

from modulekit.cli import main_of

if __name__ == "__main__":
    main_of(__package__ or "modules.active_fire")
