//! Caplane's protobuf messages and gRPC services, generated from the `.proto`
//! files beside this crate.
//!
//! Three rooms: [`v1::ControlFrame`] is what a router and its peer say on QUIC
//! stream 0; `Southbound` is between router and controller; `Northbound` is
//! what orchestrators and the CLI drive. This crate holds no logic.

/// Package `caplane.v1`.
#[allow(
    missing_docs,
    reason = "generated; the .proto files carry the documentation"
)]
#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("caplane.v1");
}

/// Encoded `FileDescriptorSet` of all files, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
