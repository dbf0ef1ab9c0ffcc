"""What a report says of test masks: Dice, volume, and how far borders are off."""

from primum.report.run import Figures, OfClass
from primum.report.words import between, esc


def mask_rows(test: Figures) -> list[tuple[str, str]]:
    """Name and HTML of each row: Dice, each class, and how distances of borders were measured; none without masks."""
    if test.dice is None:
        return []
    rows = [("Dice", f"<b>{test.dice:.3f}</b> &nbsp; {between(test.dice_low, test.dice_high)}, mean over patients")]
    for name, figures in test.by_class.items():
        if figures.dice is not None:
            volume = "" if figures.volume_error is None else f", volume {100 * figures.volume_error:+.1f} % off"
            rows.append((esc(name), f"Dice {figures.dice:.3f}{volume}{_surface(figures, test)}"))
    if test.surface_unit:
        rows.append(("Border", _how_measured(test)))
    return rows


def _surface(figures: OfClass, test: Figures) -> str:
    told = ""
    if figures.surface_distance is not None and figures.hausdorff_95 is not None:
        unit = esc(test.surface_unit)
        told = f", border {figures.surface_distance:.2f} {unit} off, 95 % within {figures.hausdorff_95:.2f} {unit}"
    if figures.one_sided:
        told += f" ({figures.one_sided} {esc(test.surface_of)} left out: only one of the two masks has it)"
    return told


def _how_measured(test: Figures) -> str:
    if test.surface_unit == "mm":
        how = {"volumes": "in 3D over each volume", "images": "image by image"}.get(test.surface_of, "volumes in 3D")
        return f"in mm, {how}, at the pixels that the model sees; mean surface distance and HD95 both ways, mean over patients"
    return (
        "in pixels that the model sees, image by image: not every test image says its mm; mean surface distance and HD95 "
        "both ways, mean over patients"
    )
