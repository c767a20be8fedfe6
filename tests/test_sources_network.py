"""METHODS 11.4, check 7: pairs of the real hub data sets against the counts that their users published.

Never run by default (`pytest -m network`): it downloads the sets. The machine that tests this repository reaches no
hub, so these have not been run there; the counts are those of METHODS 11.1.
"""

import pytest

from useful_code.converting.checked import AS_THEY_COME, Options
from useful_code.converting.convert import convert

BEST_RANDOM = Options(pairing="best_random")
HUB = {  # source, hub name, options, options of the conversion, published pairs
    "shp, one per prompt": ("shp", "stanfordnlp/SHP", AS_THEY_COME, {"max_pairs_per_prompt": 1}, 55_916),
    "shp, five per prompt": ("shp", "stanfordnlp/SHP", AS_THEY_COME, {"max_pairs_per_prompt": 5}, 109_526),
    "ultrafeedback, best": ("ultrafeedback", "openbmb/UltraFeedback", BEST_RANDOM, {}, 62_793),
    "ultrafeedback": ("ultrafeedback", "openbmb/UltraFeedback", AS_THEY_COME, {}, 267_416),
    "helpsteer, best": ("helpsteer", "nvidia/HelpSteer", BEST_RANDOM, {}, 8_206),
    "helpsteer": ("helpsteer", "nvidia/HelpSteer", AS_THEY_COME, {}, 21_576),
    "capybara": ("capybara", "argilla/Capybara-Preferences-Filtered", AS_THEY_COME, {}, 14_811),
    "orca": ("orca_dpo", "argilla/distilabel-intel-orca-dpo-pairs", AS_THEY_COME, {}, 6_926),
    "math": ("distilabel_math", "argilla/distilabel-math-preference-dpo", AS_THEY_COME, {}, 2_418),
    "code": ("code_ultrafeedback", "coseal/CodeUltraFeedback", AS_THEY_COME, {}, 50_156),
}

pytestmark = [pytest.mark.network, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("name", HUB)
def test_pairs_within_one_percent_of_the_published_count(name, tmp_path):
    source, hub_name, options, flags, published = HUB[name]
    card = convert(source, [hub_name], tmp_path / "out", options=options, **flags)
    assert abs(card["rows_kept"] - published) <= 0.01 * published, card["refused"] | card["dropped"]
