//! The API of Aqueduct, generated from `proto/aqueduct/v1/*.proto`, which document it.

/// Package `aqueduct.v1`.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, clippy::restriction, missing_docs, unreachable_pub)]
    #![allow(rustdoc::all)]
    tonic::include_proto!("aqueduct.v1");
}

/// The encoded `google.protobuf.FileDescriptorSet` of the API, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/aqueduct.v1.bin"));
