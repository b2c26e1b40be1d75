//! Reads messages from the transport. A message may be far larger in memory than on the wire: an empty resource takes two
//! bytes there and more than two hundred here, so that 4 MiB become 600. Each is therefore weighed before anything of it is
//! decoded, by the shapes that `build.rs` takes from the proto files.

use std::marker::PhantomData;

use crate::{slim::LARGE, v1};
use prost::{
    Message,
    bytes::{Buf as _, Bytes},
    encoding::decode_varint,
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// What the elements of one message may take, in bytes. A page of the size that Welcome asks for has less than half of it,
/// however small its resources are.
pub const ELEMENT_BYTES: usize = 8 * 1024 * 1024;

/// A string in memory: its handle, and the least that an allocation takes.
const TEXT_BYTES: usize = size_of::<String>() + 32;

/// What a buffer has at first: a stream holds two for as long as it lives, and a hub holds thousands of streams that say
/// nothing for most of the time. tonic's own default is 8 KiB.
const BUFFER: usize = 512;
/// How much is written before the transport gets it. A large message goes alone, so that its buffer is as large as it is.
const YIELD_AT: usize = 4 * 1024;

/// What can be repeated within a message.
pub struct Shape(&'static [(u64, Part)]);

enum Part {
    /// One message.
    One(&'static Shape),
    /// Messages that take so many bytes each.
    Many(usize, &'static Shape),
    Texts,
    Numbers,
}

/// A message of `proto/`.
pub trait Shaped {
    /// What can be repeated within it.
    const SHAPE: &'static Shape;
}

include!(concat!(env!("OUT_DIR"), "/berth.v1.shapes.rs"));

/// Why a message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It has too many elements.
    TooHeavy,
    /// It has a group, whose elements cannot be told.
    Group,
}

/// Whether a message's elements take no more than [`ELEMENT_BYTES`] once decoded. What cannot be read is weighed up to where
/// it breaks, for decoding ends there as well.
pub fn weigh<M: Shaped>(bytes: &[u8]) -> Result<(), Unread> {
    let mut left = ELEMENT_BYTES;
    walk(M::SHAPE, bytes, &mut left).map(|_| ())
}

/// None: the bytes broke off.
fn walk(shape: &Shape, mut bytes: &[u8], left: &mut usize) -> Result<Option<()>, Unread> {
    while !bytes.is_empty() {
        let Ok(tag) = decode_varint(&mut bytes) else {
            return Ok(None);
        };
        let part = shape.0.iter().find(|(n, _)| *n == tag >> 3).map(|(_, p)| p);
        let skipped = match tag & 7 {
            0 => {
                if matches!(part, Some(Part::Numbers)) {
                    take(left, size_of::<u64>())?;
                }
                if decode_varint(&mut bytes).is_err() {
                    return Ok(None);
                }
                continue;
            }
            1 => 8,
            5 => 4,
            2 => {
                let length = decode_varint(&mut bytes)
                    .ok()
                    .and_then(|n| usize::try_from(n).ok());
                let Some(inner) = length.and_then(|n| bytes.get(..n)) else {
                    return Ok(None);
                };
                let broken = match part {
                    Some(Part::One(shape)) => walk(shape, inner, left)?.is_none(),
                    Some(Part::Many(size, shape)) => {
                        take(left, *size)?;
                        walk(shape, inner, left)?.is_none()
                    }
                    Some(Part::Texts) => {
                        take(left, TEXT_BYTES)?;
                        false
                    }
                    // Packed: one byte of the wire each at least.
                    Some(Part::Numbers) => {
                        take(left, inner.len().saturating_mul(size_of::<i32>()))?;
                        false
                    }
                    None => false,
                };
                if broken {
                    return Ok(None);
                }
                inner.len()
            }
            // Groups: nobody who speaks proto3 writes them. Decoding would skip what they enclose unread, whatever it is, and
            // the scales would take it for the message's own.
            3 | 4 => return Err(Unread::Group),
            _ => return Ok(None),
        };
        match bytes.get(skipped..) {
            Some(rest) => bytes = rest,
            None => return Ok(None),
        }
    }
    Ok(Some(()))
}

fn take(left: &mut usize, amount: usize) -> Result<(), Unread> {
    *left = left.checked_sub(amount).ok_or(Unread::TooHeavy)?;
    Ok(())
}

/// The codec of `berth.v1`: prost's, behind the scales.
pub struct Weighed<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Weighed<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Weighed<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Shaped + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ExactEncoder<T>;
    type Decoder = WeighedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ExactEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        WeighedDecoder {
            large: None,
            message: PhantomData,
        }
    }
}

/// The half of [`Weighed`] that writes, into a buffer that becomes no larger than the message wants ([`crate::slim`] says why).
pub struct ExactEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ExactEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(message.encoded_len());
        message
            .encode(buf)
            .map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD_AT)
    }
}

/// The half of [`Weighed`] that reads, and keeps a large message's bytes until the next comes ([`crate::slim`] says why).
pub struct WeighedDecoder<U> {
    large: Option<Bytes>,
    message: PhantomData<U>,
}

impl<U: Message + Default + Shaped> Decoder for WeighedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Whole and in one piece already: nothing is copied.
        let bytes = buf.copy_to_bytes(buf.remaining());
        self.large = (bytes.len() > LARGE).then(|| bytes.clone());
        // INTERNAL is what gRPC prescribes for a message that cannot be parsed.
        weigh::<U>(&bytes).map_err(|unread| match unread {
            Unread::TooHeavy => {
                Status::resource_exhausted("a message of more elements than are read at once")
            }
            Unread::Group => Status::internal("a message with a group, which proto3 does not have"),
        })?;
        let message = U::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD_AT)
    }
}
