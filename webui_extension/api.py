"""Routes under /sd-debias/v1, where the host's own API is on, behind its users' passwords (guards.py)."""
from __future__ import annotations

import base64
import io
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import VERSION, BaseModel, Field

from ..core.calibration.outcome import LABELS
from ..core.calibration.plan import CUSTOM, FIELDS, HOW_SURE, Plan, planned
from ..core.errors import DebiasError, quoted, short
from ..core.files import inside, safe_name
from ..core.looks import AUTO, DETECTOR, LOOK, PICTURE
from ..core.method.methods import AS_METHOD, CHOICES, Method, chosen
from ..core.report.look import policy
from ..core.report.page import POLICY
from ..core.sweep import wire
from . import calibrating, classifiers, guards, measuring, profiles
from .arguments import NONE
from .jobs import Busy, Job, Jobs
from .request import check, processing_of

PREFIX = "/sd-debias/v1"


def _planned(name: str):
    """The field for a number of a calibration's plan; `Plan` checks its range."""
    return Field(FIELDS[name].default, description=FIELDS[name].help)


def _choice(name: str):
    """The field for one of a method's choices; `Method` checks it."""
    return Field(AS_METHOD, description=CHOICES[name].help)


def _or_null(description: str):
    """A field of an answer that is null without a value. The schema of pydantic 1 does not say that by itself."""
    said = {} if VERSION.partition(".")[0] != "1" else {"nullable": True}
    return Field(None, description=description, **said)


class Settings(BaseModel):
    """What pictures are made with; fields as in the host's txt2img."""
    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = []
    seed: int = Field(-1, ge=-1, le=2**53)
    sampler_name: str | None = None
    scheduler: str | None = None
    steps: int = Field(20, ge=1, le=150)
    cfg_scale: float = Field(7.0, ge=0, le=100)
    width: int = Field(512, ge=64, le=4096)
    height: int = Field(512, ge=64, le=4096)
    batch_size: int = Field(FIELDS["batch_size"].default, ge=1, le=64)
    override_settings: dict = {}


class AuditRequest(BaseModel):
    txt2img: Settings = Settings()
    prompts: list[str] = Field([], description="several prompts; empty: the prompt of txt2img")
    attributes: list[str] = Field(["gender"], description="gender, skin_tone, ..., or own groups 'young | old = 1:1'")
    classifier: str = Field("", description="folder of a CLIP model in models/classifiers, or 'demo'; empty: the "
                                            "classifier of the settings page")
    look: str = Field(PICTURE, description=LOOK.help)
    detector: str = Field(AUTO, description=DETECTOR.help)
    check: str = Field("", description="name of a check of the classifier that the page's script saved")
    count: int = Field(FIELDS["images"].default, description="images per prompt")
    confidence: float = _planned("confidence")
    corrections: dict = Field({}, description="only for audits: labels that were corrected by hand, as the page of "
                                              "pictures and labels saves them")


class CalibrateRequest(AuditRequest):
    name: str = Field(..., description="name of the profile")
    sure: str | None = Field(None, description=f"{HOW_SURE.help} Default: normal; custom if one of the numbers is "
                                               "given.")
    count: int = _planned("images")
    rounds: int = _planned("rounds")
    held_out: int = _planned("held_out")
    tolerance: float | None = _planned("tolerance")
    within: float | None = _planned("within")
    method: str = Field("default", description=CHOICES["method"].help)
    direction: str = _choice("direction")
    spend: str = _choice("spend")
    rule: str = _choice("rule")
    overwrite: bool = False


class MeasureRequest(BaseModel):
    """A unit of a sweep, as `sd-debias sweep --via` sends it; the prompt and seeds are the unit's."""
    txt2img: Settings = Settings()
    model: str = Field("", description="name of the checkpoint; empty: the one chosen on the page")
    classifier: str = Field("", description="as in an audit")
    look: str = Field(PICTURE, description=LOOK.help)
    detector: str = Field(AUTO, description=DETECTOR.help)
    sweep: dict = Field(..., description="what to measure, and how")


class JobState(BaseModel):
    id: str
    kind: str
    state: str = Field(..., description="waiting, running, done, failed or cancelled")
    text: str = ""
    error: str | None = _or_null("why it failed")
    seed: int | None = _or_null("seed of the first image; the same seed gives the same images")
    result: list[dict] | None = _or_null("measured shares, one entry per prompt; for a unit of a sweep, its answer")
    profile: str | None = _or_null("name of the profile that a calibration saved")
    images: list[str] = Field([], description="sheets and charts as base64 PNG, with ?images=true")


_CREDENTIALS = Depends(HTTPBasic(auto_error=False))


class Refused(BaseModel):
    detail: str = Field(..., description="what was expected, what was given, and what to do")


class _Route(APIRoute):
    """A route that reads no more than a request needs, whoever asks, since the body is read before the password; and
    that says what is wrong with a request in a sentence. FastAPI's own answer repeats what was given, and breaks where
    that is no JSON, such as NaN."""

    def get_route_handler(self):
        handle = super().get_route_handler()

        async def said(request: Request):
            try:
                return await handle(Request(request.scope, guards.at_most(
                    request.receive, guards.LARGEST, lambda: HTTPException(413, "The request is too large."))))
            except RequestValidationError as error:
                raise HTTPException(422, _wrong(error)) from error
        return said


def _wrong(error: RequestValidationError) -> str:
    """The first field that is wrong, in words."""
    first = error.errors()[0]
    at = ".".join(str(part) for part in first["loc"] if part != "body")
    return f"The request is wrong{f' at {quoted(at)}' if at else ''}: {short(first['msg'])}. Correct it, and try again."


def register(app: FastAPI) -> None:
    """Add the routes; without --api the host has no API, and this extension none but the page's own."""
    from modules import shared

    def read_report(name: str, request: Request) -> RedirectResponse:
        """A profile's report: its address ends in a file's name, so that the page beside it is found."""
        return RedirectResponse(f"{quote(name, safe='')}/report.html")

    def read_page(name: str, file: str, request: Request) -> HTMLResponse:
        """A profile's report, or the page of pictures and labels beside it."""
        if app.auth is not None and not guards.logged_in(app.tokens, request.cookies):
            raise HTTPException(401, "Log in on the page first.")
        try:
            if file not in ("report.html", LABELS):
                raise DebiasError("No such page.")
            folder = profiles.save_folder() / "reports"
            content = inside(folder, folder / safe_name(name) / file).read_text("utf-8")
        except (DebiasError, OSError) as error:
            raise HTTPException(404, f"There is no report {quoted(name)}.") from error
        return HTMLResponse(content, headers={"Content-Security-Policy": policy() if file == LABELS else POLICY,
                                              "X-Content-Type-Options": "nosniff"})

    if hasattr(app, "auth"):  # the page's; an API alone has none, and its own guards
        for path, read in (("{name}", read_report), ("{name}/{file}", read_page)):
            app.add_api_route(calibrating.REPORT + path, read, methods=["GET"], include_in_schema=False)
    if not (getattr(shared.cmd_opts, "api", False) or getattr(shared.cmd_opts, "nowebui", False)):
        return
    jobs = Jobs()

    def admitted(request: Request, credentials: HTTPBasicCredentials | None = _CREDENTIALS) -> None:
        """The host's users, and no page of another site."""
        if guards.foreign(request.headers.get("origin"), request.headers.get("host")):
            raise HTTPException(403, "A page of another site asked. Name it with --cors-allow-origins if it may.")
        known = guards.known_users(getattr(app, "auth", None))
        if known is None or credentials and guards.right(known, credentials.username, credentials.password):
            return
        if known is not getattr(app, "auth", None) or not guards.logged_in(app.tokens, request.cookies):
            raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})

    router = APIRouter(prefix=PREFIX, route_class=_Route, tags=["sd-debias"], dependencies=[Depends(admitted)])

    def route(path: str, endpoint, method: str, refuses: tuple[int, ...], **options):
        answers = {status: {"model": Refused} for status in (401, 403, *refuses)}
        router.add_api_route(path, endpoint, methods=[method], responses=answers, **options)

    def list_profiles() -> list[str]:
        """Names of all profiles."""
        return [name for name in profiles.names() if name != NONE]

    def read_profile(name: str) -> dict:
        """One profile's JSON."""
        try:
            return profiles.load(name).to_dict()
        except DebiasError as error:
            raise HTTPException(404, profiles.said(error)) from error

    def start_audit(request: AuditRequest) -> JobState:
        """Measure the shares of a prompt's pictures; ask for the job until it is done."""
        _checked(request)
        return begin("audit", lambda job: _audit(request, job))

    def start_calibration(request: CalibrateRequest) -> JobState:
        """Calibrate, verify, and save a profile; ask for the job until it is done."""
        _checked(request)
        return begin("calibration", lambda job: _calibrate(request, job))

    def start_unit(request: MeasureRequest) -> JobState:
        """Measure a unit of a sweep; ask for the job until it is done."""
        try:
            wire.read(request.sweep)
            name = measuring.checkpoint(request.model)
            settings = dict(vars(request.txt2img))
            if name is not None:
                settings["override_settings"] = {**settings["override_settings"], "sd_model_checkpoint": name}
            check(settings)
        except DebiasError as error:
            raise HTTPException(422, profiles.said(error)) from error
        return begin("unit of a sweep", lambda job: _measure(request, settings, job))

    def begin(kind: str, work) -> JobState:
        try:
            return _state(jobs.start(kind, work))
        except Busy as error:
            raise HTTPException(409, str(error)) from error

    def found(identity: str) -> Job:
        job = jobs.get(identity)
        if job is None:
            raise HTTPException(404, f"There is no job {quoted(identity)}.")
        return job

    def read_job(identity: str, images: bool = False) -> JobState:
        """How far a job has come, and its result."""
        return _state(found(identity), images)

    def cancel_job(identity: str) -> JobState:
        """Stop a job; what was measured is kept."""
        job = found(identity)
        jobs.cancel(job)
        return _state(job)

    route("/profiles", list_profiles, "GET", (), response_model=list[str])
    route("/profiles/{name}", read_profile, "GET", (404,), response_model=dict)
    for path, start in (("/audit", start_audit), ("/calibrate", start_calibration), ("/measure", start_unit)):
        route(path, start, "POST", (400, 409, 413, 422), response_model=JobState, status_code=202)
    route("/jobs/{identity}", read_job, "GET", (404, 422), response_model=JobState)
    route("/jobs/{identity}", cancel_job, "DELETE", (404,), response_model=JobState)
    app.include_router(router)


def _checked(request: AuditRequest) -> None:
    """Refuse at once what is wrong in itself."""
    try:
        classifiers.attributes_of(request.attributes, None)
        if isinstance(request, CalibrateRequest):
            _method(request)
            safe_name(f"{profiles.new_name(request.name)} (unfinished)")
            planned(_sure(request), _method(request), **_numbers(request), batch_size=request.txt2img.batch_size)
        else:
            Plan(request.count, 0, 0, confidence=request.confidence)
        check(vars(request.txt2img))
    except DebiasError as error:
        raise HTTPException(422, profiles.said(error)) from error


def _method(request: CalibrateRequest) -> Method:
    return chosen(request.method, direction=request.direction, spend=request.spend, rule=request.rule)


def _sure(request: CalibrateRequest) -> str:
    """Raises DebiasError for numbers beside a usual plan, which has its own."""
    given = [name for name in ("count", "rounds", "held_out", "tolerance", "within") if name in _given(request)]
    if given and request.sure not in (None, CUSTOM):
        raise DebiasError(f"Expected {quoted(given[0])} only with the plan '{CUSTOM}', got sure: "
                          f"{quoted(request.sure)}, which has its own numbers. Leave one of them out.")
    return request.sure or (CUSTOM if given else "normal")


def _given(request: BaseModel) -> set[str]:
    """Names of the fields that were given; pydantic 1 and 2 name them differently."""
    return getattr(request, "model_fields_set", None) or getattr(request, "__fields_set__", set())


def _numbers(request: CalibrateRequest) -> dict:
    return dict(images=request.count, rounds=request.rounds, held_out=request.held_out, tolerance=request.tolerance,
                confidence=request.confidence, within=request.within)


def _audit(request: AuditRequest, job: Job):
    p = processing_of(vars(request.txt2img))
    job.seed = p.seed
    attributes = classifiers.attributes_of(request.attributes, None)
    named = classifiers.Named(request.classifier, request.look, request.detector)
    return calibrating.audit(p, request.prompts or [p.prompt], attributes, named, request.count, request.confidence,
                             say=job.say, cancelled=lambda: job.cancelled, check=request.check,
                             corrections=request.corrections)


def _calibrate(request: CalibrateRequest, job: Job):
    p = processing_of(vars(request.txt2img))
    job.seed = p.seed
    attributes = classifiers.attributes_of(request.attributes, None)
    method = _method(request)
    return calibrating.calibrate(
        p, request.prompts or [p.prompt], attributes,
        classifiers.Named(request.classifier, request.look, request.detector), method, request.name, _sure(request),
        _numbers(request), request.overwrite, say=job.say, cancelled=lambda: job.cancelled, check=request.check)


def _measure(request: MeasureRequest, settings: dict, job: Job):
    named = classifiers.Named(request.classifier, request.look, request.detector)
    return measuring.measure(processing_of(settings), named, request.sweep, job.say, lambda: job.cancelled)


def _state(job: Job, images: bool = False) -> JobState:
    result = job.result
    sheets = result.images[:len(result.images) - len(result.seeds)] if result and images else []
    return JobState(id=job.id, kind=job.kind, state=job.state, text=job.text, error=job.error, seed=job.seed,
                    result=result.summary if result else None,
                    profile=result.profile.name if result and result.profile else None,
                    images=[_png(image) for image in sheets])


def _png(image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
