"""Run all measurements and write the pages: ``make validation``.

python benchmarks/validation [--quick] [--seeds N] [--results FOLDER] [--only rates,jumps] [--page FILE]
    [--scenes FILE.npz]
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
SCRIPTS = (
    "rates", "jumps", "few_groups", "subtract_1overf", "companion_noise", "contrast", "custom", "pipeline",
    "contrast_nircam", "contrast_miri", "hits",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default=",".join(SCRIPTS), help="scripts, separated by commas; 'none' only writes the pages"
    )
    parser.add_argument(
        "--page", type=Path, default=DOCS / "validation.md", help="Markdown to write; recommended.md beside it"
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--scenes", help="npz file of observed scenes for companion_noise; without it, it has none")
    options, passed_on = parser.parse_known_args()
    passed_on += ["--results", str(options.results)]
    for name in () if options.only == "none" else options.only.split(","):
        observed = ["--scenes", options.scenes] if options.scenes and name == "companion_noise" else []
        import_module(name).main(passed_on + observed)
    sys.path.insert(0, str(DOCS))
    from recommended_page import write_recommended_page
    from validation_page import write_validation_page

    recommended = options.page.with_name("recommended.md")
    write_validation_page(options.results, options.page)
    write_recommended_page(options.results, recommended)
    print(f"wrote {options.page} and {recommended}")


if __name__ == "__main__":
    main()
