"""The application: the API under /api, the pages beside it, and the guard before both."""

import importlib.util
from collections.abc import Collection
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from traitscope.utils.errors import UserError
from traitscope.visualization.api import captured, fitting, live_chat, overview, splits, steering
from traitscope.visualization.library import BusyError, Library, NotThereError
from traitscope.visualization.security import Guard

STATIC = Path(__file__).parent / "static"
ROUTERS = (overview.router, fitting.router, steering.router, captured.router, splits.router, live_chat.router)


def build_app(library: Library, host: str = "127.0.0.1", names: Collection[str] = ()) -> FastAPI:
    """Return the application over one library.

    Args:
        host: The address it will be bound to.
        names: Further names by which browsers may reach it.

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

    statuses = {NotThereError: 404, BusyError: 429}

    @app.exception_handler(UserError)
    def explain(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": library.relative(str(error))}, statuses.get(type(error), 409))

    plotly_js = plotly_file()

    @app.get("/plotly.min.js", include_in_schema=False)
    def plotly() -> FileResponse:
        return FileResponse(plotly_js, media_type="text/javascript")

    app.mount("/", StaticFiles(directory=STATIC, html=True), name="static")
    app.add_middleware(Guard, host=host, names=names)
    return app


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
