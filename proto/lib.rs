//! The wire contract between `berth-agent` and `berth-hub`, generated from `proto/berth/v1/*.proto`. It knows nothing
//! but the messages: what they mean is in the comments of the `.proto` files, how they are checked in `berth-common`.

pub mod codec;
pub mod slim;

/// Package `berth.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("berth.v1");
}

/// The encoded `FileDescriptorSet` of everything in `proto/`, for gRPC reflection and for the check against breaking
/// changes.
pub const DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/berth.v1.descriptors.bin"));
