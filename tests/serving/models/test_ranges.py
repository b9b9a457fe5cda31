"""What a sampler's card says of its graph's inputs, for the trial of the graph."""

import steering
from protos.card import Card
from serving.models.ranges import asked


def test_what_requests_ask():
    words = {"dtype": "int64", "shape": [-1], "pad": 0, "longest": 4, "mask": "there"}
    card = Card.model_validate(
        {
            "name": "m",
            "path": {"kind": "rectified_flow"},
            "t_range": [0.25, 0.75],
            "prediction": "velocity",
            "event_shape": [2],
            "inputs": {"time": "1000*(1-t)"},
            "conditions": {
                "words": words,
                "kept": {"dtype": "bool", "shape": [3]},
                "label": {"dtype": "int64", "null": 10},
                "size": {"dtype": "float32", "min": 2, "max": 3, "null": 0},
                "free": {"dtype": "float32"},
            },
        }
    )
    assert card.path is not None
    found = asked(card, steering.paths.build(card.path, card.t_range))
    assert {name: (each.min, each.max) for name, each in found.items()} == {
        "t": (250, 750), "there": (0, 1), "kept": (0, 1), "label": (0, 10), "size": (2, 3),
    }  # fmt: skip


def test_a_time_without_an_end_has_no_range():
    card = Card.model_validate(
        {"name": "m", "path": {"kind": "rectified_flow"}, "t_range": [0, 1], "prediction": "velocity",
         "event_shape": [2], "inputs": {"time": "log_snr"}}
    )  # fmt: skip
    assert card.path is not None
    assert asked(card, steering.paths.build(card.path, card.t_range)) == {}
