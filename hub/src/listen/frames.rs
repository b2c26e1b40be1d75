//! HTTP/2 seen from outside of the library that speaks it: which frames pass. A peer can keep a connection busy with frames that
//! carry nothing (PING, SETTINGS, empty DATA, streams opened and reset), which h2 answers for as long as the peer reads; and what
//! h2 refuses by itself it tells nobody. Both are seen here, in the headers of frames. Pure: bytes in, the time is a parameter.

use std::time::{Duration, Instant};

/// What a client says before its first frame.
const PREFACE: usize = 24;
/// Length, kind, flags, stream.
const HEADER: usize = 9;
/// The most of a payload that is looked at: the error code of GOAWAY comes after four other bytes.
const LOOKED_AT: usize = 8;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// The error code that says: too much of it.
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// How many frames without content a peer may send in a window. Somebody in order sends a few: one for each 20 s, and some
/// for every 32 KiB that it reads.
pub(super) const EMPTY_FRAMES: u32 = 5_000;
/// The window.
const WINDOW: Duration = Duration::from_secs(10);

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    kind: u8,
    length: usize,
    payload: [u8; 4],
}

impl Frame {
    fn is_empty(self) -> bool {
        self.kind != DATA || self.length == 0
    }

    /// What the sender of it refuses. Nothing where it only takes leave: without an error, or because a call is not needed any
    /// more.
    pub(super) fn refusal(self) -> Option<Refused> {
        let code = u32::from_be_bytes(self.payload);
        match (self.kind, code) {
            (GOAWAY | RST_STREAM, 0) | (RST_STREAM, 8) => None,
            (GOAWAY, _) => Some(Refused::Connection(code)),
            (RST_STREAM, _) => Some(Refused::Stream(code)),
            _ => None,
        }
    }
}

/// What a frame refuses, with its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// GOAWAY.
    Connection(u32),
    /// RST_STREAM.
    Stream(u32),
}

/// Finds the frames in one direction of a connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that are of no interest before the next header.
    skip: usize,
    /// The header that is being read, and what is looked at of the payload.
    head: [u8; HEADER + LOOKED_AT],
    read: usize,
}

impl Frames {
    /// What a client says.
    pub(super) fn of_client() -> Self {
        Self {
            skip: PREFACE,
            ..Self::of_server()
        }
    }

    /// What a server says.
    pub(super) fn of_server() -> Self {
        Self {
            skip: 0,
            head: [0; HEADER + LOOKED_AT],
            read: 0,
        }
    }

    /// Whether a frame of one's own would not fall into the middle of another.
    pub(super) fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.read == 0
    }

    /// The frames whose beginnings are in these bytes.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = self.wanted();
            // A frame may end with what is wanted of it, and then no further byte has to come.
            if self.read >= HEADER && self.read == wanted {
                seen(self.frame());
                self.skip = self.length() - (wanted - HEADER);
                self.read = 0;
                continue;
            }
            let Some((first, rest)) = bytes.split_first().filter(|_| self.skip == 0) else {
                return;
            };
            if let Some(place) = self.head.get_mut(self.read) {
                *place = *first;
            }
            self.read += 1;
            bytes = rest;
        }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    /// How many bytes of the frame are to be read before it is told.
    fn wanted(&self) -> usize {
        if self.read < HEADER {
            return HEADER;
        }
        let of_payload = match self.head[3] {
            RST_STREAM => 4,
            GOAWAY => 8,
            _ => 0,
        };
        HEADER + self.length().min(of_payload)
    }

    fn frame(&self) -> Frame {
        let kind = self.head[3];
        let at = if kind == GOAWAY { HEADER + 4 } else { HEADER };
        let mut payload = [0; 4];
        if self.wanted() >= at + 4 {
            payload.copy_from_slice(&self.head[at..at + 4]);
        }
        Frame {
            kind,
            length: self.length(),
            payload,
        }
    }
}

/// What a client sends, counted.
#[derive(Debug)]
pub(super) struct Meter {
    frames: Frames,
    window: Option<Instant>,
    empty: u32,
}

/// More frames without content than anybody in order sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            frames: Frames::of_client(),
            window: None,
            empty: 0,
        }
    }

    /// Counts what has come.
    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) -> Result<(), Flood> {
        let started = *self.window.get_or_insert(now);
        if now.saturating_duration_since(started) >= WINDOW {
            self.window = Some(now);
            self.empty = 0;
        }
        let mut empty = 0;
        self.frames
            .scan(bytes, |frame| empty += u32::from(frame.is_empty()));
        self.empty = self.empty.saturating_add(empty);
        if self.empty > EMPTY_FRAMES {
            return Err(Flood);
        }
        Ok(())
    }
}

/// A GOAWAY that says why. No stream is named as the last that was handled: an agent does nothing twice because of it.
pub(super) fn goaway() -> Vec<u8> {
    const WHY: &[u8] = b"too_many_empty_frames";
    let length = u8::try_from(8 + WHY.len()).unwrap_or(u8::MAX);
    let mut frame = vec![0, 0, length, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend(WHY);
    frame
}

/// The name of an error code, for metrics and the audit log. They come from a closed set: whoever answers, it is us.
pub(super) fn name(code: u32) -> &'static str {
    match code {
        1 => "protocol-error",
        2 => "internal-error",
        3 => "flow-control-error",
        4 => "settings-timeout",
        5 => "stream-closed",
        6 => "frame-size-error",
        7 => "refused-stream",
        9 => "compression-error",
        ENHANCE_YOUR_CALM => "enhance-your-calm",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn scanned(frames: &mut Frames, bytes: &[u8], cut: usize) -> Vec<Frame> {
        let mut seen = Vec::new();
        for part in bytes.chunks(cut.max(1)) {
            frames.scan(part, |frame| seen.push(frame));
        }
        seen
    }

    #[test]
    fn refusals_are_told_from_farewells() {
        let rst = |code: u32| frame(RST_STREAM, &code.to_be_bytes());
        let bytes = [rst(0), rst(7), rst(8), goaway(), frame(GOAWAY, &[0; 8])].concat();
        let mut frames = Frames::of_server();
        let seen = scanned(&mut frames, &bytes, bytes.len());
        assert!(frames.is_between_frames());
        let refusals: Vec<_> = seen.iter().filter_map(|frame| frame.refusal()).collect();
        assert_eq!(
            refusals,
            [Refused::Stream(7), Refused::Connection(ENHANCE_YOUR_CALM)]
        );
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn a_frame_in_between_is_seen() {
        let bytes = frame(DATA, b"abc");
        for end in 1..bytes.len() {
            let mut frames = Frames::of_server();
            frames.scan(&bytes[..end], |_| {});
            assert!(!frames.is_between_frames(), "after {end} bytes");
        }
    }

    #[test]
    fn hostile_16_empty_frames_are_counted_and_content_is_not() {
        let start = Instant::now();
        let mut meter = Meter::new();
        assert_eq!(meter.take(&[0; PREFACE], start), Ok(()));
        let full = frame(DATA, b"x").repeat(2 * EMPTY_FRAMES as usize);
        assert_eq!(meter.take(&full, start), Ok(()));
        let many = [frame(6, &[0; 8]), frame(DATA, b""), frame(4, b"")].concat();
        let many = many.repeat(EMPTY_FRAMES as usize / 3);
        assert_eq!(meter.take(&many, start), Ok(()));
        assert_eq!(meter.take(&many, start + WINDOW), Ok(()), "another window");
        assert_eq!(meter.take(&many, start + WINDOW), Err(Flood));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_same_frames_are_seen(
            frames in proptest::collection::vec((0u8..12, proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
            cut in 1usize..50,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            let mut found = Frames::of_server();
            let seen = scanned(&mut found, &bytes, cut);
            prop_assert!(found.is_between_frames());
            let told: Vec<_> = seen.iter().map(|frame| (frame.kind, frame.length)).collect();
            let expected: Vec<_> = frames.iter().map(|(kind, payload)| (*kind, payload.len())).collect();
            prop_assert_eq!(told, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), cut in 1usize..50) {
            scanned(&mut Frames::of_client(), &bytes, cut);
        }
    }
}
