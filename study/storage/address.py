"""Addresses of databases: parsed, and shown without their password."""

import re
from shlex import quote

import sqlalchemy.exc
from sqlalchemy.engine import URL, make_url

from study import StudyError
from study.storage.names import DEFAULT_URL


def parse_url(url: str) -> URL:
    """Parse a storage address into SQLAlchemy's URL. Raises StudyError when it is not one."""
    try:
        place = make_url(url)
        place.get_dialect()
        return place
    except ImportError:
        return place  # a driver that is not installed; opening says so
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        hidden = re.sub(r"//([^/@:]*):[^@]*@", r"//\1:***@", re.sub(r"(password=)[^&]*", r"\1***", url))
        raise StudyError(f"not a storage address: {hidden!r} (for example {DEFAULT_URL})") from error


def masked(url: str) -> str:
    """Mask the password of a storage address, wherever that stands in it."""
    return shown(parse_url(url))


def shown(place: URL) -> str:
    """Mask the password of a parsed URL."""
    return place.difference_update_query(["password", "sslpassword"]).render_as_string()


def storage_option(url: str) -> str:
    """Return the option that a command needs to go on with a study of this database."""
    return "" if url == DEFAULT_URL else f" --storage {quote(masked(url))}"
