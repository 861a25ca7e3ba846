//! Streams made byte by byte: colours, pace, and what is none.

use super::*;
use crate::source::Origin;
use crate::source::convert::{Layout, convert};
use proptest::prelude::*;
use std::io::{PipeWriter, Write};
use std::os::fd::AsRawFd;

/// A stream with a header's fields and the planes of its frames.
fn stream(fields: &str, frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("YUV4MPEG2 {fields}\n").into_bytes();
    for frame in frames {
        bytes.extend_from_slice(b"FRAME\n");
        bytes.extend_from_slice(frame);
    }
    bytes
}

fn file(bytes: &[u8]) -> (tempfile::TempDir, Box<dyn Source>) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.y4m");
    std::fs::write(&path, bytes).unwrap();
    let source = Origin::File(path).open(0).unwrap();
    (place, source)
}

fn pulled(source: &mut dyn Source) -> Frame {
    match source.pull(Duration::from_secs(5)).unwrap() {
        Pull::Lasting(frame, _) => frame,
        other => panic!("{other:?}"),
    }
}

/// The error of the first frame, on one line.
fn refused(bytes: &[u8]) -> SourceError {
    let error = file(bytes).1.pull(Duration::ZERO).unwrap_err();
    assert!(!error.to_string().contains('\n') && error.to_string().contains("a.y4m"), "{error}");
    error
}

/// A pipe, and what reads it as the program would its standard input.
fn pipe() -> (PipeWriter, Box<dyn Source>) {
    let (reader, writer) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    (writer, Origin::File(path.into()).open(0).unwrap())
}

#[test]
fn colours_are_those_of_a_camera() {
    // Black, white, red, green and blue of BT.601.
    for [y, u, v] in [[16, 128, 128], [235, 128, 128], [81, 90, 240], [145, 54, 34], [41, 240, 110]] {
        let camera = convert(Layout::Nv12, &[y, y, y, y, u, v], [2, 2], 2).unwrap();
        for (fields, planes) in [
            ("W2 H2 F25:1 C420jpeg XCOLORRANGE=LIMITED", vec![y, y, y, y, u, v]),
            ("H2 W2", vec![y, y, y, y, u, v]),
            ("W2 H2 F30000:1001 Ip A1:1 C422", vec![y, y, y, y, u, u, v, v]),
            ("W2 H2 C444", vec![y, y, y, y, u, u, u, u, v, v, v, v]),
            ("W2 H2 C411 XYSCSS=411", vec![y, y, y, y, u, u, v, v]),
        ] {
            let (_place, mut source) = file(&stream(fields, &[&planes]));
            assert_eq!(pulled(&mut *source), camera, "{fields}");
        }
    }
    let (_place, mut source) = file(&stream("W3 H1 Cmono XCOLORRANGE=FULL", &[&[0, 77, 255]]));
    assert_eq!(pulled(&mut *source).pixels, [[0; 3], [77; 3], [255; 3]].concat());
    let (_place, mut source) = file(&stream("W2 H1 Cmono", &[&[16, 235]]));
    assert_eq!(pulled(&mut *source).pixels, [[0; 3], [255; 3]].concat());
}

#[test]
fn a_file_begins_again_and_waits_while_the_program_rests() {
    let (_place, mut source) = file(&stream("W1 H1 F2:1 Cmono XCOLORRANGE=FULL", &[&[1], &[2]]));
    let mut rests = Vec::new();
    for value in [1, 2, 1, 2] {
        let Pull::Lasting(frame, rest) = source.pull(Duration::ZERO).unwrap() else { panic!() };
        assert_eq!(frame.pixels, [value; 3]);
        rests.push(rest.as_secs_f64());
    }
    // Half a second a frame, whoever asks earlier.
    assert!(rests.windows(2).all(|pair| pair[1] > pair[0]) && rests[3] < 2.01, "{rests:?}");
    source.rested(Duration::from_secs(100));
    let Pull::Lasting(_, rest) = source.pull(Duration::ZERO).unwrap() else { panic!() };
    assert!(rest > Duration::from_secs(100));
}

#[test]
fn a_file_that_is_cut_short_says_so_once() {
    let mut bytes = stream("W2 H1 Cmono XCOLORRANGE=FULL", &[&[1, 2], &[3, 4], &[5]]);
    let (_place, mut source) = file(&bytes);
    assert_eq!([pulled(&mut *source).pixels[0], pulled(&mut *source).pixels[0]], [1, 3]);
    let error = source.pull(Duration::ZERO).unwrap_err();
    assert!(matches!(error, SourceError::Broken { .. }), "{error}");
    assert!(error.to_string().ends_with("it ends within frame 3, after 1 of 2 bytes"), "{error}");
    assert_eq!([(); 4].map(|()| pulled(&mut *source).pixels[0]), [1, 3, 1, 3]);
    // Not one whole frame: nothing to begin again with.
    bytes.truncate(bytes.len() - 1 - 2 * 8 - 5);
    let (_place, mut source) = file(&bytes);
    assert!(source.pull(Duration::ZERO).unwrap_err().to_string().contains("ends within frame 1"));
    assert!(source.pull(Duration::ZERO).unwrap_err().to_string().contains("no whole frame"));
}

#[test]
fn headers_that_make_no_sense_are_named() {
    for (fields, named) in [
        ("", "no width"),
        ("W0 H2", "no width"),
        ("W2", "no height"),
        ("Wx H2", "Wx, which is no number"),
        ("W-1 H2", "W-1"),
        ("W4294967296 H1", "W4294967296"),
        ("W4294967295 H4294967295", "4294967295x4294967295 pixels are too many"),
        ("W2 H2 F25:x", "Fx"),
        ("W2 H2 C420p10", "C420p10: make them 8 bits"),
        ("W2 H2 C444alpha", "C444alpha"),
        ("W2 H2 C\u{7f}\u{fffd}", "C\\x7f"),
    ] {
        let error = refused(&stream(fields, &[]));
        assert!(error.to_string().contains(named) && matches!(error, SourceError::Gone { .. }), "{fields}: {error}");
    }
    // A rate that is unknown or absurd is none to refuse a picture for.
    for fields in ["W1 H1 F0:0 Cmono", "W1 H1 F25 Cmono", "W1 H1 F4294967295:1 Cmono", "W1 H1 F1:4294967295 Cmono"] {
        let (_place, mut source) = file(&stream(fields, &[&[0]]));
        pulled(&mut *source);
    }
    let endless = [MAGIC.as_slice(), &[b'W'; 5000]].concat();
    assert!(refused(&endless).to_string().contains("no line in 1024 bytes"));
    let mut bytes = stream("W1 H1 Cmono", &[&[0]]);
    bytes.extend_from_slice(b"FLAME\n\0");
    let (_place, mut source) = file(&bytes);
    pulled(&mut *source);
    let error = source.pull(Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("frame 2 begins with `FLAME`"), "{error}");
    bytes.splice(bytes.len() - 7.., [b'F'; 300]);
    let (_place, mut source) = file(&bytes);
    pulled(&mut *source);
    assert!(source.pull(Duration::ZERO).unwrap_err().to_string().contains("no line in 256 bytes"));
}

#[test]
fn a_large_frame_takes_memory_as_it_comes() {
    let (mut writer, mut source) = pipe();
    writer.write_all(&stream("W7000 H7000 C444", &[&[0; 1000]])).unwrap();
    let taken = allocation_counter::measure(|| {
        assert!(matches!(source.pull(Duration::from_millis(1)), Ok(Pull::Waiting)));
    });
    assert!(taken.bytes_max < 1 << 20, "{taken:?}");
}

#[test]
fn a_pipe_waits_passes_over_what_is_late_and_ends() {
    let (mut writer, mut source) = pipe();
    let wait = |source: &mut dyn Source| matches!(source.pull(Duration::from_millis(1)), Ok(Pull::Waiting));
    assert!(wait(&mut *source), "nothing is written yet");
    writer.write_all(b"YUV4MPEG2 W2 H1 F1000:1 Cmo").unwrap();
    assert!(wait(&mut *source), "half a header");
    writer.write_all(b"no XCOLORRANGE=FULL\nFRA").unwrap();
    assert!(wait(&mut *source));
    writer.write_all(b"ME Ip\n\x01").unwrap();
    assert!(wait(&mut *source), "half a frame");
    writer.write_all(b"\x01").unwrap();
    assert_eq!(pulled(&mut *source).pixels, [1; 6]);
    std::thread::sleep(Duration::from_millis(20));
    writer.write_all(b"FRAME\n\x02\x02FRAME\n\x03\x03FRAME\n\x04").unwrap();
    assert_eq!(pulled(&mut *source).pixels, [3; 6], "the second is late as the third is there");
    writer.write_all(b"\x04FRAME\n\x05").unwrap();
    assert_eq!(pulled(&mut *source).pixels, [4; 6]);
    drop(writer);
    let error = source.pull(Duration::from_secs(5)).unwrap_err();
    assert!(error.to_string().contains("ends within frame 5, after 1 of 2 bytes"), "{error}");
    assert!(matches!(source.pull(Duration::from_secs(5)), Ok(Pull::End)));
}

#[test]
fn a_pipe_with_something_else_is_said() {
    let (mut writer, mut source) = pipe();
    writer.write_all(b"mode attack\n").unwrap();
    let error = source.pull(Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("the command `mode attack`"), "{error}");
    let (writer, mut source) = pipe();
    drop(writer);
    let error = source.pull(Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("ended before its header"), "{error}");
    let (place, mut source) = file(b"YUV4MPEG2 ");
    assert!(source.pull(Duration::ZERO).unwrap_err().to_string().contains("ended before its header"));
    let path = place.path().join("a.mp4");
    std::fs::write(&path, b"\0\0\0\x18ftypmp42").unwrap();
    let error = Origin::File(path).open(0).err().unwrap().to_string();
    assert!(error.contains("a compressed video") && error.contains("yuv4mpegpipe"), "{error}");
}

#[test]
fn a_pipe_by_name_waits_for_its_writer() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("video");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let mut source = Origin::File(path.clone()).open(0).unwrap();
    assert!(matches!(source.pull(Duration::from_millis(1)), Ok(Pull::Waiting)));
    let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(&stream("W1 H1 Cmono XCOLORRANGE=FULL", &[&[9]])).unwrap();
    assert_eq!(pulled(&mut *source).pixels, [9; 3]);
    drop(writer);
    assert!(matches!(source.pull(Duration::from_secs(5)), Ok(Pull::End)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the bytes, there is a frame of the right size or a line that says why not.
    #[test]
    fn no_bytes_do_harm(fields in "[WHFCXI]?[0-9a-z:=]{0,4}( [WHFC][0-9m:]{0,3}){0,6}", rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = stream(&fields, &[]);
        bytes.extend_from_slice(&rest);
        let (_place, mut source) = file(&bytes);
        for _ in 0..4 {
            match source.pull(Duration::ZERO) {
                Ok(Pull::Lasting(frame, _)) => prop_assert_eq!(frame.pixels.len() as u32, 3 * frame.height * frame.width),
                Ok(other) => prop_assert!(false, "{:?}", other),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
