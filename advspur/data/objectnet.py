"""ObjectNet (Barbu et al., NeurIPS 2019): its 113 classes that overlap ImageNet.

The licence forbids tuning on it.
"""

from advspur._checks import check_choice
from advspur.data.files import file_table
from advspur.data.label_maps import OBJECTNET
from advspur.data.layouts import list_classes, reader, require_data, require_whole
from advspur.data.transforms import Transform

DIRECTORIES = ("objectnet-1.0", "objectnet", "ObjectNet")
LAYOUT = "images/<folder>/*.png (and mappings/, which is not needed), as the release unpacks"
BORDER = 2  # red pixels on each side of every image
SIZES = {"images": 18_514}  # at least: those of version 1.0-beta


@reader
def read(root, allow_partial, *, resize=256):
    """Return {"images": Table} of the overlapping classes, labelled by position in OBJECTNET.

    `resize`: short side after the border is cut, 256 as for ImageNet, or 224 as in the official
    template.
    """
    check_choice("resize", resize, (256, 224))
    require_data((root / "images").is_dir(), "ObjectNet", root, LAYOUT)
    paths, labels = list_classes(root / "images", OBJECTNET, allow_partial, ignore_others=True)
    fault = f"{len(paths):,} images, version 1.0-beta had {SIZES['images']:,}"
    require_whole(fault if len(paths) < SIZES["images"] else "", root / "images", allow_partial)
    transform = Transform(side=resize, border=BORDER)
    return {"images": file_table(len(OBJECTNET), transform, path=paths, label=labels)}
