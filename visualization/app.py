"""The application: the API under /api, the pages beside it, and the guard before both."""

import importlib.util
from collections.abc import Collection
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic_core import PydanticSerializationError

from traitscope.utils.errors import UserError
from traitscope.visualization.api import (
    captured,
    fitting,
    live_chat,
    overview,
    rollouts,
    splits,
    steering,
    training,
)
from traitscope.visualization.library import BusyError, Library, NotThereError, as_text
from traitscope.visualization.security import Guard

STATIC = Path(__file__).parent / "static"
ROUTERS = (
    overview.router,
    fitting.router,
    training.router,
    steering.router,
    rollouts.router,
    captured.router,
    splits.router,
    live_chat.router,
)
MOST_FAULTS, MOST_CHARACTERS = 20, 200  # of a wrong request that are told, and of a name in it


def build_app(
    library: Library, host: str = "127.0.0.1", names: Collection[str] = (), token: str = ""
) -> FastAPI:
    """Return the application over one library.

    Args:
        host: The address it will be bound to.
        names: Further names by which browsers may reach it.
        token: What whoever wants more than to read must show; "" lets everybody chat.

    Raises:
        UserError: plotly is not installed.
    """
    app = FastAPI(
        title="traitscope",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    for make in ROUTERS:
        app.include_router(
            make(library),
            prefix="/api",
            responses={
                404: {"description": "There is nothing by that name."},
                409: {"description": "It cannot be had, and why."},
            },
        )

    explain_errors(app, library)
    plotly_js = plotly_file()

    @app.get("/plotly.min.js", include_in_schema=False)
    def plotly() -> FileResponse:
        return FileResponse(plotly_js, media_type="text/javascript")

    app.mount("/", StaticFiles(directory=STATIC, html=True), name="static")
    app.add_middleware(Guard, host=host, names=names, token=token)
    return app


def explain_errors(app: FastAPI, library: Library) -> None:
    """Answer with one line whatever is asked for that cannot be had."""
    statuses = {NotThereError: 404, BusyError: 429}

    @app.exception_handler(UserError)
    def explain(request: Request, error: UserError) -> JSONResponse:
        return _say(statuses.get(type(error), 409), library.relative(str(error)))

    @app.exception_handler(PydanticSerializationError)
    def say_it_is_no_text(request: Request, error: PydanticSerializationError) -> JSONResponse:
        # contents are checked where they are read, but nobody asks the name of a file
        return _say(409, "a file here has a name that is not UTF-8; rename it")

    @app.exception_handler(RequestValidationError)
    def say_what_is_wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        # what was sent is not sent back: it may hold what JSON cannot, a NaN or half a character
        faults = [
            {"loc": [_place(part) for part in fault["loc"]], "msg": fault["msg"], "type": fault["type"]}
            for fault in error.errors()[:MOST_FAULTS]
        ]
        return JSONResponse({"detail": faults}, 422)


def _say(status: int, what: str) -> JSONResponse:
    return JSONResponse({"detail": what}, status)


def _place(part: int | str) -> int | str:
    return as_text(part)[:MOST_CHARACTERS] if isinstance(part, str) else part


def plotly_file() -> Path:
    """Return plotly.js as the installed Python package brings it; the package itself is not imported.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("plotly")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise UserError("plotly is not installed; pip install -r requirements.txt")
    return Path(folders[0]) / "package_data" / "plotly.min.js"
