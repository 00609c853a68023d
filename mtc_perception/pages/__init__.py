"""Self-contained HTML pages: the style and the charts that all reports share."""

import jinja2


def render(package: str, template: str, **values: object) -> str:
    """The template file `template` of `package` with these values; markup in them is escaped.

    It may include this package's files: `page_style.css.j2`, and the macros of
    `page_parts.html.j2`.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package, "."), jinja2.PackageLoader(__name__, ".")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
