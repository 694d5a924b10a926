"""`python -m modules.offshore_objects`."""

from modulekit.cli import main_of

if __name__ == "__main__":
    main_of(__package__ or "modules.offshore_objects")
