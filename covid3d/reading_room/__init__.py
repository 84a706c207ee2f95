"""The reading room: radiologists read the scans of a run blinded, in JupyterLab."""
