"""What detection modules share: reading bands in strips, radiometry, objects, chips, results.

A module is a package `modules/NAME/` with a `module.toml` and a `Detector`
(`modulekit.detector`). This package turns it into a program that keeps the folder
contract of docs/architecture.md. It never imports `lib`; Python 3.10 or newer.
"""
