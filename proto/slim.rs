//! Bodies of streams that keep no room which they need no more. tonic has one buffer for all messages of a stream, in each direction.
//! It grows and does not shrink; but it is exchanged for a new one when it is full and somebody still has bytes of it. So a large
//! message is made to fill its buffer exactly, and its bytes are kept until another message follows; with them the buffer goes.
//! A hub has thousands of idle streams, and each of them begins with messages that are large beside all others.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tonic::{Status, body::Body};

/// A message larger than this leaves behind a buffer that is worth getting rid of.
pub(crate) const LARGE: usize = 1024;

/// What stands before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What is sent: [`crate::codec::Weighed`] fills the buffer exactly, and here its bytes are kept.
pub fn sent(body: Body) -> Body {
    let mut large = None;
    Body::new(body.map_frame(move |frame| {
        let data = frame.data_ref().filter(|data| data.len() > LARGE);
        drop(mem::replace(&mut large, data.cloned()));
        frame
    }))
}

/// What is received: a large message's prefix comes alone, and its end is the end of a frame. When tonic has read the prefix it
/// makes room for a whole message, beside what it has of it already. [`crate::codec::Weighed`] keeps the bytes.
pub fn received(body: Body) -> Body {
    Body::new(Apart {
        body,
        waiting: Bytes::new(),
        read: 0,
        length: 0,
        left: 0,
    })
}

struct Apart {
    body: Body,
    /// What came and was not passed on yet.
    waiting: Bytes,
    /// How many bytes of a prefix were passed on, and the length that they tell.
    read: usize,
    length: u32,
    /// What of a message is still to be passed on.
    left: usize,
}

impl Apart {
    fn next(&mut self) -> Option<Bytes> {
        if self.waiting.is_empty() {
            return None;
        }
        let mut end = 0;
        if self.left == 0 {
            end = self.waiting.len().min(PREFIX - self.read);
            for byte in &self.waiting[..end] {
                // The first byte is the mark of compression.
                if self.read > 0 {
                    self.length = self.length << 8 | u32::from(*byte);
                }
                self.read += 1;
            }
            if self.read < PREFIX {
                return Some(self.waiting.split_to(end));
            }
            self.read = 0;
            self.left = mem::take(&mut self.length) as usize;
            if self.left > LARGE {
                return Some(self.waiting.split_to(end));
            }
        }
        let part = self.left.min(self.waiting.len() - end);
        self.left -= part;
        Some(self.waiting.split_to(end + part))
    }
}

impl HttpBody for Apart {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(data) = self.next() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.waiting = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(message: &[usize], frame: usize) -> Vec<usize> {
        let mut bytes = Vec::new();
        for length in message {
            bytes.push(0);
            bytes.extend(u32::try_from(*length).unwrap().to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, *length));
        }
        let mut apart = Apart {
            body: Body::empty(),
            waiting: Bytes::new(),
            read: 0,
            length: 0,
            left: 0,
        };
        let mut passed = Vec::new();
        let mut parts = Vec::new();
        for chunk in bytes.chunks(frame) {
            apart.waiting = Bytes::copy_from_slice(chunk);
            while let Some(part) = apart.next() {
                parts.push(part.len());
                passed.extend_from_slice(&part);
            }
        }
        assert_eq!(passed, bytes, "nothing is lost or added");
        parts
    }

    #[test]
    fn only_a_large_message_is_parted_from_its_prefix_and_from_the_next() {
        let all = usize::MAX;
        assert_eq!(parts(&[10, 0, 20], all), [15, 5, 25]);
        assert_eq!(parts(&[10, 2_000, 3], all), [15, 5, 2_000, 8]);
        assert_eq!(parts(&[2_000], 3), {
            let mut expected = vec![3, 2, 1];
            expected.extend([3; 666]);
            expected.push(1);
            expected
        });
        assert_eq!(parts(&[4_000], 1_500), [5, 1_495, 1_500, 1_005]);
    }
}
