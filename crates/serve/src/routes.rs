//! What is asked for, and by which limits.

use crate::adapt::{Adapter, School};
use crate::body::{Memory, read};
use crate::lesson;
use crate::metrics::Now;
use crate::refusal::{Refusal, json_answer};
use crate::workers::{Answer, Job, Picture, Shop};
use crate::{Settings, server::Phase};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use gabion_runtime::Classify;
use gabion_spec::one_line;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What every request sees.
pub struct House {
    pub settings: Settings,
    pub name: String,
    pub device: String,
    pub shop: Arc<Shop>,
    pub school: Arc<School>,
    pub adapter: Option<Arc<dyn Adapter>>,
    pub phase: Phase,
    /// For pictures to classify.
    pub bodies: Memory,
    /// For lessons, which take nothing from those.
    pub lessons: Memory,
}

type Here = State<Arc<House>>;
type Done = Result<Response, Refusal>;

/// Every route.
pub fn routes(house: Arc<House>) -> Router {
    Router::new()
        .route("/classify", post(classify))
        .route("/adapt", post(adapt).get(adaptation).delete(cancel))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(ours))
        .layer(middleware::from_fn_with_state(Arc::clone(&house), counted))
        .with_state(house)
}

/// Counts a request, the ones whose clients leave too.
async fn counted(State(house): Here, request: Request, next: Next) -> Response {
    struct Visit<'a> {
        house: &'a House,
        route: &'static str,
        status: u16,
        since: Instant,
    }
    impl Drop for Visit<'_> {
        fn drop(&mut self) {
            let Self { house, route, status, since } = *self;
            house.shop.metrics.request(route, status, since.elapsed());
            tracing::debug!(route, status, ms = since.elapsed().as_secs_f64() * 1e3, "request");
        }
    }
    let routes = ["/classify", "/adapt", "/health", "/metrics"];
    let path = request.uri().path();
    let route = routes.into_iter().find(|&route| route == path).unwrap_or("other");
    let _open = house.shop.metrics.open.one();
    let mut visit = Visit { house: &house, route, status: 499, since: Instant::now() };
    let response = next.run(request).await;
    visit.status = response.status().as_u16();
    response
}

/// Refuses what a page of another site makes a browser ask for: whoever reads that page may reach this address, and the page
/// must not.
async fn ours(request: Request, next: Next) -> Response {
    if is_foreign(request.headers()) {
        let what = "a page of another site asks: serve the page from this address, or ask without a browser";
        return Refusal::new(StatusCode::FORBIDDEN, what).closing().into_response();
    }
    next.run(request).await
}

/// Whether a browser says that a page of another host, or of another port, asks.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST);
    let own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
    };
    !headers.get(header::ORIGIN).is_none_or(own)
        || text(header::HeaderName::from_static("sec-fetch-site")) == Some("cross-site")
}

async fn nothing(uri: Uri) -> Refusal {
    let what = "use POST /classify, POST, GET or DELETE /adapt, GET /health or GET /metrics";
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no {}: {what}", uri.path()))
}

async fn wrong_method(uri: Uri) -> Refusal {
    let way = match uri.path() {
        "/classify" => "POST",
        "/adapt" => "POST, GET or DELETE",
        _ => "GET",
    };
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} takes another method: use {way}", uri.path()))
}

/// What may be asked of a picture.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    views: Option<u32>,
    confidence: Option<f32>,
    seed: Option<u64>,
    width: Option<usize>,
    height: Option<usize>,
}

async fn classify(State(house): Here, uri: Uri, headers: HeaderMap, body: Body) -> Done {
    let settings = &house.settings;
    let asked = Query::<Asked>::try_from_uri(&uri).map_err(|error| {
        let keys = "views, confidence, seed, width and height";
        Refusal::bad(format!("{}: the query has {keys}, each a number", one_line(&error.to_string())))
    })?;
    let Query(Asked { views, confidence, seed, width, height }) = asked;
    let plain = Classify::default();
    let views = views.unwrap_or(plain.views);
    let (confidence, seed) = (confidence.unwrap_or(plain.confidence), seed.unwrap_or(plain.seed));
    if views > settings.views {
        return Err(Refusal::bad(format!("views is {views}: this server takes 1 to {}", settings.views)));
    }
    let options = Classify { views, confidence, seed };
    options.check().map_err(|error| Refusal::bad(error.to_string()))?;
    let size = (side(width, &headers, "x-width")?, side(height, &headers, "x-height")?);
    let raw = match size {
        (None, None) => None,
        (Some(width), Some(height)) => Some((width, height)),
        _ => {
            return Err(Refusal::bad(
                "raw pixels need both width and height: give both, or none for a PNG, JPEG or WebP",
            ));
        }
    };
    let too_many = |(width, height): (usize, usize)| {
        let pixels = width.checked_mul(height);
        pixels.is_none_or(|pixels| pixels as u64 > settings.pixels)
    };
    if let Some((width, height)) = raw.filter(|&size| too_many(size)) {
        let what = format!("{width}x{height} is above the limit of {} pixels: make it smaller", settings.pixels);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    let most = raw.map_or(settings.body_bytes, |(width, height)| settings.body_bytes.min(3 * width * height));
    let (bytes, share) = read(settings, &house.bodies, &headers, body, most).await?;
    let picture = match raw {
        None => Picture::File(bytes, settings.pixels),
        Some((width, height)) => Picture::Raw { height, width, pixels: bytes },
    };
    let (answer, said) = oneshot::channel();
    let job = Job { picture, options, answer, share };
    if house.shop.queue.push(job).is_err() {
        if house.phase.stops() {
            return Err(Refusal::busy("the server stops: ask another one", 1).closing());
        }
        let patience = house.shop.metrics.patience(settings.queue, settings.workers);
        let what = format!("{} pictures wait already: try again in {patience} s", settings.queue);
        return Err(Refusal::busy(what, patience));
    }
    match timeout(settings.answer_time, said).await {
        Ok(Ok(said)) => said.map(|answer| told(&answer)),
        Ok(Err(_)) => Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the picture broke the worker, which was replaced: see the server's log",
        )),
        Err(_) => {
            let seconds = settings.answer_time.as_secs_f64();
            Err(Refusal::busy(format!("no answer within {seconds} s: try again, or ask for fewer views"), 1))
        }
    }
}

/// A side of raw pixels, from the query or else from a header.
fn side(asked: Option<usize>, headers: &HeaderMap, name: &str) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(name).filter(|_| asked.is_none()) else { return Ok(asked) };
    let side = value.to_str().ok().and_then(|text| text.parse().ok());
    side.map(Some).ok_or_else(|| Refusal::bad(format!("the header {name} is no number of pixels: correct it")))
}

fn told(Answer { prediction, generation, classes }: &Answer) -> Response {
    let ranked: Vec<_> = prediction
        .ranked(classes)
        .into_iter()
        .map(|(class, probability)| json!({ "class": class, "probability": probability }))
        .collect();
    let value = json!({
        "label": classes.get(prediction.label),
        "probabilities": ranked,
        "agreement": prediction.agreement,
        "margin": prediction.margin,
        "views": prediction.views,
        "milliseconds": prediction.milliseconds,
        "generation": generation,
    });
    json_answer(StatusCode::OK, &value)
}

async fn adapt(State(house): Here, headers: HeaderMap, body: Body) -> Done {
    let adapter = adapter(&house)?;
    let kind = lesson::Kind::of(&headers)?;
    house.school.free()?;
    let (body, share) = read(&house.settings, &house.lessons, &headers, body, house.settings.lesson_bytes).await?;
    let read = {
        let (house, here) = (Arc::clone(&house), Handle::current());
        // Many pictures are decoded; this thread has connections to look after.
        tokio::task::spawn_blocking(move || {
            let model = house.shop.live.now().model;
            let asked = here.block_on(lesson::asked(kind, body));
            let read = asked.and_then(|asked| asked.lesson(model.classes(), &house.settings));
            drop(share);
            read
        })
    };
    let broke =
        |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the pictures broke the reader: see the server's log");
    let lesson = read.await.map_err(broke)??;
    house.school.begin(&house.shop, adapter, lesson, house.settings.lesson_time)?;
    Ok(json_answer(StatusCode::ACCEPTED, &house.school.report()))
}

async fn adaptation(State(house): Here) -> Done {
    adapter(&house)?;
    Ok(json_answer(StatusCode::OK, &house.school.report()))
}

async fn cancel(State(house): Here) -> Done {
    adapter(&house)?;
    house.school.cancel()?;
    Ok(json_answer(StatusCode::ACCEPTED, &house.school.report()))
}

fn adapter(house: &House) -> Result<Arc<dyn Adapter>, Refusal> {
    let what = "this server adapts nothing: start one whose build has adaptation";
    house.adapter.clone().ok_or_else(|| Refusal::new(StatusCode::NOT_IMPLEMENTED, what))
}

async fn health(State(house): Here) -> Response {
    let ready = !house.phase.stops();
    let generation = house.shop.live.now();
    let value = json!({
        "live": true,
        "ready": ready,
        "model": house.name,
        "generation": generation.number,
        "device": house.device,
        "fallen": generation.model.fallen(),
        "waiting": house.shop.queue.len(),
    });
    json_answer(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &value)
}

async fn metrics(State(house): Here) -> Response {
    let generation = house.shop.live.now();
    let now = Now {
        name: &house.name,
        device: &house.device,
        fallen: generation.model.fallen().is_some(),
        generation: generation.number,
        waiting: house.shop.queue.len(),
        queue: house.settings.queue,
        workers: house.settings.workers,
        adapting: house.school.running(),
    };
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, house.shop.metrics.text(&now)).into_response()
}
