//! A video as YUV4MPEG2, which `ffmpeg -i clip.mp4 -f yuv4mpegpipe -` makes of any: a file, again and again, or a pipe to
//! its end. It goes at the pace of its header; what is late is passed over, so that the newest frame is shown.

use super::convert::{Chroma, Range, planar};
use super::{Pull, Source, SourceError};
use crate::command::Command;
use crate::frame::Frame;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the first line begins with.
pub(super) const MAGIC: &[u8; 10] = b"YUV4MPEG2 ";
/// What the line before every frame begins with.
const MARK: &[u8] = b"FRAME";
/// Longest first line.
const MOST_HEADER: usize = 1024;
/// Longest line before a frame.
const MOST_MARK: usize = 256;
/// Most pixels of a frame.
const MOST_PIXELS: u64 = 50_000_000;
/// Sides above this are made smaller at once.
const SIDE: u32 = 640;
/// How long a frame that is late waits for the one that is to take its place.
const GRACE: Duration = Duration::from_millis(10);
/// What is read at once.
const CHUNK: usize = 64 << 10;

/// What the first line says.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    height: u32,
    width: u32,
    /// From one frame to the next.
    period: Duration,
    chroma: Chroma,
    range: Range,
}

/// A number of a header.
fn number(key: char, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("its header has {key}{}, which is no number", shown(value.as_bytes())))
}

/// Bytes that somebody sent, fit for a line of a log.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(24)].escape_ascii().to_string()
}

impl Header {
    /// Reads the first line without its end.
    fn parse(line: &[u8]) -> Result<Self, String> {
        let Some(fields) = line.strip_prefix(MAGIC.as_slice()) else {
            let begins = shown(line);
            // What else comes by a pipe are the commands of a script.
            return Err(match String::from_utf8_lossy(line).parse::<Command>() {
                Ok(_) => {
                    format!("it begins with the command `{begins}`: a video leaves no room for commands in its pipe")
                }
                Err(_) => format!("it begins with `{begins}` and is no YUV4MPEG2: make it with ffmpeg -f yuv4mpegpipe"),
            });
        };
        let (mut width, mut height, mut rate, mut chroma) = (0, 0, [25, 1], Chroma::QUARTER);
        let mut range = Range::Video;
        for field in fields.split(|&byte| byte == b' ').filter(|field| !field.is_empty()) {
            let text = String::from_utf8_lossy(field);
            let Some((key, value)) = text.chars().next().map(|key| (key, &text[key.len_utf8()..])) else { continue };
            match (key, value) {
                ('W', value) => width = number(key, value)?,
                ('H', value) => height = number(key, value)?,
                ('F', value) => {
                    let (above, below) = value.split_once(':').unwrap_or((value, "1"));
                    rate = [number(key, above)?, number(key, below)?];
                }
                ('C', value) => chroma = layout(value)?,
                ('X', "COLORRANGE=FULL") => range = Range::Full,
                // Interlacing, the shape of pixels, remarks.
                _ => {}
            }
        }
        if width == 0 || height == 0 {
            return Err("its header has no width or no height".into());
        }
        if u64::from(width) * u64::from(height) > MOST_PIXELS {
            return Err(format!("{width}x{height} pixels are too many: make it smaller with ffmpeg -vf scale=640:-2"));
        }
        // 0 stands for unknown.
        let [above, below] = if rate.contains(&0) { [25, 1] } else { rate };
        let seconds = (f64::from(below) / f64::from(above)).clamp(0.001, 3600.0);
        Ok(Self { height, width, period: Duration::from_secs_f64(seconds), chroma, range })
    }

    /// Bytes of a frame.
    fn bytes(&self) -> usize {
        self.chroma.bytes([self.height, self.width])
    }
}

/// The planes of a `C` field.
fn layout(name: &str) -> Result<Chroma, String> {
    match name {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => Ok(Chroma::QUARTER),
        "411" => Ok(Chroma::Shared { across: 4, down: 1 }),
        "422" => Ok(Chroma::Shared { across: 2, down: 1 }),
        "444" => Ok(Chroma::Shared { across: 1, down: 1 }),
        "mono" => Ok(Chroma::None),
        other => {
            let other = shown(other.as_bytes());
            Err(format!("its pixels are C{other}: make them 8 bits with ffmpeg -pix_fmt yuv420p"))
        }
    }
}

/// What comes next in the stream.
#[derive(Debug)]
enum Part {
    Header,
    Mark,
    Planes,
}

/// How far a look at the stream came.
enum Step {
    /// A whole frame lies in `planes`.
    Frame,
    Waiting,
    End,
}

/// A stream of frames.
#[derive(Debug)]
pub struct Video {
    path: PathBuf,
    input: BufReader<File>,
    /// Whether it can be read again.
    regular: bool,
    /// Whether a byte has come: before, an end may be a pipe that nobody has opened yet.
    begun: bool,
    header: Option<Header>,
    part: Part,
    line: Vec<u8>,
    /// As much of the frame as has come.
    planes: Vec<u8>,
    /// Where the first frame lies in a file.
    first: u64,
    /// Frames since the beginning.
    count: u64,
    /// Whether the fault at the end of a file was told.
    told: bool,
    /// When the next frame is to be shown; from the first one on.
    due: Option<Instant>,
    /// The newest whole frame that waits for its follower.
    held: Option<Vec<u8>>,
}

/// Opens what may be a pipe that nobody writes to.
///
/// # Errors
/// Those of the system.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?.into())
}

impl Video {
    /// A video, of which nothing is read yet.
    ///
    /// # Errors
    /// When the system says nothing of the file.
    pub(super) fn new(path: &Path, file: File) -> Result<Self, SourceError> {
        let regular = file.metadata().map_err(|error| SourceError::gone(path.display(), error))?.is_file();
        let input = BufReader::with_capacity(CHUNK, file);
        Ok(Self {
            path: path.into(),
            input,
            regular,
            begun: false,
            header: None,
            part: Part::Header,
            line: Vec::new(),
            planes: Vec::new(),
            first: 0,
            count: 0,
            told: false,
            due: None,
            held: None,
        })
    }

    fn gone(&self, why: impl std::fmt::Display) -> SourceError {
        SourceError::gone(self.path.display(), why)
    }

    /// Waits for bytes; `false` when none came. None at the end are bytes too.
    fn ready(&mut self, until: Instant) -> Result<bool, SourceError> {
        loop {
            if self.begun {
                match self.input.fill_buf() {
                    Ok(_) => return Ok(true),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(self.gone(error)),
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            let left = left.try_into().map_err(|error| self.gone(error))?;
            let mut asked = [PollFd::new(self.input.get_ref(), PollFlags::IN)];
            match poll(&mut asked, Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) => self.begun = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.gone(error)),
            }
        }
    }

    /// The rest of a line without its end, once it has come; `None` at the end of the stream.
    fn line(&mut self, most: usize, until: Instant) -> Result<Option<Option<Vec<u8>>>, SourceError> {
        while self.ready(until)? {
            let bytes = self.input.buffer();
            if bytes.is_empty() {
                return Ok(Some(None));
            }
            let room = &bytes[..bytes.len().min(most - self.line.len())];
            let end = room.iter().position(|&byte| byte == b'\n');
            self.line.extend_from_slice(&room[..end.unwrap_or(room.len())]);
            let taken = end.map_or(room.len(), |end| end + 1);
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(Some(std::mem::take(&mut self.line))));
            }
            if self.line.len() == most {
                let (part, begins) = (if self.header.is_none() { "it" } else { "a frame" }, shown(&self.line));
                return Err(self.gone(format!("{part} begins with `{begins}` and has no line in {most} bytes")));
            }
        }
        Ok(None)
    }

    /// Reads until a frame is whole, the stream ends or the time is over.
    fn step(&mut self, until: Instant) -> Result<Step, SourceError> {
        loop {
            match self.part {
                Part::Header => match self.line(MOST_HEADER, until)? {
                    None => return Ok(Step::Waiting),
                    Some(None) => return Err(self.gone("it ended before its header: see what its writer says")),
                    Some(Some(line)) => {
                        self.header = Some(Header::parse(&line).map_err(|why| self.gone(why))?);
                        self.first = line.len() as u64 + 1;
                        self.part = Part::Mark;
                    }
                },
                Part::Mark => match self.line(MOST_MARK, until)? {
                    None => return Ok(Step::Waiting),
                    Some(None) if self.line.is_empty() => return Ok(Step::End),
                    Some(None) => return self.cut(),
                    Some(Some(line)) => {
                        let rest = line.strip_prefix(MARK);
                        if !rest.is_some_and(|rest| rest.is_empty() || rest[0] == b' ') {
                            let (frame, begins) = (self.count + 1, shown(&line));
                            return Err(self.gone(format!("frame {frame} begins with `{begins}`, not with FRAME")));
                        }
                        self.planes.clear();
                        self.part = Part::Planes;
                    }
                },
                Part::Planes => {
                    let whole = self.header.as_ref().map_or(0, Header::bytes);
                    while self.planes.len() < whole {
                        if !self.ready(until)? {
                            return Ok(Step::Waiting);
                        }
                        let bytes = self.input.buffer();
                        if bytes.is_empty() {
                            return self.cut();
                        }
                        // Memory is taken for what came, not for what a header says.
                        let taken = bytes.len().min(whole - self.planes.len());
                        self.planes.extend_from_slice(&bytes[..taken]);
                        self.input.consume(taken);
                    }
                    self.count += 1;
                    self.part = Part::Mark;
                    return Ok(Step::Frame);
                }
            }
        }
    }

    /// A stream that ended within a frame; of a file that is told once.
    fn cut(&mut self) -> Result<Step, SourceError> {
        let (have, frame) = (self.planes.len(), self.count + 1);
        self.line.clear();
        self.planes.clear();
        self.part = Part::Mark;
        if std::mem::replace(&mut self.told, true) {
            return Ok(Step::End);
        }
        let whole = self.header.as_ref().map_or(0, Header::bytes);
        let why = format!("it ends within frame {frame}, after {have} of {whole} bytes");
        Err(SourceError::broken(self.path.display(), why))
    }

    /// The first frame comes next.
    fn rewind(&mut self) -> Result<(), SourceError> {
        if self.count == 0 {
            return Err(self.gone("it has no whole frame"));
        }
        self.count = 0;
        self.input.seek(SeekFrom::Start(self.first)).map(drop).map_err(|error| self.gone(error))
    }

    fn picture(&self, planes: &[u8]) -> Result<Frame, SourceError> {
        let header = self.header.as_ref().expect("a header comes before frames");
        let frame = planar(planes, [header.height, header.width], header.chroma, header.range);
        frame.map(|frame| frame.within(SIDE)).map_err(|why| SourceError::broken(self.path.display(), why))
    }

    /// A frame and the time until the next one is to be shown.
    fn show(&mut self, planes: Vec<u8>) -> Result<Pull, SourceError> {
        let frame = self.picture(&planes)?;
        if self.planes.is_empty() {
            // Its memory is used again.
            self.planes = planes;
            self.planes.clear();
        }
        let rest = self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
        Ok(Pull::Lasting(frame, rest))
    }
}

impl Source for Video {
    fn pull(&mut self, patience: Duration) -> Result<Pull, SourceError> {
        let start = Instant::now();
        loop {
            let until = if self.held.is_some() { Instant::now() + GRACE } else { start + patience };
            match self.step(until.min(start + patience)) {
                Ok(Step::Frame) => {
                    let now = Instant::now();
                    let period = self.header.as_ref().map_or(Duration::ZERO, |header| header.period);
                    let due = self.due.unwrap_or(now) + period;
                    self.due = Some(due);
                    let planes = std::mem::replace(&mut self.planes, self.held.take().unwrap_or_default());
                    self.planes.clear();
                    // Late when its follower is due as well: then that one is shown, if it comes.
                    if due > now || now >= start + patience {
                        return self.show(planes);
                    }
                    self.held = Some(planes);
                }
                Ok(Step::Waiting) => {
                    return match self.held.take() {
                        Some(planes) => self.show(planes),
                        None => Ok(Pull::Waiting),
                    };
                }
                Ok(Step::End) => {
                    let held = self.held.take();
                    if self.regular {
                        self.rewind()?;
                    }
                    match held {
                        Some(planes) => return self.show(planes),
                        None if self.regular => {}
                        None => return Ok(Pull::End),
                    }
                }
                Err(error) => {
                    self.held = None;
                    return Err(error);
                }
            }
        }
    }

    /// A file waits for the program; who writes into a pipe does not.
    fn rested(&mut self, time: Duration) {
        if self.regular {
            self.due = self.due.map(|due| due + time);
        }
    }
}

#[cfg(test)]
mod tests;
