"""The classifier with spatial transformers, whose sizes nobody has published."""

from tests.models.families.row import Case, Maps, Row

ROWS: list[Row] = []

MAPS = {"stn_classifier": Maps({4: (56, 64), 8: (28, 128), 16: (14, 192), 32: (7, 192)})}

CASES = [
    Case(
        "stn_classifier",
        {
            "stage_sizes": (1, 2),
            "stage_features": (8, 16),
            "kernel_size": 3,
            "stem_features": 8,
            "stem": "small",
            "transformers": (0, 1),
            "localization_features": (8,),
            "localization_kernel_size": 3,
            "localization_hidden_features": 8,
        },
        8,
    )
]
