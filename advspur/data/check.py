"""Whether a data set's directory is complete and readable."""

from advspur._checks import InputError, check_choice
from advspur.data.layouts import MissingData
from advspur.data.readers import READERS
from advspur.data.table import spread


def check_directory(name, directory, *, line, progress_of, sample=0, **options):
    """Tell by `line` what is there of a benchmark's data; whether it is whole.

    Counts are compared with the published ones where those are known; then every image (and mask)
    is decoded as for an evaluation.

    Args:
      name: a key of READERS, of data that are read from files and not made of others.
      directory: where the data set lies.
      line: function of a text.
      progress_of: total -> a Progress.
      sample: decode only so many images of each part, spread evenly; 0: all.
      options: of the data set's `read`.
    Raises: InputError where nothing of the data set is there.
    """
    check_choice(
        "NAME", name, tuple(n for n, r in READERS.items() if hasattr(r.read, "cache_clear"))
    )
    reader, published, faults = READERS[name], READERS[name].sizes, []
    reader.read.cache_clear()  # what is there now counts
    try:
        reader.read(directory, **options)
    except MissingData:
        raise
    except InputError as error:
        faults.append(str(error))
    parts = reader.read(directory, allow_partial=True, **options)
    for part, table in parts.items():
        known = f" of {published[part]:,}" if part in published else ""
        line(f"{name} {part}: {len(table):,}{known} images")
    for part in published.keys() - parts.keys():
        line(f"{name} {part}: nothing of {published[part]:,} images")
    tried = {part: table.subset(spread(len(table), sample)) for part, table in parts.items()}
    with progress_of(sum(map(len, tried.values()))) as progress:
        for part, table in tried.items():
            found = list(table.unreadable(progress).values())
            if found:
                counts = f"{len(found)} of {len(table)} images of {part} are unreadable"
                faults.append(f"{counts}, first: {found[0]}")
    for fault in faults:
        line(f"fault: {fault}")
    return not faults
