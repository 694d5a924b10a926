"""SceneBridge: any scene with any module on any cluster, from one web page."""

__version__ = "0.1.0"
