"""What a conversion or a mixture left beside the rows."""

from pathlib import Path


def beside(dataset: str, name: str) -> list[Path]:
    """The file of that name in the folder `dataset`, or, for a part of a mixture, in the folder of the mixture."""
    folder = Path(dataset)
    places = [folder, folder.absolute().parent] if folder.name in ("train", "held_out") else [folder]
    return [place / name for place in places if (place / name).is_file()]
