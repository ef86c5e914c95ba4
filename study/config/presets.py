"""Ready-made studies, as plain values of StudyConfig's fields."""

from pydantic import JsonValue

REFERENCE_BEST: dict[str, JsonValue] = {
    "num_conv_blocks": 4,
    "filters_multiplier": 4,
    "kernel_sizes": "3-3-5-3",
    "use_batch_norm": False,
    "conv_dropout": 0.1,
    "dense_units": "256-128",
    "dense_dropout": 0.5,
    "learning_rate": 1e-4,
}
"""Best point of the published search (99.72 % on its leaky validation images)."""

REFERENCE_AUGMENT: dict[str, JsonValue] = {"rotation": 20.0, "hflip": True, "crop": 0.8, "jitter": 0.2}

STRONG: dict[str, JsonValue] = {
    "dense_units": "none",
    "conv_dropout": 0.0,
    "dense_dropout": 0.0,
    "label_smoothing": 0.05,
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "schedule": "onecycle",
    "augment_strength": 0.6,
    "augment_turns": False,
}
"""Recipe that trains most networks of `auto` well; the learning rate is meant for batches of 64."""

STARTS: list[dict[str, JsonValue]] = [
    {**STRONG, "block": "residual", "num_conv_blocks": 4, "stem_stride": 1, "augment_turns": True},
    {**STRONG, "block": "plain", "num_conv_blocks": 4, "stem_stride": 1},
    {
        **STRONG,
        "block": "residual",
        "num_conv_blocks": 4,
        "stem_stride": 2,
        "schedule": "cosine",
        "augment_turns": True,
    },
]
"""Starts with different networks, tried before any is drawn; a plan makes each as wide as START_SHARE allows."""

BACKBONE_STARTS: list[dict[str, JsonValue]] = [
    {"backbone_trained": 0.0, "schedule": "cosine"},
    {"backbone_trained": 1.0, "backbone_rate": 0.3, "augment_turns": False},
]
"""Starts with a pretrained network: one that trains a new last layer alone, and one that trains the whole network."""

BACKBONE_SPACE: dict[str, JsonValue] = {
    "backbone_trained": [0.0, 0.3, 1.0],
    "backbone_rate": {"low": 0.1, "high": 1.0, "log": True},
}
"""Parameters that are searched in addition where a planned study finds a pretrained network at hand."""

PRESETS: dict[str, dict[str, JsonValue]] = {
    # Small enough for a laptop's processor: the quickstart.
    "quick": {
        "image_size": 16,
        "trials": 12,
        "epochs": 9,
        "min_epochs": 1,
        "batch_size": 64,
        "final_epochs": 18,
        "final_batch_size": 64,
        "augment": {"rotation": 10.0, "crop": 0.9},  # a flipped digit is another digit
        "space": {
            "num_conv_blocks": [2, 3],
            "base_filters": 8,
            "filters_multiplier": [1, 2],
            "kernel_sizes": ["3-3-3", "5-3-3"],
            "use_batch_norm": [True, False],
            "conv_dropout": [0.0, 0.1],
            "dense_units": ["none", "64"],
            "learning_rate": {"low": 1e-3, "high": 3e-2, "log": True},
            "optimizer": "adamw",
            "schedule": "cosine",
        },
        "starts": [
            {
                "num_conv_blocks": 3,
                "filters_multiplier": 2,
                "kernel_sizes": kernels,
                "use_batch_norm": True,
                "conv_dropout": 0.0,
                "dense_units": dense,
                "learning_rate": 1e-2,
            }
            for kernels, dense in (("3-3-3", "none"), ("5-3-3", "64"))
        ],
    },
    # The published search: its 9,720 points, its budget, its procedure.
    "reference": {
        "image_size": 128,
        "trials": 15,
        "epochs": 15,
        "min_epochs": 1,
        "sampler": "random",
        "batch_size": 16,
        "final_epochs": 30,
        "final_batch_size": 32,
        "final_data": "train",  # its schedule needs a validation loss
        "augment": REFERENCE_AUGMENT,
        "space": {
            "num_conv_blocks": [3, 4, 5],
            "filters_multiplier": [1, 2, 4],
            "kernel_sizes": ["3-3-3", "3-5-3", "5-3-5", "3-3-5-3", "3-5-5-3"],
            "use_batch_norm": [True, False],
            "conv_dropout": [0.1, 0.2, 0.3],
            "dense_units": ["512-256", "256-128", "512", "256"],
            "dense_dropout": [0.3, 0.4, 0.5],
            "learning_rate": [1e-3, 1e-4, 1e-5],
            "schedule": "plateau",
        },
    },
    "full": {
        "image_size": 128,
        "trials": 64,
        "epochs": 27,
        "min_epochs": 3,
        "batch_size": "auto",
        "rate_batch_size": 64,
        "confirm": 3,
        "final_epochs": 54,
        "final_batch_size": "auto",
        "final_seeds": 3,
        "augment": {**REFERENCE_AUGMENT, "vflip": True, "stain": 0.15},
        "space": {
            "num_conv_blocks": {"low": 3, "high": 5},
            "filters_multiplier": [1, 2, 4],
            "kernel_sizes": ["3-3-3", "3-5-3", "5-3-5", "3-3-5-3", "3-5-5-3", "5-5-3-3"],
            "use_batch_norm": [True, False],
            "conv_dropout": {"low": 0.0, "high": 0.3},
            "head": ["gap", "flatten"],
            "dense_units": ["none", "256", "512", "256-128", "512-256"],
            "dense_dropout": {"low": 0.0, "high": 0.5},
            "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
            "optimizer": ["adam", "adamw", "sgd"],
            "weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
            "schedule": ["constant", "cosine", "onecycle"],
            "label_smoothing": {"low": 0.0, "high": 0.2},
            "augment_strength": {"low": 0.0, "high": 2.0},
        },
        "baseline": {
            **REFERENCE_BEST,
            "head": "flatten",
            "optimizer": "adam",
            "weight_decay": 1e-4,
            "schedule": "constant",
            "label_smoothing": 0.0,
            "augment_strength": 1.0,
        },
    },
}

PRESETS["auto"] = {
    "image_size": "auto",
    "limit": "auto",
    "epochs": "auto",
    "min_epochs": "auto",
    "confirm": "auto",
    "confirm_epochs": "auto",
    "final_epochs": "auto",
    "final_seeds": "auto",
    "rivals": "auto",
    "starts": "auto",
    "metric": "auto",
    "class_weights": "auto",
    "trials": 64,
    "hours": 2.0,
    "near_starts": 0.5,
    "prune_starts": False,  # what leads after a few epochs of a short training seldom leads after a long one
    "tta": "flips",
    "batch_size": PRESETS["full"]["batch_size"],
    "rate_batch_size": PRESETS["full"]["rate_batch_size"],
    "final_batch_size": PRESETS["full"]["final_batch_size"],
    "augment": PRESETS["full"]["augment"],
    "space": {
        "block": ["plain", "residual"],
        "stem_stride": [1, 2],
        "num_conv_blocks": {"low": 3, "high": 5},
        "base_filters": {"low": 12, "high": 96, "log": True},
        "use_batch_norm": True,
        "head": "gap",
        "dense_units": ["none", "128"],
        "conv_dropout": {"low": 0.0, "high": 0.2},
        "dense_dropout": {"low": 0.0, "high": 0.4},
        "learning_rate": {"low": 5e-4, "high": 2e-2, "log": True},
        "optimizer": "adamw",
        "weight_decay": {"low": 1e-3, "high": 0.3, "log": True},
        "decayed": "weights",
        "schedule": ["onecycle", "cosine"],
        "label_smoothing": {"low": 0.0, "high": 0.15},
        "augment_strength": {"low": 0.25, "high": 1.5},
        "augment_turns": [False, True],
    },
}
"""Default for a user's folder: on a GPU the trials end the search, on a processor the hours."""
