"""ImageNet-9 (Xiao et al., ICLR 2021): objects of nine superclasses on changed backgrounds.

MIXED-SAME shows an object on the background of another image of its superclass, MIXED-RAND on one
of a random superclass.
"""

from advspur._checks import check_choice, require
from advspur.data import layouts
from advspur.data.files import file_table
from advspur.data.label_maps import IMAGENET9
from advspur.data.layouts import require_count, require_data, require_whole
from advspur.data.transforms import STANDARD, Transform

DIRECTORIES = ("bg_challenge", "backgrounds_challenge_data", "imagenet9")
LAYOUT = "<variant>/val/<00_dog ... 08_fish>/*.JPEG and fg_mask/val/*/*.npy, as the release unpacks"
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
VARIANTS = ("original", *MIXED, "no_fg", "only_fg", "only_bg_b", "only_bg_t")
NEEDED = ("original", "mixed_same", "mixed_rand", "only_bg_t")
SIZES = dict.fromkeys(VARIANTS, 4_050)


@layouts.reader
def read(root, allow_partial, *, transform="none"):
    """Return {variant: Table}; "original" has the masks of fg_mask.

    `transform`: "none", as in the official code (images are stored at 224 x 224), or "standard",
    ImageNet's.
    """
    check_choice("transform", transform, ("none", "standard"))
    change = STANDARD if transform == "standard" else Transform(resize="none")
    require_data(any((root / v).is_dir() for v in VARIANTS), "ImageNet-9", root, LAYOUT)
    parts = {}
    for variant in VARIANTS:
        folder = root / variant / "val"
        if not folder.is_dir():
            require_whole(f"{folder} is missing", root, allow_partial)
            continue
        paths, labels = layouts.list_classes(folder, IMAGENET9, allow_partial)
        if variant == "original":
            masks = [root / "fg_mask" / "val" / p.parent.name / f"{p.stem}.npy" for p in paths]
            missing = [mask for mask in masks if not mask.is_file()]
            fault = layouts.missing_text(missing, len(masks), "masks")
            require_whole(fault, root, allow_partial)
            rows = [i for i, mask in enumerate(masks) if mask.is_file()]
            require(rows, f"{root / 'fg_mask' / 'val'} has no mask for an image of original")
            paths, labels = [paths[i] for i in rows], labels[rows]
            columns = {"mask_path": [masks[i] for i in rows]}
        else:
            # Mixed images are named fg_<object>_bg_<background>, the others <object>.
            objects = [path.stem.removeprefix("fg_").split("_bg_")[0] for path in paths]
            pairs = zip(paths, objects, strict=True)
            columns = {"pair": [f"{path.parent.name}/{name}" for path, name in pairs]}
        parts[variant] = file_table(len(IMAGENET9), change, path=paths, label=labels, **columns)
        require_count(parts[variant], SIZES[variant], folder, allow_partial)
    missing = [v for v in NEEDED if v not in parts]
    require(not missing, f"{root} has no {', '.join(missing)}, which the gaps and masks need")
    return parts
