"""The READMEs of the repository and their shell blocks, for the tests that parse and that run them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METHOD_FOLDERS = sorted(path.parent for path in ROOT.glob("*/requirements.txt"))
# Nothing in this folder trains a decoder: the Trainer's options and its YAML files have nothing to act on.
ARMO = ROOT / "armo-rm"
RECIPE_FOLDERS = [folder for folder in METHOD_FOLDERS if folder != ARMO]
MATH = ROOT / "math-rm"  # two recipes, which read solutions in steps and no pairs
JUDGING = ROOT / "useful_code" / "judging" / "README.md"
READMES = [ROOT / "README.md", *(folder / "README.md" for folder in METHOD_FOLDERS), JUDGING]


def shell_blocks(readme: Path) -> list[str]:
    """The code of every block that is marked as bash or sh."""
    text = readme.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [code for language, code in blocks if language in ("bash", "sh")]
