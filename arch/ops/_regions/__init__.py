"""What the operators on regions of interest share: `roi.py`, `position_sensitive_roi.py`, `deformable_roi.py`."""
