"""Self-contained HTML pages from the templates of this package."""

import jinja2


def render(template: str, **values: object) -> str:
    """The template file `template` with these values; markup in them is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
