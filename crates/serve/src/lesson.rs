//! The body of `POST /adapt`: JSON with pictures in base64, or a form with files as browsers and `curl -F` send it.

use crate::Settings;
use crate::adapt::Lesson;
use crate::refusal::Refusal;
use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gabion_runtime::Rgb;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Most pictures of a lesson: what is counted is refused before memory is taken for it.
const MOST_PICTURES: usize = 4096;
/// Most steps.
const MOST_STEPS: u32 = 100_000;

/// What was asked, before anything of it was looked at.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    #[serde(deserialize_with = "counted")]
    images: Vec<File>,
    #[serde(deserialize_with = "counted")]
    labels: Vec<Label>,
    seconds: Option<f64>,
    steps: Option<u32>,
    #[serde(default)]
    seed: u64,
}

/// A picture's file.
#[derive(Deserialize)]
#[serde(from = "String")]
enum File {
    Base64(String),
    Whole(Bytes),
}

impl From<String> for File {
    fn from(text: String) -> Self {
        Self::Base64(text)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Label {
    Place(usize),
    Name(String),
    /// The name of a class, else its place: a form has no numbers.
    #[serde(skip)]
    Either(String),
}

/// At most so many, and no memory for more.
fn counted<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Counted<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Counted<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a list of at most {MOST_PICTURES}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(next) = seq.next_element()? {
                if all.len() == MOST_PICTURES {
                    return Err(A::Error::custom(format!("a list is longer than {MOST_PICTURES}, send less")));
                }
                all.push(next);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_seq(Counted(PhantomData))
}

/// How a lesson is written.
pub enum Kind {
    Json,
    /// With the whole of its content type.
    Form(HeaderValue),
}

impl Kind {
    /// From the content type.
    ///
    /// # Errors
    /// 415 for another one: what a page of another site can send without asking is none of these, or a form.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let kind = headers.get(header::CONTENT_TYPE);
        let text = kind.and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        match (text.split(';').next().unwrap_or_default().trim(), kind) {
            ("application/json", _) => Ok(Self::Json),
            ("multipart/form-data", Some(kind)) => Ok(Self::Form(kind.clone())),
            _ => {
                let what = "a lesson is application/json or multipart/form-data: say which in content-type";
                Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what).closing())
            }
        }
    }
}

/// Reads a body that is here.
///
/// # Errors
/// 400 where it is not what it is said to be, or has what a lesson has not.
pub async fn asked(kind: Kind, body: Bytes) -> Result<Asked, Refusal> {
    match kind {
        Kind::Form(kind) => form(kind, body).await,
        Kind::Json => {
            serde_json::from_slice(&body).map_err(|error| Refusal::bad(format!("the body is not a lesson: {error}")))
        }
    }
}

async fn form(kind: HeaderValue, body: Bytes) -> Result<Asked, Refusal> {
    let mut request = Request::new(Body::from(body));
    // The body was read by our own limits.
    DefaultBodyLimit::disable().apply(&mut request);
    request.headers_mut().insert(header::CONTENT_TYPE, kind);
    let broken = |why: String| {
        Refusal::bad(format!("the body is no form ({}): send multipart/form-data", why.replace('\n', " ")))
    };
    let torn = |error: MultipartError| broken(error.body_text());
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| broken(error.body_text()))?;
    let mut asked = Asked::default();
    while let Some(field) = form.next_field().await.map_err(torn)? {
        if asked.images.len().max(asked.labels.len()) > MOST_PICTURES {
            return Err(Refusal::bad(format!("the form has more than {MOST_PICTURES} pictures or labels: send less")));
        }
        let name = field.name().unwrap_or_default().to_string();
        match name.as_str() {
            "image" => asked.images.push(File::Whole(field.bytes().await.map_err(torn)?)),
            "label" => asked.labels.push(Label::Either(field.text().await.map_err(torn)?)),
            "seconds" => asked.seconds = Some(number(field, "a number").await?),
            "steps" => asked.steps = Some(number(field, "a whole number").await?),
            "seed" => asked.seed = number(field, "a whole number").await?,
            _ => {
                let what = "a lesson has an image and a label for each picture, and seconds, steps and seed";
                return Err(Refusal::bad(format!("the form has a field {name:?}: {what}")));
            }
        }
    }
    Ok(asked)
}

async fn number<T: std::str::FromStr>(field: Field<'_>, kind: &str) -> Result<T, Refusal> {
    let name = field.name().unwrap_or_default().to_string();
    let text = field.text().await.map_err(|error| Refusal::bad(format!("{name}: {}", error.body_text())))?;
    text.trim().parse().map_err(|_| Refusal::bad(format!("{name} is {text:?}: give {kind}")))
}

impl Asked {
    /// Decodes the pictures and finds the labels among `classes`.
    ///
    /// # Errors
    /// 400 with a line that says which picture or which number.
    pub fn lesson(self, classes: &[String], settings: &Settings) -> Result<Lesson, Refusal> {
        let Self { images, labels, seconds, steps, seed } = self;
        if images.is_empty() || images.len() != labels.len() {
            let counts = format!("{} images and {} labels", images.len(), labels.len());
            return Err(Refusal::bad(format!("{counts}: give one or more images, and a label for each")));
        }
        let most = settings.lesson_time.as_secs_f64();
        let time = match seconds {
            None => None,
            Some(seconds) if seconds > 0.0 && seconds <= most => Some(Duration::from_secs_f64(seconds)),
            Some(seconds) => {
                return Err(Refusal::bad(format!("seconds is {seconds}: use more than 0 and at most {most}")));
            }
        };
        if let Some(steps) = steps.filter(|steps| !(1..=MOST_STEPS).contains(steps)) {
            return Err(Refusal::bad(format!("steps is {steps}: use 1 to {MOST_STEPS}")));
        }
        let labels = labels.into_iter().map(|label| label.among(classes)).collect::<Result<_, _>>()?;
        let mut left = settings.lesson_pixels;
        let read = |(place, file): (usize, &File)| {
            let image = Rgb::from_bytes(&file.bytes(place)?, settings.pixels.min(left))
                .map_err(|error| Refusal::bad(format!("image {place}: {error}")))?;
            left -= (image.height * image.width) as u64;
            Ok(image)
        };
        let images = images.iter().enumerate().map(read).collect::<Result<_, Refusal>>()?;
        Ok(Lesson { images, labels, time, steps, seed })
    }
}

impl File {
    fn bytes(&self, place: usize) -> Result<Cow<'_, [u8]>, Refusal> {
        match self {
            Self::Whole(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Base64(text) => {
                let bytes = BASE64_STANDARD.decode(text);
                bytes.map(Cow::Owned).map_err(|error| Refusal::bad(format!("image {place} is not base64: {error}")))
            }
        }
    }
}

impl Label {
    /// Its place among the classes.
    fn among(self, classes: &[String]) -> Result<usize, Refusal> {
        let named = |name: &str| classes.iter().position(|class| class == name);
        let unknown = |name: &str| {
            let known: Vec<&str> = classes.iter().take(20).map(String::as_str).collect();
            Refusal::bad(format!("label {name:?} is no class of the model: {}", known.join(", ")))
        };
        let inside = |place: usize| {
            let what = || format!("label {place} is no class: the model has {}, from 0", classes.len());
            if place < classes.len() { Ok(place) } else { Err(Refusal::bad(what())) }
        };
        match self {
            Self::Place(place) => inside(place),
            Self::Name(name) => named(&name).ok_or_else(|| unknown(&name)),
            Self::Either(text) => match (named(&text), text.trim().parse()) {
                (Some(place), _) => Ok(place),
                (None, Ok(place)) => inside(place),
                (None, Err(_)) => Err(unknown(&text)),
            },
        }
    }
}
